"""The user's own images: ``train/CLASS/*.png`` and ``test/CLASS/*.png``."""

import os
from pathlib import Path

from poisonbench.core.errors import ArtefactError
from poisonbench.data.pictures import Picture, Size, decode, picture_of_file
from poisonbench.data.splits import RawData

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def load(name: str, path: Path, data_root: Path, size: Size | None = None) -> RawData:
    """Train and test splits of a folder, and its class names.

    Classes are the sorted folder names of ``train``; images come in order of class, then of file
    name; hidden folders and files of other types are skipped. Colour and size are as in
    :mod:`poisonbench.data.pictures`.

    Raises:
        ArtefactError: a folder is missing or empty, a test class is unknown in train, images
            differ in size without one being given, or a file cannot be read as an 8-bit image.
    """
    class_names = tuple(folder.name for folder in _folders(path / "train"))
    parts = [_pictures(path / part, class_names) for part in ("train", "test")]
    train, test = decode(parts, f"{name}:{path}", size)
    return RawData(train, test, tuple(map(_readable, class_names)))


def _readable(name: str) -> str:
    """A folder's name without the bytes that are no UTF-8, which no page could show."""
    return os.fsencode(name).decode("utf-8", "replace")


def _folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        raise ArtefactError(
            f"expected a folder {parent} with one folder of images a class, found none; "
            "make train/CLASS/ and test/CLASS/ and check the path"
        )
    folders = sorted(p for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise ArtefactError(
            f"{parent}: expected one folder of images a class, got an empty folder; "
            f"make {parent / 'CLASS'} and put images there"
        )
    return folders


def _pictures(part: Path, class_names: tuple[str, ...]) -> list[Picture]:
    pictures = []
    for folder in _folders(part):
        if folder.name not in class_names:
            raise ArtefactError(
                f"{folder}: expected a class of train ({', '.join(class_names)}), got "
                f"{folder.name!r}; rename the folder or add that class to train"
            )
        paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
        if not paths:
            raise ArtefactError(
                f"{folder}: expected images ({', '.join(SUFFIXES)}), got none; "
                "add images or delete the folder"
            )
        label = class_names.index(folder.name)
        pictures += [picture_of_file(path, label) for path in paths]
    return pictures
