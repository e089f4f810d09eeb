"""A pickle's opcodes, read without being run: nothing but plain data, and no more of it than bytes.

A pickle is a program, and a short one can make values without end: it may take a value from its
memo again and again, and what reads the result would work on it each time. So every value has a
size here, in which whatever it holds counts each time that it is held, and what a pickle takes from
its memo may be as much as its file and :data:`MAX_SHARED` together.
"""

import io
import pickletools
from dataclasses import dataclass
from typing import Any

from poisonbench.core.errors import ArtefactError

MAX_OPCODES = 500_000
#: Bytes of values that are used more than once, beyond the file's own; types and names are.
MAX_SHARED = 64 * 2**20

_OPCODES = set(
    "PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG "
    "LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 "
    "BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 EMPTY_LIST LIST APPEND APPENDS "
    "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS GLOBAL STACK_GLOBAL "
    "REDUCE NEWOBJ BUILD PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET".split()
)
_PUTS, _GETS = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}
_CHANGES = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD"}
_KEYS = {"int", "int_or_bool", "bool", "str", "bytes_or_str", "bytes", "float"}


@dataclass(slots=True, eq=False)
class _Value:
    """A value on the stack: its kind, its size, and whether it was taken from the memo."""

    kind: str
    size: int
    is_shared: bool = False


def scan(data: bytes, start: int = 0, *, references: bool = False) -> int:
    """Refuse a pickle by its opcodes, before one is run; values on the stack are followed.

    Args:
        data: a file.
        start: where in it the pickle begins.
        references: it may name tensors' storages that lie elsewhere in its file.

    Returns:
        Where the pickle ends.

    Raises:
        ArtefactError: an opcode, or a use of one, that plain data does not need.
        ValueError: not a pickle, or cut short.
    """
    allowed = _OPCODES | {"BINPERSID"} if references else _OPCODES
    stack: list[_Value] = []
    memo: dict[int, _Value] = {}
    shared, most_shared = 0, len(data) + MAX_SHARED
    stream = io.BytesIO(data)
    stream.seek(start)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
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
        elif name in _GETS or name == "DUP":
            value = stack[-1] if name == "DUP" else memo[int(argument or 0)]
            value.is_shared = True
            shared += value.size
            if shared > most_shared:
                raise ArtefactError(
                    f"expected at most {most_shared:,} bytes of values used again, got more"
                )
            stack.append(value)
        else:
            if name in ("SETITEM", "SETITEMS", "DICT"):
                _check_keys(stack[-2:] if name == "SETITEM" else stack[_mark(stack) + 1 :])
            _step(stack, opcode, argument)
    return stream.tell()


def _step(stack: list[_Value], opcode: pickletools.OpcodeInfo, argument: Any) -> None:
    """What any other opcode does to the stack: a value of all that it takes, or one that grows."""
    name, taken = opcode.name, []
    for before in reversed(opcode.stack_before):
        if before is pickletools.stackslice:
            first = _mark(stack) + 1
            taken += stack[first:]
            del stack[first:]
            continue
        value = stack.pop()
        if value.kind == "mark" and name != "POP" and before is not pickletools.markobject:
            raise ArtefactError("expected a value on the stack, got a mark")
        taken.append(value)
    size = sum(value.size for value in taken)
    if name in _CHANGES:
        # What was put on the stack first. Its size is in those of all that hold it already.
        changed = taken[-1]
        if changed.is_shared:
            raise ArtefactError("expected no change of a value that was used, got one")
        changed.size = size
        stack.append(changed)
        return
    kind = "" if not opcode.stack_after else opcode.stack_after[0].name
    if isinstance(argument, int):
        size += argument.bit_length() // 8
        # Integers of more than 64 bits may all have one hash.
        kind = kind if argument.bit_length() < 64 else "long"
    elif isinstance(argument, str | bytes | bytearray):
        size += len(argument)
    if kind:
        stack.append(_Value(kind, size + 8))


def _check_keys(pairs: list[_Value]) -> None:
    """Nested tuples as a key would be hashed for ever."""
    if not {value.kind for value in pairs[::2]} <= _KEYS:
        raise ArtefactError("expected numbers and text as a dict's keys, got another")


def _mark(stack: list[_Value]) -> int:
    """The position of the last mark."""
    for place in range(len(stack) - 1, -1, -1):
        if stack[place].kind == "mark":
            return place
    raise ValueError("no mark")
