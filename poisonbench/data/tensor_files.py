"""Poisons as a plain tensor file (``.pt``): a whole training set's images and labels.

HINT's authors kept their untargeted mixes so: a dict of images in [0, 1], among them those that are
clean, and labels. A tuple, a list and a TensorDataset of the two are read as well.

``torch.load`` makes nothing but tensors and containers of them with ``weights_only``; before that
the file's opcodes are read without running them, as of every pickle (:mod:`.pickles`).

A file does not say which of its images are poisons, nor in which order they stand; the images do.
"""

import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from poisonbench.core.errors import ArtefactError, one_line
from poisonbench.data.base_images import poisons_among
from poisonbench.data.pickles import MAX_BYTES, scan
from poisonbench.data.splits import Dataset


def load_tensors(path: Path) -> Any:
    """Tensors, and containers of them, out of a file of ``torch.save``; nothing in it is run.

    Raises:
        ArtefactError: missing, too large, damaged, or anything else in it.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ArtefactError(f"expected at most {MAX_BYTES:,} bytes, got more")
        data = path.read_bytes()
        _scan(data)
        with torch.serialization.safe_globals([TensorDataset]):
            return torch.load(BytesIO(data), "cpu", weights_only=True)
    except ArtefactError as error:
        raise ArtefactError(f"{path}: {error}; nothing in it was run") from None
    # Damaged files raise nearly anything.
    except Exception as error:
        raise ArtefactError(
            f"{path}: expected a file of torch.save with tensors alone, "
            f"got {one_line(error)[:200]}; nothing in it was run"
        ) from None


def _scan(data: bytes) -> None:
    """Refuse a file by its pickles' opcodes: one in a zip; before PyTorch 1.6, five in a row."""
    stream = BytesIO(data)
    if not zipfile.is_zipfile(stream):
        stream.seek(0)
        for _ in range(5):
            scan(stream, references=True)
        return
    with zipfile.ZipFile(stream) as archive:
        records = archive.infolist()
        # Nothing is compressed, so that no small file becomes a large one.
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise ValueError("compressed records")
        for record in records:
            if record.filename.endswith(".pkl"):
                scan(archive.read(record), references=True)


def read_tensor_set(path: Path, dataset: Dataset) -> tuple[Tensor, Tensor, Tensor]:
    """The poisons in a file of images and labels: see :func:`.base_images.poisons_among`.

    Raises:
        ArtefactError: unreadable, unsafe, not images and labels, or not of that data set.
    """
    return poisons_among(*_images_and_labels(load_tensors(path), dataset), dataset)


def _images_and_labels(content: Any, dataset: Dataset) -> tuple[Tensor, Tensor]:
    """(N, C, H, W) uint8 and (N,) int64 of a container of one tensor of each kind."""
    if isinstance(content, TensorDataset):
        content = content.tensors
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
