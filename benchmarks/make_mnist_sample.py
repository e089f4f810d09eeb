"""Make ``poisonbench/data/files/mnist-sample.xz``, the embedded part of MNIST.

Draws, for each digit, 1,000 training and 100 validation images without replacement from MNIST's
train set and 200 from its test set, with fixed seeds, keeps them in their original order, and
writes them digit by digit (images alone, labels follow from the position) as one xz stream. The
same input and the same liblzma give the same bytes.

    python benchmarks/make_mnist_sample.py DATA_ROOT OUTPUT

DATA_ROOT holds MNIST/raw/*-ubyte. Prints the size and the sha256, which
``poisonbench/data/sample.py`` checks at each load.
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
from pathlib import Path

import numpy as np
import torch

from poisonbench.core.seeds import generator_for
from poisonbench.data.arrays import read_idx
from poisonbench.data.sample import CLASSES, PER_CLASS


def draw(labels: np.ndarray, digit: int, part: str, sizes: list[int]) -> list[np.ndarray]:
    """Disjoint, increasing row indices of one digit, one array a size."""
    members = np.flatnonzero(labels == digit)
    order = torch.randperm(len(members), generator=generator_for(0, "mnist-sample", part, digit))
    drawn = members[order[: sum(sizes)].numpy()]
    return [np.sort(rows) for rows in np.split(drawn, np.cumsum(sizes)[:-1])]


def make(data_root: Path) -> bytes:
    """The file's bytes."""
    raw = data_root / "MNIST" / "raw"
    train_images = read_idx(raw / "train-images-idx3-ubyte", 3)
    train_labels = read_idx(raw / "train-labels-idx1-ubyte", 1)
    test_images = read_idx(raw / "t10k-images-idx3-ubyte", 3)
    test_labels = read_idx(raw / "t10k-labels-idx1-ubyte", 1)
    blocks = []
    for digit in range(CLASSES):
        held = [PER_CLASS["train"], PER_CLASS["validation"]]
        train, validation = draw(train_labels, digit, "train", held)
        (test,) = draw(test_labels, digit, "test", [PER_CLASS["test"]])
        blocks += [train_images[train], train_images[validation], test_images[test]]
    images = np.concatenate(blocks)
    return lzma.compress(images.tobytes(), preset=9 | lzma.PRESET_EXTREME)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data_root", type=Path, help="folder with MNIST/raw")
    parser.add_argument("output", type=Path, help="the file to write")
    arguments = parser.parse_args()
    data = make(arguments.data_root)
    arguments.output.write_bytes(data)
    print(f"{arguments.output}: {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
