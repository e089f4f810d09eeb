"""What a person sees of a sweep: bars on a terminal, a line for each start and end in a log."""

import sys
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from poisonbench.core.progress import LINE_EVERY, clock


class View:
    """Plain lines on stderr: each end of a job, and how far all is once a minute.

    ``slot`` numbers the processes side by side.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.spoken = time.monotonic()
        self.state = ""

    def total(self, done: int, total: int, left: float | None) -> None:
        """Show how far all is, and the seconds left once they can be estimated."""
        self.state = f"[{done}/{total}]"
        if time.monotonic() - self.spoken >= LINE_EVERY:
            self._say("running" + (f", about {clock(left)} left" if left else ""))

    def started(self, slot: int, title: str) -> None:
        """Show that a job begins."""
        self._say(f"start {title}")

    def moved(self, slot: int, phase: str, done: int, total: int) -> None:
        """Show how far a job is, where there is room for it."""

    def ended(self, slot: int, title: str, how: str) -> None:
        """Show how a job has ended."""
        self._say(f"{how} {title}")

    def _say(self, text: str) -> None:
        self.spoken = time.monotonic()
        if not self.quiet:
            now = time.strftime("%H:%M:%S")
            print(f"{now} {self.state} {text}", file=sys.stderr, flush=True)


class JobBars(Progress, View):
    """A bar for all jobs and one for each process; use as a context manager."""

    def __init__(self) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            # Which can show a total that is not known yet.
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            redirect_stdout=sys.stdout.isatty(),
        )
        self.all = self.add_task("all jobs", total=None, note="")
        self.slots: dict[int, TaskID] = {}

    def total(self, done: int, total: int, left: float | None) -> None:
        """See :class:`View`."""
        note = f"about {clock(left)} left" if left else ""
        self.update(self.all, completed=done, total=total, note=note)

    def started(self, slot: int, title: str) -> None:
        """See :class:`View`."""
        self.slots[slot] = self.add_task(title, total=None, note="")

    def moved(self, slot: int, phase: str, done: int, total: int) -> None:
        """See :class:`View`."""
        self.update(self.slots[slot], completed=done, total=total, note=phase)

    def ended(self, slot: int, title: str, how: str) -> None:
        """See :class:`View`."""
        self.remove_task(self.slots.pop(slot))
        self.console.print(f"{how} {title}", markup=False, highlight=False)
