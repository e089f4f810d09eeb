"""MNIST, Fashion-MNIST and CIFAR-10: where their files are, how they are read and fetched.

The layout is torchvision's, so folders that it has filled serve as they are. torchvision does the
downloads and checks their MD5 sums; it also reads CIFAR-10's batches, which are pickles, and does
so only after their MD5 sums have matched.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from poisonbench.core.errors import ArtefactError
from poisonbench.data.arrays import make_split, read_idx, read_npz
from poisonbench.data.fetching import Published, arrive
from poisonbench.data.splits import RawData, Split

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
CIFAR_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
CIFAR_NPZ = "cifar10.npz"


@dataclass(frozen=True)
class Standard:
    """One of the data sets; mean and std per channel, in [0, 1] units, are null for grey images.

    Its files' folder is relative to the data root.
    """

    name: str
    torchvision_class: str
    folder: str
    files: tuple[str, ...]
    class_names: tuple[str, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


_GARMENTS = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
_THINGS = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck"
STANDARD = {
    standard.name: standard
    for standard in (
        Standard("mnist", "MNIST", "MNIST/raw", IDX_FILES, tuple("0123456789")),
        Standard(
            "fashion-mnist",
            "FashionMNIST",
            "FashionMNIST/raw",
            IDX_FILES,
            tuple(_GARMENTS.split(",")),
        ),
        Standard(
            "cifar10",
            "CIFAR10",
            "cifar-10-batches-py",
            CIFAR_FILES,
            tuple(_THINGS.split(",")),
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2023, 0.1994, 0.2010),
        ),
    )
}


def is_present(standard: Standard, data_root: Path) -> bool:
    """Whether all files are there; an IDX file may be packed (``.gz``)."""
    if standard.name == "cifar10" and (data_root / CIFAR_NPZ).is_file():
        return True
    suffixes = ("", ".gz") if standard.files == IDX_FILES else ("",)
    paths = [data_root / standard.folder / file for file in standard.files]
    return all(any(Path(f"{path}{end}").is_file() for end in suffixes) for path in paths)


def where(standard: Standard, data_root: Path) -> str:
    """Name the files that are looked for, in words."""
    files = f"{', '.join(standard.files)} in {data_root / standard.folder}"
    if standard.files == IDX_FILES:
        return f"{files} (or the same with .gz)"
    return f"{files}, or {data_root / CIFAR_NPZ} with x_train, y_train, x_test, y_test"


def load(name: str, path: Path, data_root: Path) -> RawData:
    """Read the original train and test splits of the data set of that name.

    Raises:
        ArtefactError: files are missing or damaged; the message names them and the remedy.
    """
    standard = STANDARD[name]
    if not is_present(standard, data_root):
        raise ArtefactError(
            f"{standard.name}: expected {where(standard, data_root)}, found not all of them; run "
            f"`poisonbench data fetch {standard.name} --data-root {data_root}`, copy the files "
            "there, or name their folder by --data-root or POISONBENCH_DATA"
        )
    read = _read_cifar if name == "cifar10" else _read_idx
    train, test = read(data_root / standard.folder, data_root)
    return RawData(train, test, standard.class_names, mean=standard.mean, std=standard.std)


def _read_idx(folder: Path, data_root: Path) -> list[Split]:
    images, labels, test_images, test_labels = (
        read_idx(folder / file, 1 if "labels" in file else 3) for file in IDX_FILES
    )
    return [
        make_split(images, labels, f"{folder / 'train-*'}"),
        make_split(test_images, test_labels, f"{folder / 't10k-*'}"),
    ]


def _read_cifar(folder: Path, data_root: Path) -> list[Split]:
    path = data_root / CIFAR_NPZ
    if path.is_file():
        splits = read_npz(path)
        for split in splits:
            if split.images.shape[1:] != (3, 32, 32):
                raise ArtefactError(
                    f"{path}: expected images of shape (N, 32, 32, 3), got (channels, height, "
                    f"width) {tuple(split.images.shape[1:])}; for other images use npz:{path}"
                )
        return splits
    from torchvision.datasets import CIFAR10

    try:
        parts = [CIFAR10(data_root, train=train) for train in (True, False)]
    except RuntimeError:
        raise ArtefactError(
            f"{folder}: expected CIFAR-10's files with their published MD5 sums, got others; "
            "delete the folder and run "
            f"`poisonbench data fetch cifar10 --data-root {data_root}`"
        ) from None
    return [make_split(part.data, np.array(part.targets), str(folder)) for part in parts]


def fetch(name: str, data_root: Path, say: Callable[[str], None]) -> None:
    """Download a data set's files, with a progress bar on stderr, unless they are there.

    They arrive in a temporary folder of the data root, are checked there, and are then renamed
    one by one: a download killed at any time leaves no file that is later read.

    Raises:
        ArtefactError: no network, or the server sent something else.
        StoreError: the data root cannot be written.
    """
    standard = STANDARD[name]
    if is_present(standard, data_root):
        say(f"{standard.name} is in {data_root} already; nothing to download")
        return
    import torchvision.datasets

    source = getattr(torchvision.datasets, standard.torchvision_class)
    paths = [f"{standard.folder}/{file}" for file in standard.files]
    arrive(
        Published(standard.name, tuple(paths), where(standard, data_root)),
        data_root,
        say,
        lambda arrived: source(arrived, train=False, download=True),
    )
