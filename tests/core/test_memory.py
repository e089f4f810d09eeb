"""Freed memory that stays with the process."""

import os
import subprocess
import sys

import pytest

from poisonbench.core import memory

BLOCKS, BYTES = 8, 16_000_000
TURN = f"""
import ctypes
from poisonbench.core.memory import keep_freed_memory
print(keep_freed_memory())
class Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd",
        "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]
library = ctypes.CDLL(None)
library.mallinfo2.restype = Mallinfo2
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
for block in [library.malloc({BYTES}) for _ in range({BLOCKS})]:
    library.free(block)
print(library.mallinfo2().fordblks)
"""


def _free_bytes_after_a_turn(**environment):
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith(memory.CHOSEN_BY)
    }
    done = subprocess.run(
        [sys.executable, "-c", TURN],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    kept, free = done.stdout.split()
    return kept == "True", int(free)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is of Linux")
def test_freed_blocks_stay_with_the_process():
    kept, free = _free_bytes_after_a_turn()
    assert kept
    assert free >= BLOCKS * BYTES
    kept, free = _free_bytes_after_a_turn(MALLOC_ARENA_MAX="4")
    assert not kept
    assert free < BYTES


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MALLOC_ARENA_MAX", "4"),
        ("GLIBC_TUNABLES", "glibc.malloc.arena_max=4"),
        ("LD_PRELOAD", "libjemalloc.so.2"),
    ],
)
def test_an_environment_that_chooses_is_left_alone(monkeypatch, name, value):
    for chosen in [key for key in os.environ if key.startswith(memory.CHOSEN_BY)]:
        monkeypatch.delenv(chosen)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: pytest.fail("mallopt was called"))
    monkeypatch.setenv(name, value)
    assert memory.keep_freed_memory() is False


def test_another_c_library_is_left_alone(monkeypatch):
    for chosen in [key for key in os.environ if key.startswith(memory.CHOSEN_BY)]:
        monkeypatch.delenv(chosen)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    assert memory.keep_freed_memory() is False
