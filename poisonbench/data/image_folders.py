"""The user's own images: ``train/CLASS/*.png`` and ``test/CLASS/*.png``."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from poisonbench.core.errors import ArtefactError
from poisonbench.data.arrays import make_split
from poisonbench.data.splits import RawData, Split

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")

#: What Pillow raises for files that are not images, or are cut short.
BROKEN = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


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
    parts = [_files(path / part, class_names) for part in ("train", "test")]
    sizes: dict[tuple[int, int], Path] = {}
    modes = set()
    for file, _ in parts[0] + parts[1]:
        with _opened(file) as image:
            if image.mode.startswith(("I", "F")):
                raise ArtefactError(
                    f"{file}: expected an image of 8 bits a channel, got Pillow mode {image.mode}; "
                    "convert it to 8 bits"
                )
            sizes.setdefault(image.size, file)
            modes.add(image.mode)
    if len(sizes) > 1:
        first, other = (f"{size[0]}x{size[1]} in {file}" for size, file in list(sizes.items())[:2])
        text = f"expected images of one size, got {first} and {other}; resize them first"
        raise ArtefactError(text)
    mode = "L" if modes <= {"1", "L"} else "RGB"
    train, test = (_decode(files, mode) for files in parts)
    return RawData(train, test, class_names)


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


def _files(part: Path, class_names: tuple[str, ...]) -> list[tuple[Path, int]]:
    """Each image file with its label."""
    files = []
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
        files += [(path, class_names.index(folder.name)) for path in paths]
    return files


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except BROKEN as error:
        raise ArtefactError(
            f"{path}: expected a readable image, got: {error}; replace or delete the file"
        ) from None


def _decode(files: list[tuple[Path, int]], mode: str) -> Split:
    pictures = []
    for path, _ in files:
        with _opened(path) as image:
            pictures.append(np.asarray(image.convert(mode)))
    labels = np.array([label for _, label in files])
    return make_split(np.stack(pictures), labels, str(files[0][0].parents[1]))
