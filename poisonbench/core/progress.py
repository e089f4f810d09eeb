"""Progress on stderr: a bar on a terminal, one plain line a minute in a log, nothing when quiet."""

import sys
import time
from contextvars import ContextVar
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

#: A long run says how long it will take once this many seconds have been measured.
ESTIMATE_AFTER = 4.0
LINE_EVERY = 60.0


class Reporter(Protocol):
    """A function that is told (phase, done, total, detail) as work proceeds, after every batch."""

    def __call__(self, phase: str, done: int, total: int, detail: str = "") -> None:
        """Take note of the progress."""


def silent(phase: str, done: int, total: int, detail: str = "") -> None:
    """Report nothing."""


def mute(text: str) -> None:
    """Say nothing."""


#: Told of progress in place of a command's own reporter: a sweep shows its runs in one view.
relay: ContextVar[Reporter | None] = ContextVar("relay", default=None)


class LogReporter:
    """Plain lines: an estimate after a few seconds, then one a minute."""

    def __init__(self) -> None:
        self.phase = ""
        self.started = self.spoken = 0.0
        self.first = self.last = 0

    def __call__(self, phase: str, done: int, total: int, detail: str = "") -> None:
        """Print a line when one is due."""
        now = time.monotonic()
        # The next trial has the same phase and starts over.
        is_new, self.last = phase != self.phase or done < self.last, done
        if is_new:
            self.phase, self.started, self.first, self.spoken = phase, now, done, 0.0
            return
        elapsed = now - self.started
        left = elapsed / max(done - self.first, 1) * (total - done)
        if not self.spoken and elapsed >= ESTIMATE_AFTER:
            text = f"about {clock(elapsed + left)} in all"
        elif self.spoken and now - self.spoken >= LINE_EVERY:
            share = f"{100 * done / max(total, 1):.0f}% {detail}".strip()
            text = f"{share}, {clock(elapsed)} gone, {clock(left)} left"
        else:
            return
        self.spoken = now
        print(f"{time.strftime('%H:%M:%S')} {phase}: {text}", file=sys.stderr, flush=True)


class BarReporter(Progress):
    """A rich progress bar; use as a context manager."""

    def __init__(self) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
            console=Console(stderr=True),
            transient=True,
            # rich would print the result on stderr with the bar, also when stdout is a file.
            redirect_stdout=sys.stdout.isatty(),
        )
        self.phase = ""
        self.shown = 0.0
        self.last = 0

    def __call__(self, phase: str, done: int, total: int, detail: str = "") -> None:
        """Move the bar, at most ten times a second."""
        now = time.monotonic()
        if phase != self.phase or done < self.last:
            for task in self.task_ids:
                self.remove_task(task)
            self.add_task(phase, total=total, completed=done, detail=detail)
            self.phase = phase
        elif now - self.shown >= 0.1 or done >= total:
            self.update(self.task_ids[-1], completed=done, total=total, detail=detail)
            self.shown = now
        self.last = done


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds: ``75.0`` as ``"1:15"``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
