"""Signals that ask a program to stop at its next safe point. The bottom layer: no torch."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_HEARD = b"\nstopping at the next safe point; Ctrl-C again ends at once\n"


class Stopping(threading.Event):
    """An event that the first signal sets, and the number of that signal."""

    number = 0


def _terminal() -> int | None:
    """The descriptor of stderr, where that is a terminal."""
    # It may be closed, or none that has a descriptor.
    with suppress(AttributeError, OSError, ValueError):
        return sys.stderr.fileno() if sys.stderr.isatty() else None
    return None


@contextmanager
def stop_on_signals(stopping: threading.Event) -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGUSR1 ask for a stop; a second SIGINT ends the program at once."""
    # Now: a progress bar's stand-in for stderr need not say that it is a terminal.
    terminal = _terminal()

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and stopping.is_set():
            raise KeyboardInterrupt
        if number == signal.SIGINT and terminal is not None:
            # Not by print, which a signal may have come into.
            with suppress(OSError):
                os.write(terminal, _HEARD)
        if isinstance(stopping, Stopping) and not stopping.is_set():
            stopping.number = number
        stopping.set()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
