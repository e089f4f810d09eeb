"""CIFAR-100: its binary version, or the Python version's files as torchvision leaves them.

A record of the binary version is the coarse label, the fine label and 3 x 32 x 32 bytes. The Python
version is a pickle, of which only plain data are read (:mod:`poisonbench.data.pickles`). The
classes are the 100 fine ones.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from poisonbench.core.errors import ArtefactError
from poisonbench.data import fetching
from poisonbench.data.arrays import make_split
from poisonbench.data.fetching import Published
from poisonbench.data.pickles import array_of, read_pickle
from poisonbench.data.splits import RawData, Split

FOLDER = "cifar-100-binary"
URL = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
MD5 = "03b5dce01913d631647c71ecec9e9cb8"
RECORD_BYTES = 2 + 3 * 32 * 32

BINARY = Published(
    "cifar100",
    tuple(f"{FOLDER}/{file}" for file in ("train.bin", "test.bin", "fine_label_names.txt")),
    f"the folder of {URL} or of cifar-100-python.tar.gz",
)
PYTHON = Published(
    "cifar100", tuple(f"cifar-100-python/{file}" for file in ("train", "test", "meta")), ""
)


def load(name: str, path: Path, data_root: Path) -> RawData:
    """Read the original train and test splits.

    Raises:
        ArtefactError: files are missing or damaged; the message names them and the remedy.
    """
    if not BINARY.missing(data_root) or PYTHON.missing(data_root):
        BINARY.check(data_root)
        folder = data_root / FOLDER
        names = (folder / "fine_label_names.txt").read_text("utf-8", "replace").split()
        splits = [_read_binary(folder / f"{part}.bin") for part in ("train", "test")]
    else:
        folder = data_root / "cifar-100-python"
        splits = [_read_python(folder / part) for part in ("train", "test")]
        meta = read_pickle(folder / "meta")
        names = list(meta.get("fine_label_names", ())) if isinstance(meta, dict) else []
    if len(set(names)) != 100 or any(int(split.labels.max()) > 99 for split in splits):
        raise ArtefactError(
            f"{folder}: expected 100 class names and labels in 0..99, got {len(set(names))} names "
            f"and labels up to {max(int(split.labels.max()) for split in splits)}; delete the "
            "folder and fetch it again"
        )
    return RawData(splits[0], splits[1], tuple(map(str, names)))


def fetch(name: str, data_root: Path, say: Callable[[str], None]) -> None:
    """Download the binary version unless either version is there."""
    from torchvision.datasets.utils import download_and_extract_archive

    if not PYTHON.missing(data_root):
        say(f"cifar100 is in {data_root} already; nothing to download")
        return
    fetching.fetch(
        BINARY,
        data_root,
        say,
        lambda arrived: download_and_extract_archive(URL, arrived, md5=MD5),
    )


def _read_binary(path: Path) -> Split:
    records = np.fromfile(path, np.uint8)
    if len(records) == 0 or len(records) % RECORD_BYTES:
        raise ArtefactError(
            f"{path}: expected records of {RECORD_BYTES:,} bytes, got {len(records):,} bytes; "
            "delete it and fetch it again"
        )
    records = records.reshape(-1, RECORD_BYTES)
    images = records[:, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return make_split(images, records[:, 1], str(path))


def _read_python(path: Path) -> Split:
    batch = read_pickle(path)
    if not isinstance(batch, dict) or not {"data", "fine_labels"} <= batch.keys():
        raise ArtefactError(
            f"{path}: expected CIFAR-100's batch with data and fine_labels, got another file; "
            "delete its folder and run `poisonbench data fetch cifar100`"
        )
    pixels = array_of(batch["data"], f"{path}, data")
    if pixels.ndim != 2 or pixels.shape[1] != 3 * 32 * 32:
        raise ArtefactError(
            f"{path}: expected images of 3072 bytes, got an array of shape {pixels.shape}; delete "
            "its folder and run `poisonbench data fetch cifar100`"
        )
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return make_split(images, array_of(batch["fine_labels"], f"{path}, fine_labels"), str(path))
