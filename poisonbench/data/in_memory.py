"""A data set of arrays or tensors, kept as one .npz file that is named by what it holds."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from poisonbench.core.errors import ArtefactError, UsageError, one_line
from poisonbench.core.files import write_bytes
from poisonbench.core.progress import mute
from poisonbench.data.arrays import NPZ_KEYS, make_split
from poisonbench.data.sources import assemble, checked
from poisonbench.data.splits import RawData
from poisonbench.registry import datasets

PARTS = "(images, labels, test_images, test_labels)"
_SIXTEEN = 16


def keep_arrays(arrays: Sequence[Any], folder: Path) -> str:
    """Write a data set's arrays once, and give the name that it has from then on, ``npz:PATH``.

    The file is named by the digest of what it holds, so that the same arrays are the same file.

    Args:
        arrays: images, labels, test images and test labels, as arrays or tensors. Images are
            (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3, uint8 or, in [0, 1], of a float
            type, which are rounded to 256 levels. Where both the second and the last size could be
            the channels', an array's are the last and a tensor's the second. Labels are integers
            (N,) of 0..K-1.
        folder: where the file goes.

    Raises:
        UsageError: not four arrays, or values out of range.
        ArtefactError: shapes, types or labels that no data set has; nothing is written then.
        StoreError: the folder cannot be written.
    """
    is_sequence = not isinstance(arrays, str | bytes) and isinstance(arrays, Sequence)
    if not is_sequence or len(arrays) != len(NPZ_KEYS):
        got = f"{len(arrays)} parts" if is_sequence else type(arrays).__name__
        raise UsageError(
            f"dataset: expected a name or {PARTS}, got {got}; pass a tuple of the four, or "
            "npz:PATH as text"
        )
    named = {
        key: _pixels(value, key) if key.startswith("x") else _as_array(value, key)
        for key, value in zip(NPZ_KEYS, arrays, strict=True)
    }
    train, test = (
        make_split(named[f"x_{part}"], named[f"y_{part}"], f"dataset, its {part} images and labels")
        for part in ("train", "test")
    )
    entry = datasets()["npz"]
    raw = checked("dataset", entry, RawData(train, test))
    digest = hashlib.sha256((train.digest() + test.digest()).encode())
    path = folder / f"{digest.hexdigest()[:_SIXTEEN]}.npz"
    if not path.is_file():
        # Refuses what could not be read back.
        assemble("dataset", entry, raw, 0, mute)
        named |= {"y_train": train.labels.numpy(), "y_test": test.labels.numpy()}
        packed = io.BytesIO()
        np.savez_compressed(packed, **named)  # type: ignore[arg-type]
        write_bytes(path, packed.getvalue())
    return f"npz:{path}"


def _as_array(value: Any, key: str) -> NDArray[Any]:
    try:
        if not isinstance(value, torch.Tensor):
            return np.asarray(value)
        dense = value.detach().cpu().to_dense()
        # numpy has no bfloat16.
        return (dense.float() if dense.dtype == torch.bfloat16 else dense).numpy()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArtefactError(
            f"dataset: expected {key} as one array or tensor of numbers, got {one_line(error)}; "
            "make it one"
        ) from None


def _pixels(value: Any, key: str) -> NDArray[np.uint8]:
    """Images as uint8, channels last."""
    images = _as_array(value, key)
    if images.ndim == 4:
        second, last = (images.shape[axis] in (1, 3) for axis in (1, 3))
        if second and (isinstance(value, torch.Tensor) or not last):
            images = images.transpose(0, 2, 3, 1)
    if np.issubdtype(images.dtype, np.floating):
        if not np.isfinite(images).all():
            raise UsageError(
                f"dataset: expected uint8 images, or floats in [0, 1], got floats of {key} that "
                "are NaN or infinite; look where they come from"
            )
        if images.size and not (0 <= images.min() and images.max() <= 1):
            raise UsageError(
                f"dataset: expected uint8 images, or floats in [0, 1], got floats of {key} in "
                f"[{images.min():g}, {images.max():g}]; divide them by 255 or undo a normalisation"
            )
        images = (images * 255).round().astype(np.uint8)
    return np.ascontiguousarray(images)
