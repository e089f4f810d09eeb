"""Published poison sets come as pickles: read as data, with nothing in them executed.

A pickle is a program that may call any function of any module. Here it may make numbers, text,
bytes, lists, tuples and dicts, and *notes* of arrays, tensors and pictures (:mod:`.notes`), of
which :func:`array_of` later makes an array. Before that its opcodes are read without running them
(:mod:`.opcodes`): only those of plain data, no slot in the memo beyond the next, no dict key but a
number or text, no more opcodes than a poison set needs, and no value used so often that what is
read would be much larger than the file. A file over 2 GiB is not read at all.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poisonbench.core.errors import ArtefactError
from poisonbench.data.notes import ARRAYS, Note, Reader
from poisonbench.data.opcodes import scan

MAX_BYTES = 2 * 2**30


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
        return Reader(data, ARRAYS).load()
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
        if isinstance(value, Note):
            return value.array()
        items = list(value) if isinstance(value, list | tuple) else [value]
        numbers = [item.array().item() if isinstance(item, Note) else item for item in items]
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
