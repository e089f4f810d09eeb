"""Pictures, of files or of other libraries, as splits of images of one size.

Colour  all images are grey if every picture is, else RGB; transparency and EXIF orientation are
        ignored. Images that are arrays have the channels that they come with
Size    without a size, all pictures must have the same; with one, the largest part of that shape is
        cut from each picture's middle and scaled to it (Pillow's ``ImageOps.fit``, bicubic)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from poisonbench.core.errors import ArtefactError, one_line
from poisonbench.data.splits import RawData, Split

#: Width and height.
Size = tuple[int, int]

#: Pillow's modes of pictures without colour, of one bit or of eight, transparent or not.
_GREY_MODES = ("1", "L", "LA")


@dataclass(frozen=True)
class Picture:
    """One labelled picture: its name in errors, and what reads the image and the label."""

    where: str
    read: Callable[[], tuple[Image.Image, int]]


def picture_of_file(path: Path, label: int) -> Picture:
    """The picture in a file."""

    def read() -> tuple[Image.Image, int]:
        with Image.open(path) as image:
            image.load()
            return image, label

    return Picture(str(path), read)


def decode(parts: Sequence[Sequence[Picture]], name: str, size: Size | None) -> list[Split]:
    """A split of each part's pictures; colour and size are those of all parts together.

    Args:
        parts: each part's pictures.
        name: of the data set as the user writes it, for errors.
        size: what pictures are cut and scaled to; they must all have one size without it.

    Raises:
        ArtefactError: a picture cannot be read as an image of 8 bits a channel, they differ in
            size, or a part has none.
    """
    if not all(parts):
        raise ArtefactError(
            f"{name}: expected images in each split, got none in one of them; add some"
        )
    first = ""
    is_grey = True
    decoded: list[tuple[NDArray[np.uint8], NDArray[np.int64]]] = []
    for part in parts:
        labels = np.empty(len(part), np.int64)
        for row, picture in enumerate(part):
            pixels, labels[row] = _read(picture, size)
            sides = pixels.shape[:2]
            if not first:
                first, common = picture.where, sides
            if sides != common:
                raise ArtefactError(
                    f"{name}: expected images of one size, got {common[1]}x{common[0]} in {first} "
                    f"and {sides[1]}x{sides[0]} in {picture.where}; resize them first, or write "
                    f"{name}@32x32 to have all cut and scaled to 32 x 32"
                )
            if row == 0:
                images = np.empty((len(part), 3, *sides), np.uint8)
            images[row] = pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
            is_grey = is_grey and pixels.ndim == 2
        decoded.append((images, labels))
    return [
        Split(
            torch.from_numpy(np.ascontiguousarray(images[:, :1]) if is_grey else images),
            torch.from_numpy(labels),
        )
        for images, labels in decoded
    ]


def scaled(raw: RawData, size: Size) -> RawData:
    """A data set with all its images cut and scaled to a size."""
    splits = [raw.train, raw.test, *([raw.validation] if raw.validation is not None else [])]
    train, test, *validation = (
        Split(torch.from_numpy(_fitted_channels(split.images.numpy(), size)), split.labels)
        for split in splits
    )
    return RawData(train, test, raw.class_names, validation[0] if validation else None)


def unknown_class(name: str, got: str) -> ArtefactError:
    """What to raise where a data set's test images are of a class that train lacks."""
    return ArtefactError(
        f"{name}: expected test images of the classes of train, got {got}, which no training "
        "image has; add training images of it or leave these out"
    )


def numbered(name: str, train: Split, test: Split, names: Sequence[str] | None = None) -> RawData:
    """A data set whose labels are numbered from 0 in the order of the training images' own.

    Args:
        name: for errors.
        train: its labels are the classes.
        test: its labels must be among them.
        names: of the labels 0, 1, ...; by default the labels themselves.

    Raises:
        ArtefactError: a test label that no training image has, or one without a name.
    """
    present = torch.unique(train.labels)
    unknown = test.labels[~torch.isin(test.labels, present)]
    if len(unknown):
        label = int(unknown[0])
        got = f"label {label}"
        if names is not None and 0 <= label < len(names):
            got = f"class {names[label]!r}"
        raise unknown_class(name, got)
    values = present.tolist()
    if names is not None and not 0 <= values[0] <= values[-1] < len(names):
        raise ArtefactError(
            f"{name}: expected labels in 0..{len(names) - 1}, got {values[0]} to {values[-1]}; "
            "leave images without a label out"
        )
    splits = [
        Split(split.images, torch.searchsorted(present, split.labels)) for split in (train, test)
    ]
    class_names = tuple(str(value) if names is None else names[value] for value in values)
    return RawData(splits[0], splits[1], class_names)


def _fitted_channels(images: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Images (N, C, H, W) at a size, each channel by itself: Pillow has no pictures of any C."""
    fitted = np.empty((*images.shape[:2], size[1], size[0]), np.uint8)
    for position in np.ndindex(*images.shape[:2]):
        fitted[position] = _fitted(Image.fromarray(images[position]), size)
    return fitted


def _fitted(image: Image.Image, size: Size) -> Image.Image:
    return image if image.size == size else ImageOps.fit(image, size, Image.Resampling.BICUBIC)


def _read(picture: Picture, size: Size | None) -> tuple[NDArray[np.uint8], int]:
    """Pixels (H, W) of a grey picture, (H, W, 3) of another, and the label."""
    try:
        image, label = picture.read()
        if image.mode.startswith(("I", "F")):
            raise ArtefactError(
                f"{picture.where}: expected an image of 8 bits a channel, got Pillow mode "
                f"{image.mode}; convert it to 8 bits"
            )
        # Either drops transparency, and leaves the colours beneath.
        image = image.convert("L" if image.mode in _GREY_MODES else "RGB")
        return np.asarray(image if size is None else _fitted(image, size)), label
    except (ArtefactError, MemoryError):
        raise
    # Damaged pictures raise nearly anything.
    except Exception as error:
        raise ArtefactError(
            f"{picture.where}: expected a readable image, got: {one_line(error)}; replace or "
            "delete the file"
        ) from None
