"""A command's answer is all that it writes to stdout; what other code prints goes to stderr."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from typing import TextIO

#: Stdout as the command found it, while ``sys.stdout`` is stderr.
_kept: ContextVar[TextIO | None] = ContextVar("kept", default=None)


def stdout() -> TextIO:
    """Where the answer goes; nowhere if stdout was closed before the program began."""
    found = _kept.get() or sys.stdout
    return io.StringIO() if found is None else found


def answer(text: str, end: str = "\n") -> None:
    """Write lines of the answer."""
    print(text, file=stdout(), end=end)


def answer_here() -> None:
    """Let answers go to ``sys.stdout`` again, in a fork that has set it to a stream of its own."""
    _kept.set(None)


@contextmanager
def others_aside() -> Iterator[None]:
    """A block in which prints of a method's code, or of a library's, go to stderr.

    On a terminal there is nothing to keep apart, and a progress bar writes its lines round prints.
    A block in a block, of a command that runs others, keeps the stream of the outer one.
    """
    if sys.stdout is None or sys.stdout is sys.stderr or sys.stdout.isatty():
        yield
        return
    token = _kept.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _kept.reset(token)
