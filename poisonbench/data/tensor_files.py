"""Poisons as a plain tensor file (``.pt``): a whole training set's images and labels.

HINT's authors kept their untargeted mixes so: a dict of images in [0, 1], among them those that are
clean, and labels. A tuple, a list and a TensorDataset of the two are read as well.

The file's pickle is read as data, like every pickle (:mod:`.notes`), and tensors are made of the
file's own bytes: none is larger than they are.

A file does not say which of its images are poisons, nor in which order they stand; the images do.
"""

import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from poisonbench.core.errors import ArtefactError, one_line
from poisonbench.data.base_images import poisons_among
from poisonbench.data.notes import (
    TENSORS,
    ParameterNote,
    Reader,
    TensorNote,
    TensorSetNote,
    read_old_file,
)
from poisonbench.data.opcodes import scan
from poisonbench.data.pickles import MAX_BYTES
from poisonbench.data.splits import Dataset

_PICKLE = "data.pkl"


def load_tensors(path: Path) -> Any:
    """Tensors, in a tuple, list or dict or alone, of a file of ``torch.save``; nothing is run.

    A TensorDataset is a tuple; what else is in a container is left as it is.

    Raises:
        ArtefactError: missing, too large, damaged, or anything else in it.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ArtefactError(f"expected at most {MAX_BYTES:,} bytes, got more")
        data = path.read_bytes()
        value = _read_zip(data) if zipfile.is_zipfile(BytesIO(data)) else read_old_file(data)
        if isinstance(value, TensorSetNote):
            value = value.state["tensors"]
        if isinstance(value, Mapping):
            return {name: _tensor(one) for name, one in value.items()}
        if isinstance(value, list | tuple):
            return [_tensor(one) for one in value]
        return _tensor(value)
    except ArtefactError as error:
        raise ArtefactError(f"{path}: {error}; nothing in it was run") from None
    # Damaged files raise nearly anything.
    except Exception as error:
        raise ArtefactError(
            f"{path}: expected a file of torch.save with tensors alone, "
            f"got {one_line(error)[:200]}; nothing in it was run"
        ) from None


def _tensor(value: Any) -> Any:
    """A tensor of what stands for one; anything else as it is."""
    return value.tensor() if isinstance(value, TensorNote | ParameterNote) else value


def _read_zip(data: bytes) -> Any:
    """What a file of ``torch.save`` since PyTorch 1.6 holds: a zip of a pickle and of numbers."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        records = archive.infolist()
        names = [record.filename for record in records]
        # Nothing is compressed and no bytes are two records', so that no small file becomes large.
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise ValueError("compressed records")
        if sum(record.file_size for record in records) > len(data):
            raise ValueError("records larger than the file")
        pickled, *more = [name for name in names if name.rpartition("/")[2] == _PICKLE] or [""]
        if more or not pickled:
            raise ValueError(f"a zip with not one {_PICKLE}")
        folder = pickled.removesuffix(_PICKLE)
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("numbers with their bytes turned around")
        program = archive.read(pickled)
        scan(program, references=True)
        reader = Reader(program, TENSORS)
        value = reader.load()
        for key, storage in reader.storages.items():
            storage.data = archive.read(f"{folder}data/{key}")
    return value


def read_tensor_set(path: Path, dataset: Dataset) -> tuple[Tensor, Tensor, Tensor]:
    """The poisons in a file of images and labels: see :func:`.base_images.poisons_among`.

    Raises:
        ArtefactError: unreadable, unsafe, not images and labels, or not of that data set.
    """
    return poisons_among(*_images_and_labels(load_tensors(path), dataset), dataset)


def _images_and_labels(content: Any, dataset: Dataset) -> tuple[Tensor, Tensor]:
    """(N, C, H, W) uint8 and (N,) int64 of a container of one tensor of each kind."""
    values = list(content.values()) if isinstance(content, Mapping) else content
    tensors = (
        [v for v in values if isinstance(v, Tensor)] if isinstance(values, list | tuple) else []
    )
    images = [tensor for tensor in tensors if tensor.ndim >= 3]
    labels = [tensor for tensor in tensors if tensor.ndim == 1 and not tensor.is_floating_point()]
    if len(images) != 1 or len(labels) != 1 or len(images[0]) != len(labels[0]):
        shapes = ", ".join(f"{tuple(tensor.shape)} {tensor.dtype}" for tensor in tensors)
        raise ArtefactError(
            "expected one tensor of images and one of as many whole-number labels, in a tuple, "
            f"list, dict or TensorDataset, got {shapes or 'no tensors'}; save them so"
        )
    return _pixels(images[0], dataset), labels[0].long()


def _pixels(images: Tensor, dataset: Dataset) -> Tensor:
    channels, height, width = dataset.image_shape
    if images.ndim == 3:
        images = images[:, None]
    if images.shape[1:] == (height, width, channels) != dataset.image_shape:
        images = images.permute(0, 3, 1, 2)
    if images.shape[1:] != dataset.image_shape:
        raise ArtefactError(
            f"expected images of shape (N, {channels}, {height}, {width}) for {dataset.name}, got "
            f"{tuple(images.shape)}; choose its own --dataset"
        )
    low, high = (float(value) for value in images.aminmax()) if len(images) else (0, 0)
    # Not a number is in no range.
    if not (0 <= low and high <= (1 if images.is_floating_point() else 255)):
        raise ArtefactError(
            "expected images of floats in [0, 1] or of whole numbers in 0..255, got "
            f"{images.dtype} in [{low:g}, {high:g}]; scale them and save them again"
        )
    if images.is_floating_point():
        images = torch.floor(255 * images.float() + 0.5)
    return images.to(torch.uint8).contiguous()
