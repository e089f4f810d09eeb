"""What pickles may name, and what they get for it: notes, which keep what a file says.

This is the one module that runs a pickle's opcodes, once :mod:`.opcodes` has read them. The names
of numpy's, PIL's and torch's constructors stand in tables, and lead to notes; any other name ends
the reading. A note calls nothing of theirs; :meth:`Note.array` and :meth:`TensorNote.tensor` make
something of it later, after its type, shape and bytes agree.

A tensor is a view of its storage, whose numbers lie in a file of ``torch.save`` beside the pickle.
``torch.load`` isn't used, as it takes a file's word for how many they are.
"""

import io
import math
import pickle
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from poisonbench.core.errors import ArtefactError
from poisonbench.data.opcodes import scan

#: Boolean, integer and float types of fixed size, as numpy writes them.
_TYPES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}
_CHANNELS = {"L": (), "RGB": (3,)}
#: Storages' classes, as torch writes them.
_STORAGES = {
    **{"Float": torch.float32, "Double": torch.float64, "Half": torch.float16},
    **{"BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32},
    **{"Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool},
}
#: The first numbers of a file of ``torch.save`` that is no zip.
_OLD_FILE = (0x1950A86A20F9469CFC6C, 1001)
_MOST_DIMENSIONS = 64


class Note:
    """What a pickle says of something that is not plain data: a constructor's arguments.

    Names lead to these classes alone, never to functions: BUILD sets attributes of whatever has no
    ``__setstate__``, and so could change a function. What has no ``array`` of its own is only ever
    an argument of another.
    """

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        raise ArtefactError("expected no state where none belongs, got some")

    def array(self) -> NDArray[Any]:
        """Make it an array; ValueError, or any other exception, if its parts disagree."""
        raise ValueError("a constructor where its product is expected")


class _Type(Note):
    """``numpy.dtype``: of numbers alone."""

    def __init__(self, name: Any, align: Any = False, copy: Any = True) -> None:
        if not isinstance(name, str) or name.lstrip("<>|=") not in _TYPES:
            raise ArtefactError("expected arrays of numbers, got another type (objects, say)")
        self.name = name.lstrip("<>|=")
        self.order = "<"

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] == ">":
            self.order = ">"


class _Array(Note):
    """``numpy.ndarray``, as ``_reconstruct`` begins it and BUILD fills it."""

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> NDArray[Any]:
        _, shape, kind, is_fortran, data = self.state
        return _filled(kind, shape, data, is_fortran)


class _Buffer(Note):
    """``numpy._core.numeric._frombuffer``, which protocol 5 writes."""

    def array(self) -> NDArray[Any]:
        data, kind, shape, order = self.arguments
        return _filled(kind, shape, data, order == "F")


class _Scalar(Note):
    """``numpy.core.multiarray.scalar``."""

    def array(self) -> NDArray[Any]:
        kind, data = self.arguments
        return _filled(kind, (), data)


class _Picture(_Array):
    """``PIL.Image.Image``: (H, W) or (H, W, 3) uint8, of modes L and RGB."""

    def array(self) -> NDArray[Any]:
        _, mode, (width, height), _, data = self.state
        # Text alone is looked up: a tuple of tuples would be hashed for ever.
        if not isinstance(mode, str):
            raise ValueError("no mode")
        return _filled(_Type("u1"), (height, width, *_CHANNELS[mode]), data)


class StorageNote(Note):
    """The numbers of tensors, as a file names them; ``data`` are their bytes, once they are found.

    Files call them by a key, a type and a count.
    """

    data: bytes | None = None

    @cached_property
    def numbers(self) -> Tensor:
        """All of them in one dimension."""
        _, dtype, count = self.arguments
        if self.data is None or len(self.data) != count * dtype.itemsize:
            raise ValueError(f"a storage of {count:,} numbers whose bytes are not as many")
        if count == 0:
            return torch.empty(0, dtype=dtype)
        if dtype == torch.bool:
            # Their bytes may be any.
            return torch.frombuffer(bytearray(self.data), dtype=torch.uint8) != 0
        return torch.frombuffer(bytearray(self.data), dtype=dtype)


class _StorageBytes(Note):
    """``torch.storage._load_from_bytes``: a file of ``torch.save`` again, with one storage."""

    @cached_property
    def numbers(self) -> Tensor:
        """All of them in one dimension."""
        (data,) = self.arguments
        storage = read_old_file(data) if isinstance(data, bytes) else None
        if not isinstance(storage, StorageNote):
            raise ValueError("no storage")
        return storage.numbers


class TensorNote(Note):
    """``torch._utils._rebuild_tensor_v2``, and ``_rebuild_tensor`` before it."""

    def tensor(self) -> Tensor:
        """A view of the storage; ValueError if it needs more numbers than that has."""
        storage, offset, shape, stride, *_ = self.arguments
        if not isinstance(storage, StorageNote | _StorageBytes):
            raise ValueError("a tensor without a storage")
        fits = _is_shape(shape) and _is_shape(stride) and _is_shape([offset])
        if not fits or len(shape) != len(stride):
            raise ValueError("a tensor without a shape")
        numbers = storage.numbers
        if math.prod(shape) > len(numbers):
            raise ValueError(
                f"a tensor of shape {tuple(shape)} on a storage of {len(numbers):,} numbers, which "
                "is saved by its clone alone"
            )
        last = sum((side - 1) * step for side, step in zip(shape, stride, strict=True))
        if offset + (last + 1 if math.prod(shape) else 0) > len(numbers):
            raise ValueError("a tensor that reaches beyond its storage")
        return torch.as_strided(numbers, tuple(shape), tuple(stride), offset)

    def array(self) -> NDArray[Any]:
        """The same in an array of its own."""
        array: NDArray[Any] = self.tensor().contiguous().numpy()
        return array


class ParameterNote(Note):
    """``torch._utils._rebuild_parameter``."""

    def tensor(self) -> Tensor:
        """Its tensor."""
        value, *_ = self.arguments
        if not isinstance(value, TensorNote):
            raise ValueError("a parameter without a tensor")
        return value.tensor()


class TensorSetNote(Note):
    """``torch.utils.data.TensorDataset``."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Encoded(Note):
    """``_codecs.encode``: how old protocols write bytes."""

    def __new__(cls, text: Any, encoding: Any) -> bytes:  # type: ignore[misc]
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise ArtefactError("expected bytes written as latin1 text, got something else")
        return text.encode("latin1")


class _OrderedDict(dict[str, Any]):
    """``collections.OrderedDict``: hooks of a tensor, or weights by their names."""

    def __init__(self, items: Any = ()) -> None:
        super().__init__()
        for name, value in items:
            # Text alone: a tuple of tuples would be hashed for ever.
            if not isinstance(name, str):
                raise ArtefactError("expected text as a dict's keys, got another")
            self[name] = value

    def __setstate__(self, state: Any) -> None:
        """Of a state dict, the numbers of its modules' versions."""


def _filled(kind: Any, shape: Any, data: Any, is_fortran: bool = False) -> NDArray[Any]:
    """An array of bytes that fit the shape exactly."""
    if not isinstance(kind, _Type) or not _is_shape(shape):
        raise ValueError("no type or no shape")
    if is_fortran:
        return _filled(kind, shape[::-1], data).T
    dtype = np.dtype(kind.order + kind.name)
    data = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(data, bytes | bytearray):
        raise ValueError("no bytes")
    if len(data) != dtype.itemsize * math.prod(shape):
        raise ValueError("bytes that do not fit the shape")
    return np.frombuffer(data, dtype).astype(dtype.newbyteorder("=")).reshape(shape)


#: What a pickle of arrays may name, and what it gets; numpy's modules, as 1 and 2 call them.
ARRAYS: dict[tuple[str, str], type] = {
    ("numpy", "ndarray"): Note,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _Encoded,
    ("PIL.Image", "Image"): _Picture,
    ("torch._utils", "_rebuild_tensor_v2"): TensorNote,
    ("torch.storage", "_load_from_bytes"): _StorageBytes,
    ("collections", "OrderedDict"): _OrderedDict,
}
for _core in ("numpy.core", "numpy._core"):
    ARRAYS[f"{_core}.multiarray", "_reconstruct"] = _Array
    ARRAYS[f"{_core}.multiarray", "scalar"] = _Scalar
    ARRAYS[f"{_core}.numeric", "_frombuffer"] = _Buffer

#: What the pickle in a file of ``torch.save`` may name.
TENSORS: dict[tuple[str, str], type] = {
    ("torch._utils", "_rebuild_tensor"): TensorNote,
    ("torch._utils", "_rebuild_tensor_v2"): TensorNote,
    ("torch._utils", "_rebuild_parameter"): ParameterNote,
    ("torch.utils.data.dataset", "TensorDataset"): TensorSetNote,
    ("collections", "OrderedDict"): _OrderedDict,
    ("_codecs", "encode"): _Encoded,
    ("torch", "Size"): Note,
    ("torch", "device"): Note,
}
for _name, _dtype in _STORAGES.items():
    # A class of its own each, by which a storage's type is known.
    TENSORS["torch", f"{_name}Storage"] = type(f"_{_name}", (Note,), {"dtype": _dtype})
    TENSORS["torch", str(_dtype).removeprefix("torch.")] = Note


class Reader(pickle.Unpickler):
    """The standard reader, with a table in place of every import; ``storages`` by their keys.

    The opcodes of what it reads have been scanned.
    """

    def __init__(self, data: bytes, table: dict[tuple[str, str], type]) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self.table = table
        self.storages: dict[str, StorageNote] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Look a name up in the table."""
        if (module, name) not in self.table:
            raise ArtefactError(
                "expected numbers, text, arrays, tensors and pictures, got a use of "
                + ascii(f"{module}.{name}"[:100])
            )
        return self.table[module, name]

    def persistent_load(self, name: Any) -> StorageNote:
        """Note a storage that lies elsewhere in the file."""
        if not isinstance(name, tuple) or len(name) not in (5, 6):
            raise ArtefactError("expected a tensor's storage, got a reference to something else")
        kind, storage, key, _, count, *view = name
        dtype = storage.dtype if isinstance(storage, type) and hasattr(storage, "dtype") else None
        fits = kind == "storage" and dtype and isinstance(key, str) and view in ([], [None])
        if not fits or type(count) is not int:
            raise ArtefactError("expected a tensor's storage, got a reference to something else")
        note = self.storages.setdefault(key, StorageNote(key, dtype, count))
        if note.arguments != (key, dtype, count):
            raise ArtefactError(f"expected one storage {key[:50]!a}, got two")
        return note


def read_old_file(data: bytes) -> Any:
    """What a file of ``torch.save`` before PyTorch 1.6 holds; five pickles, then the numbers.

    Raises:
        ArtefactError: anything but plain data and tensors.
        ValueError, or any other exception: it is damaged.
    """
    at, parts, readers = 0, [], []
    for _ in range(5):
        end = scan(data, at, references=True)
        readers.append(Reader(data[at:end], TENSORS))
        parts.append(readers[-1].load())
        at = end
    magic, version, surroundings, value, keys = parts
    if (magic, version) != _OLD_FILE or surroundings.get("little_endian") is not True:
        raise ValueError("another version of torch.save, or numbers with their bytes turned around")
    storages = readers[3].storages
    if not isinstance(keys, list):
        raise ValueError("no list of storages")
    for key in keys:
        _, dtype, count = storages[key].arguments
        if int.from_bytes(data[at : at + 8], "little") != count:
            raise ValueError(f"a storage of another size than {count:,} numbers")
        at += 8 + count * dtype.itemsize
        storages[key].data = data[at - count * dtype.itemsize : at]
    return value


def _is_shape(value: Any) -> bool:
    """Whether it is of sizes that an array can have: the product of more would be computed long."""
    return (
        isinstance(value, tuple | list)
        and len(value) <= _MOST_DIMENSIONS
        and all(type(side) is int and 0 <= side < 2**63 for side in value)
    )
