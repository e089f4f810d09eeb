"""The part of MNIST that comes with the package, so that everything runs without a download.

The file holds, for each digit in turn, 1,000 training, 100 validation and 200 test images of
28 x 28 bytes, compressed with xz. There are no labels in it: they follow from the position.
``benchmarks/make_mnist_sample.py`` made it.
"""

import hashlib
import lzma
from collections.abc import Callable
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np

from poisonbench.core.errors import ArtefactError
from poisonbench.data.arrays import make_split
from poisonbench.data.splits import RawData

CLASSES = 10
PER_CLASS = {"train": 1000, "validation": 100, "test": 200}
FILE_NAME = "mnist-sample.xz"
SHA256 = "3e877ffdc330700ea39acd0f25e0ccdaa59391e946bfffd4353705135958b932"


def load(name: str, path: Path, data_root: Path) -> RawData:
    """The sample, whose validation images are fixed: 10,000, 1,000 and 2,000 images.

    Digits alternate 0, 1, ..., 9, 0, ..., so that any 10 rows in a row are balanced.

    Raises:
        ArtefactError: the embedded file is missing or is not the one that was published.
    """
    file = resources.files("poisonbench.data").joinpath("files", FILE_NAME)
    packed = file.read_bytes() if file.is_file() else b""
    digest = hashlib.sha256(packed).hexdigest()
    if digest != SHA256:
        got = f"sha256 {digest[:12]}" if packed else "no file"
        raise ArtefactError(
            f"mnist-sample: expected {FILE_NAME} in the package with sha256 {SHA256[:12]}, "
            f"got {got}; install poisonbench again"
        )
    digits = np.frombuffer(_unpacked(packed), np.uint8).reshape(CLASSES, -1, 28, 28)
    ends = np.cumsum(list(PER_CLASS.values()))
    train, validation, test = (
        make_split(
            digits[:, end - count : end].transpose(1, 0, 2, 3).reshape(-1, 28, 28),
            np.tile(np.arange(CLASSES), count),
            FILE_NAME,
        )
        for end, count in zip(ends, PER_CLASS.values(), strict=True)
    )
    return RawData(train, test, tuple(map(str, range(CLASSES))), validation)


@cache
def _unpacked(packed: bytes) -> bytes:
    """The images, once a process: this is most of the time of reading them, and they are 10 MB."""
    return lzma.decompress(packed)


def fetch(name: str, data_root: Path, say: Callable[[str], None]) -> None:
    """Say that there is nothing to do."""
    say("mnist-sample comes with the package; nothing to download")
