"""Images and labels out of .npz and IDX files, checked; nothing here reads a pickle."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from poisonbench.core.errors import ArtefactError, one_line
from poisonbench.data.splits import RawData, Split

NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")


def make_split(images: NDArray[Any], labels: NDArray[Any], source: str) -> Split:
    """A split of images (N, H, W) or (N, H, W, C), C 1 or 3, and labels (N,) or (N, 1), of files.

    ``source`` says in errors where they come from.

    Raises:
        ArtefactError: another shape or type.
    """
    nhwc = images[..., None] if images.ndim == 3 else images
    if nhwc.ndim != 4 or nhwc.shape[3] not in (1, 3):
        raise ArtefactError(
            f"{source}: expected images of shape (N, H, W) or (N, H, W, C) with C 1 or 3, "
            f"got {images.shape}; reshape or transpose them"
        )
    if images.dtype != np.uint8:
        raise ArtefactError(
            f"{source}: expected images of type uint8 (0..255), got {images.dtype}; "
            "scale them to 0..255, round them and store them as uint8"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ArtefactError(
            f"{source}: expected one integer label for each of {len(images)} images, "
            f"got labels of shape {labels.shape} and type {labels.dtype}; store integers of "
            f"shape ({len(images)},)"
        )
    return Split(_tensor(nhwc.transpose(0, 3, 1, 2)), _tensor(labels.astype(np.int64)))


def load(name: str, path: Path, data_root: Path) -> RawData:
    """The data set in a .npz file, see :func:`read_npz`."""
    train, test = read_npz(path)
    return RawData(train, test)


def read_npz(path: Path) -> list[Split]:
    """Train and test splits of one .npz file with the keys of Keras' mnist.npz.

    Raises:
        ArtefactError: missing, damaged, or not of that form; the message says what is expected.
    """
    if not path.is_file():
        raise ArtefactError(
            f"expected a .npz file at {path}, found none; check the path, it is relative to "
            "the working directory"
        )
    form = f"a .npz file with the arrays {', '.join(NPZ_KEYS)}"
    remedy = "write it with numpy.savez_compressed from plain numeric arrays"
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise ArtefactError(f"{path}: expected {form}, got a single array; {remedy}")
            missing = [key for key in NPZ_KEYS if key not in loaded]
            if missing:
                raise ArtefactError(
                    f"{path}: expected {form}, got {', '.join(loaded) or 'no arrays'} "
                    f"without {', '.join(missing)}; rename or add them"
                )
            arrays: dict[str, Any] = {key: loaded[key] for key in NPZ_KEYS}
            # numpy gives the bytes of what does not begin like an array.
            if others := [key for key, array in arrays.items() if isinstance(array, bytes)]:
                raise ArtefactError(
                    f"{path}: expected {form}, got no array in {', '.join(others)}; {remedy}"
                )
    except ArtefactError:
        raise
    # Damaged files raise nearly anything.
    except Exception as error:
        raise ArtefactError(f"{path}: expected {form}, got {one_line(error)}; {remedy}") from None
    return [
        make_split(arrays[f"x_{part}"], arrays[f"y_{part}"], f"{path}, x_{part} and y_{part}")
        for part in ("train", "test")
    ]


def read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """An array of bytes in MNIST's IDX format, from ``path`` or, packed, ``path`` + ``.gz``.

    ``ndim`` is 3 for images (N, H, W) and 1 for labels (N,).

    Raises:
        ArtefactError: unreadable, of another kind, or cut short.
    """
    packed = path.with_name(path.name + ".gz")
    try:
        data = path.read_bytes() if path.is_file() else gzip.decompress(packed.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ArtefactError(
            f"{path}: expected an IDX file, got {one_line(error)}; delete it and fetch it again"
        ) from None
    start = 4 + 4 * ndim
    # Two zero bytes, 8 for unsigned bytes, the number of dimensions; then the sizes.
    if len(data) < start or data[:4] != bytes([0, 0, 8, ndim]):
        raise ArtefactError(
            f"{path}: expected an IDX file of unsigned bytes in {ndim} dimensions, got the "
            f"first bytes {data[:4].hex() or 'of an empty file'}; delete it and fetch it again"
        )
    shape = struct.unpack(f">{ndim}I", data[4:start])
    if len(data) - start != math.prod(shape):
        raise ArtefactError(
            f"{path}: expected {math.prod(shape)} bytes for shape {shape}, "
            f"got {len(data) - start}; delete it and fetch it again"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _tensor(array: NDArray[Any]) -> Tensor:
    # A copy: arrays over immutable bytes are read-only, which torch cannot express.
    return torch.from_numpy(np.array(array, order="C"))
