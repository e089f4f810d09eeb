"""SVHN: house numbers, as cropped digits of 32 x 32; the file of extra images is not read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from poisonbench.core.errors import ArtefactError, one_line
from poisonbench.data import fetching
from poisonbench.data.arrays import make_split
from poisonbench.data.fetching import Published
from poisonbench.data.splits import RawData, Split

FILES = Published(
    "svhn",
    ("train_32x32.mat", "test_32x32.mat"),
    "these files of http://ufldl.stanford.edu/housenumbers/",
)


def load(name: str, path: Path, data_root: Path) -> RawData:
    """Read the original train and test splits; the class of a digit is the digit.

    Raises:
        ArtefactError: files are missing or damaged; the message names them and the remedy.
    """
    FILES.check(data_root)
    train, test = (_read(data_root / file) for file in FILES.paths)
    return RawData(train, test, tuple("0123456789"))


def fetch(name: str, data_root: Path, say: Callable[[str], None]) -> None:
    """Download both files unless they are there."""
    from torchvision.datasets import SVHN

    def download(arrived: str) -> None:
        for part in ("train", "test"):
            SVHN(arrived, split=part, download=True)

    fetching.fetch(FILES, data_root, say, download)


def _read(path: Path) -> Split:
    from scipy.io import loadmat

    try:
        arrays = loadmat(path, variable_names=["X", "y"])
        images, labels = arrays["X"], arrays["y"]
    # Damaged files raise nearly anything.
    except Exception as error:
        raise ArtefactError(
            f"{path}: expected a MATLAB file with the arrays X and y, got {one_line(error)}; "
            "delete it and fetch it again"
        ) from None
    fits = isinstance(images, np.ndarray) and images.ndim == 4 and images.shape[:3] == (32, 32, 3)
    fits = fits and isinstance(labels, np.ndarray) and labels.dtype.kind in "iuf"
    fits = fits and labels.size > 0 and 1 <= labels.min() <= labels.max() <= 10
    if not fits:
        raise ArtefactError(
            f"{path}: expected X of shape (32, 32, 3, N) and y of 1..10, got X of shape "
            f"{getattr(images, 'shape', None)}; delete it and fetch it again"
        )
    # The file calls the digit 0 10.
    return make_split(images.transpose(3, 0, 1, 2), labels.astype(np.int64) % 10, str(path))
