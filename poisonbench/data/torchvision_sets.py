"""Data sets of torchvision, as torchvision:NAME: how their train and test splits are made.

Only classification sets of the table below are read, out of the data root in torchvision's layout.
The table says with which arguments torchvision gives each split; of a set that torchvision does not
divide, a fifth of each class, drawn once and for all, is the test split.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from poisonbench.core.errors import ArtefactError, UsageError, one_line
from poisonbench.core.settings import did_you_mean
from poisonbench.data.pictures import Picture, Size, decode, numbered
from poisonbench.data.splits import RawData, hold_out_fifth

Arguments = Mapping[str, Any]

_BY_FLAG: tuple[Arguments, ...] = ({"train": True}, {"train": False})
_BY_SPLIT: tuple[Arguments, ...] = ({"split": "train"}, {"split": "test"})
_WITH_VALIDATION: tuple[Arguments, ...] = ({"split": "trainval"}, {"split": "test"})
_TESTED_BY_VALIDATION: tuple[Arguments, ...] = ({"split": "train"}, {"split": "val"})
_UNDIVIDED: tuple[Arguments, ...] = ({},)

#: By class of torchvision.datasets, the arguments of its parts: train and test, or all in one.
PARTS: Mapping[str, tuple[Arguments, ...]] = {
    **dict.fromkeys(
        ("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST", "QMNIST", "USPS"), _BY_FLAG
    ),
    "EMNIST": tuple({"split": "balanced", **flag} for flag in _BY_FLAG),
    **dict.fromkeys(
        (
            *("Country211", "DTD", "FER2013", "Flowers102", "Food101", "GTSRB", "PCAM"),
            *("RenderedSST2", "STL10", "StanfordCars", "SVHN"),
        ),
        _BY_SPLIT,
    ),
    **dict.fromkeys(("FGVCAircraft", "OxfordIIITPet"), _WITH_VALIDATION),
    **dict.fromkeys(("CLEVRClassification", "Imagenette"), _TESTED_BY_VALIDATION),
    **dict.fromkeys(
        ("Caltech101", "Caltech256", "EuroSAT", "Omniglot", "SEMEION", "SUN397"), _UNDIVIDED
    ),
}


def load(name: str, path: Path, data_root: Path, size: Size | None = None) -> RawData:
    """Train and test splits of the data set that ``path`` names.

    Raises:
        UsageError: it is not in the table.
        ArtefactError: torchvision does not have its files in the data root, or they are damaged.
    """
    full_name = f"{name}:{path}"
    source, parts = _source(str(path))
    try:
        sets = [_opened(source, data_root, arguments, download=False) for arguments in parts]
    # Damaged files raise nearly anything.
    except Exception as error:
        raise ArtefactError(
            f"{full_name}: expected torchvision's files of it in {data_root}, got: "
            f"{one_line(error)}; run `poisonbench data fetch {full_name} --data-root {data_root}`, "
            f"or put them there as torchvision.datasets.{path} describes"
        ) from None
    pictures = [
        _pictures(one, f"{full_name}, {_shown(part)}")
        for one, part in zip(sets, parts, strict=True)
    ]
    train, *rest = decode(pictures, full_name, size)
    train, test = (train, rest[0]) if rest else hold_out_fifth(train, full_name)
    return numbered(full_name, train, test, getattr(sets[0], "classes", None))


def fetch(name: str, data_root: Path, say: Callable[[str], None]) -> None:
    """Have torchvision download what ``torchvision:NAME`` lacks.

    Raises:
        UsageError: it is not in the table.
        ArtefactError: no network, the server sent something else, or torchvision does not download
            it.
    """
    source, parts = _source(name.partition(":")[2])
    say(f"torchvision downloads {source.__name__} to {data_root}, unless it is there")
    try:
        data_root.mkdir(parents=True, exist_ok=True)
        for arguments in parts:
            _opened(source, data_root, arguments, download=True)
    except Exception as error:
        raise ArtefactError(
            f"{name}: expected torchvision to download it, got: {one_line(error)}; try again, or "
            f"put its files in {data_root} as torchvision.datasets.{source.__name__} describes"
        ) from None


def _source(name: str) -> tuple[type[Any], tuple[Arguments, ...]]:
    import torchvision.datasets

    if name not in PARTS:
        raise UsageError(
            f"expected a data set among torchvision:{', '.join(sorted(PARTS))}, got {name!r}"
            f"{did_you_mean(name, PARTS)}; others can be made a folder or an .npz file"
        )
    source: type[Any] = getattr(torchvision.datasets, name)
    return source, PARTS[name]


def _opened(source: type[Any], data_root: Path, arguments: Arguments, *, download: bool) -> Any:
    takes_download = "download" in inspect.signature(source).parameters or "kwargs" in str(
        inspect.signature(source)
    )
    if download and not takes_download:
        raise ValueError("torchvision reads it, but does not download it")
    return source(data_root, **arguments, **({"download": download} if takes_download else {}))


def _shown(arguments: Arguments) -> str:
    return ", ".join(f"{key}={value}" for key, value in arguments.items()) or "all"


def _pictures(images: Any, where: str) -> list[Picture]:
    return [
        Picture(f"{where}, image {row}", partial(_item, images, row)) for row in range(len(images))
    ]


def _item(images: Any, row: int) -> tuple[Image.Image, int]:
    image, label = images[row]
    if not isinstance(label, int | float) or int(label) != label:
        raise ValueError(f"a label {label!r}, which is no class")
    return image, int(label)
