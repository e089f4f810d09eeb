"""How the C library keeps memory that was freed."""

from __future__ import annotations

import ctypes
import os

#: What tells a reader of the environment that someone has chosen an allocator or its settings.
CHOSEN_BY = ("GLIBC_TUNABLES", "MALLOC_", "LD_PRELOAD")

#: Numbers of glibc's mallopt (malloc.h), and the bytes that each is given.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
KEPT = {
    # Free bytes at the end of the heap that stay with the process.
    M_TRIM_THRESHOLD: 2**31 - 1,
    # Bytes that the heap grows by beyond what is asked for.
    M_TOP_PAD: 2**27,
    # Blocks below it come from the heap; 32 MiB is the most that glibc takes.
    M_MMAP_THRESHOLD: 2**25,
}


def keep_freed_memory() -> bool:
    """Ask glibc to keep what is freed, and tell if it does.

    By default it hands large blocks back to the kernel, which clears their pages again for the next
    batch: a seventh of the time of training on MNIST (docs/benchmarks.md, "Freed memory"). Nothing
    is done where the environment chooses an allocator or its settings, and where the C library
    isn't glibc.
    """
    if any(name.startswith(CHOSEN_BY) for name in os.environ):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  # only glibc has it
        return all(library.mallopt(number, size) == 1 for number, size in KEPT.items())
    except (AttributeError, OSError, TypeError):
        return False
