"""The user's own images: ``train/CLASS/*.png`` and ``test/CLASS/*.png``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from poisonbench.core.errors import ArtefactError
from poisonbench.data.arrays import make_split
from poisonbench.data.splits import RawData, Split

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")

#: What Pillow raises for files that are not images, or are cut short.
BROKEN = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


@dataclass(frozen=True)
class _Header:
    path: Path
    label: int
    size: tuple[int, int]
    mode: str


def load(name: str, path: Path, data_root: Path) -> RawData:
    """Train and test splits of a folder, and its class names.

    Classes are the sorted folder names of ``train``; images come in order of class, then of file
    name. All images are grey if every file is, else RGB; transparency and EXIF orientation are
    ignored. Hidden folders and files of other types are skipped.

    Raises:
        ArtefactError: a folder is missing or empty, a test class is unknown in train, images
            differ in size, or a file cannot be read as an 8-bit image.
    """
    class_names = tuple(folder.name for folder in _folders(path / "train"))
    train = _headers(path / "train", class_names)
    test = _headers(path / "test", class_names)
    _check_sizes([*train, *test])
    mode = "L" if all(header.mode in ("1", "L") for header in [*train, *test]) else "RGB"
    return RawData(_decode(train, mode), _decode(test, mode), class_names)


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


def _headers(part: Path, class_names: tuple[str, ...]) -> list[_Header]:
    headers = []
    for folder in _folders(part):
        if folder.name not in class_names:
            raise ArtefactError(
                f"{folder}: expected a class of train ({', '.join(class_names)}), got "
                f"{folder.name!r}; rename the folder or add that class to train"
            )
        label = class_names.index(folder.name)
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
        if not files:
            raise ArtefactError(
                f"{folder}: expected images ({', '.join(SUFFIXES)}), got none; "
                "add images or delete the folder"
            )
        headers += [_header(path, label) for path in files]
    return headers


def _header(path: Path, label: int) -> _Header:
    try:
        with Image.open(path) as image:
            header = _Header(path, label, image.size, image.mode)
    except BROKEN as error:
        raise _broken(path, error) from None
    if header.mode.startswith(("I", "F")):
        raise ArtefactError(
            f"{path}: expected an image of 8 bits a channel, got Pillow mode {header.mode}; "
            "convert it to 8 bits"
        )
    return header


def _check_sizes(headers: list[_Header]) -> None:
    first = headers[0]
    for header in headers:
        if header.size != first.size:
            raise ArtefactError(
                f"expected images of one size, got {_size(first)} in {first.path} and "
                f"{_size(header)} in {header.path}; resize them first"
            )


def _decode(headers: list[_Header], mode: str) -> Split:
    width, height = headers[0].size
    shape = (len(headers), height, width) if mode == "L" else (len(headers), height, width, 3)
    images: NDArray[np.uint8] = np.empty(shape, np.uint8)
    for row, header in enumerate(headers):
        try:
            with Image.open(header.path) as image:
                images[row] = np.asarray(image.convert(mode))
        except BROKEN as error:
            raise _broken(header.path, error) from None
    labels = np.array([header.label for header in headers])
    return make_split(images, labels, str(headers[0].path.parents[1]))


def _broken(path: Path, error: BaseException) -> ArtefactError:
    return ArtefactError(
        f"{path}: expected a readable image, got: {error}; replace or delete the file"
    )


def _size(header: _Header) -> str:
    return f"{header.size[0]}x{header.size[1]}"
