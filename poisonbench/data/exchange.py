"""Poisons in forms that other programs read, and read again to the same artefact.

* ``npz``: one file of numpy arrays: ``images`` (P, H, W, C) uint8, ``labels`` and ``rows`` (P,)
  int64, ``sources`` (P,) uint8, ``card``, a text.
* ``imagefolder``: ``images/CLASS/ROW.png`` with ``metadata.csv`` beside them.
* ``croissant``: ``images.zip`` and ``poisons.csv`` with their description by MLCommons' Croissant
  1.0, ``croissant.json``.

Each has the whole card, with budget, norm, target or trigger, and all labels as they are published.
The rows are those of the training split. Nothing read here is unpacked to disk or unpickled; what
does not give the digests of the sealed card is refused.
"""

import csv
import hashlib
import io
import json
import math
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from poisonbench.core.archives import Limits, checked_names, read_part, zip_bytes
from poisonbench.core.errors import ArtefactError, UsageError, one_line
from poisonbench.data import croissant
from poisonbench.data.artefacts import CARD_NAME, check_digests, checked_card
from poisonbench.data.poison import Poison
from poisonbench.data.splits import Dataset
from poisonbench.specs import PoisonCard
from poisonbench.targeting import Trigger

Exchange = Literal["npz", "imagefolder", "croissant"]

#: Tables of the images of ``imagefolder`` and ``croissant``, and what their columns hold.
TABLES = {"imagefolder": "metadata.csv", "croissant": "poisons.csv"}
COLUMNS = ("file_name", "row", "label", "class", "source")
IMAGES = "images.zip"

#: More than any data set that is read here has.
LIMITS = Limits(archive=2**32, part=2**24, total=2**33, files=2_000_000)
_MOST_TEXT = 2**28
_ARRAYS = ("card", "images", "labels", "rows", "sources")


def published_labels(poison: Poison, dataset: Dataset) -> Tensor:
    """The labels (P,) that poisons are published with: stated ones, or their images' own."""
    own = dataset.train.labels.cpu()[poison.indices]
    return own if poison.labels is None else poison.labels


def exchange_files(poison: Poison, dataset: Dataset, form: Exchange) -> Iterator[tuple[str, bytes]]:
    """The files of a poison in a form, by name; of ``npz`` the one; always the same bytes.

    Raises:
        UsageError: images that are neither grey nor RGB as pictures, or a learned trigger.
    """
    if poison.pattern is not None:
        raise UsageError(
            "POISON: expected one whose trigger its settings tell, got "
            f"{poison.card.attacks[0]}'s, which was learned; hand on its folder {poison.path}, "
            "which `--poison` takes"
        )
    labels = published_labels(poison, dataset)
    card = json.dumps(msgspec.to_builtins(poison.card), indent=1, sort_keys=True) + "\n"
    if form == "npz":
        arrays = {
            "card": np.array(card),
            "images": poison.images.permute(0, 2, 3, 1).contiguous().numpy(),
            "labels": labels.numpy(),
            "rows": poison.indices.numpy(),
            "sources": poison.sources.numpy(),
        }
        yield "poison.npz", zip_bytes((f"{n}.npy", _array_bytes(a)) for n, a in arrays.items())
        return
    if dataset.image_shape[0] not in (1, 3):
        raise UsageError(
            f"--to: expected npz for images of {dataset.image_shape[0]} channels, got {form}, "
            "whose pictures have 1 or 3"
        )
    folders = _class_folders(dataset)
    names = [f"{row:07d}.png" for row in poison.indices.tolist()]
    if form == "imagefolder":
        labelled = zip(names, labels.tolist(), strict=True)
        names = [f"images/{folders[label]}/{name}" for name, label in labelled]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    columns = (poison.indices.tolist(), labels.tolist(), poison.sources.tolist())
    for name, row, label, source in zip(names, *columns, strict=True):
        attack = poison.card.attacks[source]
        writer.writerow((name, row, label, dataset.class_names[label], attack))
    table = stream.getvalue().encode()
    pictures = ((name, _png(image)) for name, image in zip(names, poison.images, strict=True))
    yield CARD_NAME, card.encode()
    yield TABLES[form], table
    if form == "imagefolder":
        yield from pictures
        return
    images = zip_bytes(pictures)
    yield IMAGES, images
    parts = {IMAGES: images, TABLES[form]: table, CARD_NAME: card.encode()}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()}
    about = croissant.description(poison.card, IMAGES, TABLES[form], digests)
    yield "croissant.json", (json.dumps(about, indent=1) + "\n").encode()


def read_exchange_card(path: Path, form: Exchange) -> PoisonCard:
    """The card of a poison in a form; ``path`` is of ``npz`` the file, else the folder.

    Raises:
        ArtefactError: missing, damaged, unsafe or edited.
    """
    with _opened(path, form) as source:
        return checked_card(json.loads(source.card()))


def read_exchange(path: Path, form: Exchange, card: PoisonCard) -> tuple[Poison, Tensor]:
    """A poison out of a form, the artefact that was exported, and its published labels (P,).

    Nothing is read that is larger than the card says, which may be much: it is to be held against
    the data set before.

    Raises:
        ArtefactError: missing, damaged, unsafe or edited.
    """
    with _opened(path, form) as source:
        tensors = source.tensors(card)
    labels = tensors["labels"]
    is_dirty = isinstance(card.goal, Trigger) and card.goal.labels == "dirty"
    try:
        poison = Poison(
            tensors["indices"],
            tensors["images"],
            tensors["sources"],
            card,
            labels=labels if is_dirty else None,
        )
        check_digests(poison)
    except ArtefactError as error:
        raise ArtefactError(f"{path}: {error}; export the poison anew") from None
    return poison, labels


class _Source(Protocol):
    def card(self) -> bytes: ...

    def tensors(self, card: PoisonCard) -> dict[str, Tensor]: ...


@contextmanager
def _opened(path: Path, form: Exchange) -> Iterator[_Source]:
    """What is read of a form; its faults are told with the path."""
    try:
        with _reader(path, form) as source:
            yield source
    except ArtefactError as error:
        raise ArtefactError(f"{path}: {error}; export the poison anew") from None
    # Damaged files raise nearly anything.
    except Exception as error:
        raise ArtefactError(
            f"{path}: expected a poison in form {form}, as `poisonbench export` writes it, got "
            f"{one_line(error)}; export it anew"
        ) from None


@contextmanager
def _reader(path: Path, form: Exchange) -> Iterator[_Source]:
    if form == "npz":
        if not path.is_file():
            raise ArtefactError("expected a .npz file, found none")
        with zipfile.ZipFile(path) as archive:
            large = Limits(LIMITS.archive, LIMITS.total, LIMITS.total, len(_ARRAYS))
            allowed = re.compile("|".join(rf"{name}\.npy" for name in _ARRAYS))
            names = checked_names(archive, path, allowed, large)
            if len(names) < len(_ARRAYS):
                raise ArtefactError(f"expected the arrays {', '.join(_ARRAYS)}, got fewer")
            yield _Arrays(archive)
    elif not path.is_dir():
        raise ArtefactError("expected a folder, found none")
    elif form == "imagefolder":
        yield _Pictures(path, TABLES[form], None)
    else:
        file = path / IMAGES
        _plain(path, IMAGES, LIMITS.archive)
        with zipfile.ZipFile(file) as archive:
            checked_names(archive, file, re.compile(r"\d{7,}\.png"), LIMITS)
            yield _Pictures(path, TABLES[form], archive)


class _Arrays:
    """The arrays of an .npz file, each held against what the card says before it is read."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive

    def card(self) -> bytes:
        """Its text."""
        text: str = self._read("card", (), None).item()
        return text.encode()

    def tensors(self, card: PoisonCard) -> dict[str, Tensor]:
        """Images, labels, rows and sources."""
        channels, height, width = card.dataset.image_shape
        count = card.num_poisons
        images = self._read("images", (count, height, width, channels), np.uint8)
        return {
            "images": torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))),
            "labels": torch.from_numpy(self._read("labels", (count,), np.int64)),
            "indices": torch.from_numpy(self._read("rows", (count,), np.int64)),
            "sources": torch.from_numpy(self._read("sources", (count,), np.uint8)),
        }

    def _read(self, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """An array of that shape and type; a text of no more than a card where it is None."""
        with self.archive.open(f"{name}.npy") as stream:
            if np.lib.format.read_magic(stream) != (1, 0):
                raise ArtefactError(f"expected {name} in version 1.0 of numpy's format")
            got_shape, _, got = np.lib.format.read_array_header_1_0(stream)
            fits = got == dtype if dtype is not None else got.kind == "U"
            size = math.prod(got_shape) * got.itemsize
            if got_shape != shape or not fits or (dtype is None and size > _MOST_TEXT):
                raise ArtefactError(f"expected {name} of shape {shape}, got {got_shape} {got}")
        data = read_part(self.archive, f"{name}.npy", size + 2**17)
        return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)


class _Pictures:
    """A folder's pictures, which its table lists; in an archive, or in folders."""

    def __init__(self, path: Path, table: str, archive: zipfile.ZipFile | None) -> None:
        self.path, self.table, self.archive = path, table, archive

    def card(self) -> bytes:
        """Its text."""
        return _plain(self.path, CARD_NAME, LIMITS.part).read_bytes()

    def tensors(self, card: PoisonCard) -> dict[str, Tensor]:
        """Images, labels, rows and sources, in order of the rows."""
        lines = self._lines(card.num_poisons)
        lines.sort(key=lambda line: int(line["row"]))
        unknown = {line["source"] for line in lines} - {*card.attacks}
        if unknown:
            raise ArtefactError(f"expected sources among {card.attacks}, got {sorted(unknown)[0]}")
        images = torch.empty((len(lines), *card.dataset.image_shape), dtype=torch.uint8)
        for number, line in enumerate(lines):
            images[number] = self._picture(line["file_name"], card.dataset.image_shape)
        sources = [card.attacks.index(line["source"]) for line in lines]
        return {
            "images": images,
            "labels": torch.tensor([int(line["label"]) for line in lines], dtype=torch.int64),
            "indices": torch.tensor([int(line["row"]) for line in lines], dtype=torch.int64),
            "sources": torch.tensor(sources, dtype=torch.uint8),
        }

    def _lines(self, count: int) -> list[dict[str, str]]:
        """The table's lines by column, whose rows and labels are whole numbers."""
        text = _plain(self.path, self.table, _MOST_TEXT).read_text(encoding="utf-8")
        table = [fields for fields in csv.reader(io.StringIO(text)) if fields]
        if len(table) != count + 1 or set(COLUMNS) - set(table[0]):
            raise ArtefactError(
                f"expected {count} lines with {', '.join(COLUMNS)} in {self.table}, got "
                f"{max(len(table) - 1, 0)} with {', '.join(table[0])[:80] if table else 'nothing'}"
            )
        lines = []
        for number, fields in enumerate(table[1:], 2):
            if len(fields) != len(table[0]):
                raise ArtefactError(
                    f"expected {len(table[0])} fields in line {number} of {self.table}, got "
                    f"{len(fields)}"
                )
            line = dict(zip(table[0], fields, strict=True))
            if not all(re.fullmatch("[0-9]{1,18}", line[column]) for column in ("row", "label")):
                raise ArtefactError(
                    f"expected whole numbers, got row {line['row'][:40]!r} and label "
                    f"{line['label'][:40]!r} in line {number} of {self.table}"
                )
            lines.append(line)
        return lines

    def _picture(self, name: str, shape: tuple[int, int, int]) -> Tensor:
        if self.archive is not None:
            if name not in self.archive.NameToInfo:
                raise ArtefactError(f"expected {name} in {IMAGES}, got none")
            data = read_part(self.archive, name, LIMITS.part)
        else:
            data = _plain(self.path, name, LIMITS.part).read_bytes()
        channels, height, width = shape
        mode = "L" if channels == 1 else "RGB"
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            # Before its pixels are made: a few bytes may stand for a huge picture.
            if picture.size != (width, height) or picture.mode != mode:
                raise ArtefactError(
                    f"expected {name} of {width} x {height} in mode {mode}, got {picture.size} "
                    f"{picture.mode}"
                )
            pixels = np.array(picture)
        return torch.from_numpy(np.atleast_3d(pixels)).permute(2, 0, 1)


def _plain(folder: Path, name: str, most: int) -> Path:
    """A file inside a folder, of at most so many bytes, however its name is written.

    Raises:
        ArtefactError: none, a link, a larger one, or a name that leads out of the folder.
    """
    path = folder / name
    if ".." in Path(name).parts or not path.resolve().is_relative_to(folder.resolve()):
        raise ArtefactError(f"expected files inside the folder, got {name!r}, which leads out")
    if path.is_symlink() or not path.is_file():
        raise ArtefactError(f"expected the file {name}, got none or a link")
    if path.stat().st_size > most:
        raise ArtefactError(f"expected at most {most:,} bytes of {name}, got more")
    return path


def _class_folders(dataset: Dataset) -> list[str]:
    """A folder's name for each class, in the order of the labels, of safe characters alone."""
    digits = len(str(dataset.num_classes - 1))
    return [
        f"{label:0{digits}d}-" + re.sub(r"[^A-Za-z0-9_.-]+", "_", name)[:60]
        for label, name in enumerate(dataset.class_names)
    ]


def _png(image: Tensor) -> bytes:
    """A picture (C, H, W) uint8 of 1 or 3 channels."""
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(stream, "PNG")
    return stream.getvalue()


def _array_bytes(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=(1, 0), allow_pickle=False)
    return stream.getvalue()
