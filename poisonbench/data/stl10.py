"""STL-10: photographs of 96 x 96 in ten classes; its unlabelled images are not read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from poisonbench.core.errors import ArtefactError
from poisonbench.data import fetching
from poisonbench.data.arrays import make_split
from poisonbench.data.fetching import Published
from poisonbench.data.splits import RawData, Split

FOLDER = "stl10_binary"
SIDE = 96
FILES = Published(
    "stl10",
    tuple(
        f"{FOLDER}/{file}"
        for file in ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin", "class_names.txt")
    ),
    f"the folder {FOLDER} of http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
)


def load(name: str, path: Path, data_root: Path) -> RawData:
    """Read the original train and test splits.

    Raises:
        ArtefactError: files are missing or damaged; the message names them and the remedy.
    """
    FILES.check(data_root)
    folder = data_root / FOLDER
    class_names = (folder / "class_names.txt").read_text("utf-8", "replace").split()
    if len(set(class_names)) != 10:
        raise ArtefactError(
            f"{folder / 'class_names.txt'}: expected 10 names, got {len(set(class_names))}; delete "
            "the folder and fetch it again"
        )
    train, test = (_read(folder, part) for part in ("train", "test"))
    return RawData(train, test, tuple(class_names))


def fetch(name: str, data_root: Path, say: Callable[[str], None]) -> None:
    """Download the archive, 2.6 GB, unless the files are there; what is not read is not kept."""
    from torchvision.datasets import STL10

    fetching.fetch(
        FILES, data_root, say, lambda arrived: STL10(arrived, split="train", download=True)
    )


def _read(folder: Path, part: str) -> Split:
    pixels = np.fromfile(folder / f"{part}_X.bin", np.uint8)
    labels = np.fromfile(folder / f"{part}_y.bin", np.uint8)
    if len(labels) == 0 or len(pixels) != len(labels) * 3 * SIDE * SIDE:
        raise ArtefactError(
            f"{folder / f'{part}_X.bin'}: expected {3 * SIDE * SIDE:,} bytes for each label of "
            f"{part}_y.bin, got {len(pixels):,} for {len(labels):,}; delete the folder and fetch "
            "it again"
        )
    if not 1 <= labels.min() <= labels.max() <= 10:
        raise ArtefactError(
            f"{folder / f'{part}_y.bin'}: expected labels in 1..10, got {labels.min()} to "
            f"{labels.max()}; delete the folder and fetch it again"
        )
    # Each channel is stored column by column.
    images = pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 3, 2, 1)
    return make_split(images, labels.astype(np.int64) - 1, str(folder / f"{part}_X.bin"))
