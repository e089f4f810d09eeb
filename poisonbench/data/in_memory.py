"""A data set of arrays or tensors, kept as one .npz file that is named by what it holds."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from poisonbench.core.errors import UsageError
from poisonbench.core.files import write_bytes
from poisonbench.data.arrays import NPZ_KEYS, make_split

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
        ArtefactError: shapes or types that no data set has.
        StoreError: the folder cannot be written.
    """
    if isinstance(arrays, str) or len(arrays) != len(NPZ_KEYS):
        raise UsageError(f"dataset: expected a name or {PARTS}, got {len(arrays)} parts")
    named = {
        key: _pixels(value, key) if key.startswith("x") else _as_array(value)
        for key, value in zip(NPZ_KEYS, arrays, strict=True)
    }
    digest = hashlib.sha256()
    for part in ("train", "test"):
        images, labels = named[f"x_{part}"], named[f"y_{part}"]
        # Refuses what could not be read back.
        split = make_split(images, labels, f"dataset, its {part} images and labels")
        digest.update(split.digest().encode())
        named[f"y_{part}"] = split.labels.numpy()
    path = folder / f"{digest.hexdigest()[:_SIXTEEN]}.npz"
    if not path.is_file():
        packed = io.BytesIO()
        np.savez_compressed(packed, **named)  # type: ignore[arg-type]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, packed.getvalue())
    return f"npz:{path}"


def _as_array(value: Any) -> NDArray[Any]:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _pixels(value: Any, key: str) -> NDArray[np.uint8]:
    """Images as uint8, channels last."""
    images = _as_array(value)
    if images.ndim == 4:
        second, last = (images.shape[axis] in (1, 3) for axis in (1, 3))
        if second and (isinstance(value, torch.Tensor) or not last):
            images = images.transpose(0, 2, 3, 1)
    if np.issubdtype(images.dtype, np.floating):
        if not (np.isfinite(images).all() and 0 <= images.min() and images.max() <= 1):
            raise UsageError(
                f"dataset: expected uint8 images, or floats in [0, 1], got floats of {key} in "
                f"[{images.min():g}, {images.max():g}]; divide them by 255 or undo a normalisation"
            )
        images = (images * 255).round().astype(np.uint8)
    return np.ascontiguousarray(images)
