"""Published poison sets come as pickles: read as data, with nothing in them executed.

A pickle is a program that may call any function of any module. This is the one module that opens
one, and it lets a pickle make numbers, text, bytes, lists, tuples and dicts, and *notes* of arrays,
tensors and pictures: a note keeps what the file says of it, and calls nothing of numpy's, PIL's or
torch's. The names of their constructors stand in one table, :data:`_KNOWN`, and lead to notes; any
other name ends the reading. :func:`array_of` later makes an array of a note, after its type, shape
and bytes agree.

Before that the opcodes are read without running them (:func:`scan`): only those of plain data, no
slot in the memo beyond the next, no dict key but a number or text (nested tuples as a key would be
hashed for ever), no more opcodes than a poison set needs. A file over 2 GiB is not read at all.
"""

import io
import math
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from poisonbench.core.errors import ArtefactError

MAX_BYTES = 2 * 2**30
MAX_OPCODES = 500_000
#: Boolean, integer and float types of fixed size, as numpy writes them.
_TYPES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}
_CHANNELS = {"L": (), "RGB": (3,)}
_OPCODES = set(
    "PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG "
    "LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 "
    "BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 EMPTY_LIST LIST APPEND APPENDS "
    "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS GLOBAL STACK_GLOBAL "
    "REDUCE NEWOBJ BUILD PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET".split()
)
_PUTS, _GETS = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}
_KEYS = {"int", "int_or_bool", "bool", "str", "bytes_or_str", "bytes", "float"}


def read_pickle(path: Path) -> Any:
    """Read what a pickle holds: plain values, and notes for :func:`array_of`.

    Raises:
        ArtefactError: missing, too large, cut short, or anything but plain data; nothing is run.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ArtefactError(f"{path}: expected at most {MAX_BYTES:,} bytes, got {size:,}")
        data = path.read_bytes()
        scan(data)
        return _Reader(io.BytesIO(data), encoding="latin1").load()
    except ArtefactError as error:
        raise ArtefactError(
            f"{path}: {error}; nothing in it was run, and it is not a poison set that can be read"
        ) from None
    # Damaged pickles raise nearly anything.
    except Exception as error:
        raise ArtefactError(
            f"{path}: expected a pickle of plain data, got one that cannot be read "
            f"({type(error).__name__}); download it again"
        ) from None


def array_of(value: Any, what: str) -> NDArray[Any]:
    """Numbers as an array: from a note, a number, or a list or tuple of numbers or of scalars.

    Raises:
        ArtefactError: something else, or a note whose parts disagree; ``what`` names it.
    """
    try:
        if isinstance(value, _Note):
            return value.array()
        items = list(value) if isinstance(value, list | tuple) else [value]
        numbers = [item.array().item() if isinstance(item, _Note) else item for item in items]
        if not all(type(number) in (int, float, bool) for number in numbers):
            raise ValueError("no numbers")
        array = np.array(numbers, dtype=None if numbers else np.int64)
        if array.dtype.kind not in "biuf":
            raise ValueError("numbers that are too large")
        return array if isinstance(value, list | tuple) else array.reshape(())
    # What a note holds was never checked; a damaged one raises nearly anything.
    except Exception as error:
        raise ArtefactError(
            f"{what}: expected an array of numbers, got a damaged or other value "
            f"({type(error).__name__})"
        ) from None


class _Note:
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


class _Type(_Note):
    """``numpy.dtype``: of numbers alone."""

    def __init__(self, name: Any, align: Any = False, copy: Any = True) -> None:
        if not isinstance(name, str) or name.lstrip("<>|=") not in _TYPES:
            raise ArtefactError("expected arrays of numbers, got another type (objects, say)")
        self.name = name.lstrip("<>|=")
        self.order = "<"

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] == ">":
            self.order = ">"


class _Array(_Note):
    """``numpy.ndarray``, as ``_reconstruct`` begins it and BUILD fills it."""

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> NDArray[Any]:
        _, shape, kind, is_fortran, data = self.state
        return _filled(kind, shape, data, is_fortran)


class _Buffer(_Note):
    """``numpy._core.numeric._frombuffer``, which protocol 5 writes."""

    def array(self) -> NDArray[Any]:
        data, kind, shape, order = self.arguments
        return _filled(kind, shape, data, order == "F")


class _Scalar(_Note):
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


class _Storage(_Note):
    """``torch.storage._load_from_bytes``: a pickle again, which torch reads as weights alone."""


class _Tensor(_Note):
    """``torch._utils._rebuild_tensor_v2``."""

    def array(self) -> NDArray[Any]:
        storage, offset, shape, stride, *_ = self.arguments
        if not isinstance(storage, _Storage) or not isinstance(storage.arguments[0], bytes):
            raise ValueError("no storage")
        if not _is_shape(shape) or not _is_shape(stride) or not _is_shape([offset]):
            raise ValueError("no shape")
        numbers = torch.load(io.BytesIO(storage.arguments[0]), "cpu", weights_only=True)
        values = torch.empty(0, dtype=numbers.dtype).set_(numbers)
        if math.prod(shape) > len(values):
            raise ValueError("fewer values than the shape needs")
        array: NDArray[Any] = torch.as_strided(values, shape, stride, offset).contiguous().numpy()
        return array


class _Encoded(_Note):
    """``_codecs.encode``: how old protocols write bytes."""

    def __new__(cls, text: Any, encoding: Any) -> bytes:  # type: ignore[misc]
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise ArtefactError("expected bytes written as latin1 text, got something else")
        return text.encode("latin1")


class _OrderedDict(_Note):
    """``collections.OrderedDict``: empty, what a tensor has for hooks."""

    def __new__(cls) -> dict[Any, Any]:  # type: ignore[misc]
        return {}


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


#: Everything that a pickle may name, and what it gets; numpy's modules, as 1 and 2 call them.
_KNOWN: dict[tuple[str, str], type[_Note]] = {
    ("numpy", "ndarray"): _Note,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _Encoded,
    ("PIL.Image", "Image"): _Picture,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch.storage", "_load_from_bytes"): _Storage,
    ("collections", "OrderedDict"): _OrderedDict,
}
for _core in ("numpy.core", "numpy._core"):
    _KNOWN[f"{_core}.multiarray", "_reconstruct"] = _Array
    _KNOWN[f"{_core}.multiarray", "scalar"] = _Scalar
    _KNOWN[f"{_core}.numeric", "_frombuffer"] = _Buffer


class _Reader(pickle.Unpickler):
    """The standard reader, with the table in place of every import."""

    def find_class(self, module: str, name: str) -> Any:
        """Look a name up in the table."""
        if (module, name) not in _KNOWN:
            raise ArtefactError(
                "expected numbers, text, arrays, tensors and pictures, got a use of "
                + ascii(f"{module}.{name}"[:100])
            )
        return _KNOWN[module, name]


def scan(data: bytes | io.BytesIO, *, references: bool = False) -> None:
    """Refuse a pickle by its opcodes, before one is run; the kinds on the stack are followed.

    Args:
        data: the pickle; a stream is left behind it.
        references: it may name tensors' storages that lie elsewhere in its file.

    Raises:
        ArtefactError: an opcode, or a use of one, that plain data does not need.
        ValueError: not a pickle, or cut short.
    """
    allowed = _OPCODES | {"BINPERSID"} if references else _OPCODES
    stack: list[str] = []
    memo: dict[int, str] = {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        name = opcode.name
        if name not in allowed or count >= MAX_OPCODES:
            raise ArtefactError(
                f"expected up to {MAX_OPCODES:,} opcodes of plain data, got {name} at {count:,}"
            )
        if name in _PUTS or name == "MEMOIZE":
            slot = len(memo) if name == "MEMOIZE" else int(argument or 0)
            if slot > len(memo) + 1:
                raise ArtefactError(f"expected the next slot of the memo, got {slot:,}")
            memo[slot] = stack[-1]
            continue
        if name in _GETS:
            stack.append(memo[int(argument or 0)])
            continue
        if name in ("SETITEM", "SETITEMS", "DICT"):
            pairs = stack[-2:] if name == "SETITEM" else stack[_mark(stack) + 1 :]
            if not set(pairs[::2]) <= _KEYS:
                raise ArtefactError("expected numbers and text as a dict's keys, got another")
        if name == "DUP":
            stack.append(stack[-1])
            continue
        for before in reversed(opcode.stack_before):
            if before is pickletools.stackslice:
                del stack[_mark(stack) + 1 :]
            elif stack.pop() == "mark" and name != "POP" and before is not pickletools.markobject:
                raise ArtefactError("expected a value on the stack, got a mark")
        stack.extend(after.name for after in opcode.stack_after)


def _mark(stack: list[str]) -> int:
    """The position of the last mark."""
    return len(stack) - 1 - stack[::-1].index("mark")


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(
        type(side) is int and side >= 0 for side in value
    )
