"""What a person sees of a sweep: bars on a terminal, a line for each start and end in a log."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from poisonbench.core.progress import ESTIMATE_AFTER, LINE_EVERY, clock


@dataclass
class _Phase:
    """A job at work and how far its present phase is: ``started`` at ``first`` of ``total``."""

    title: str
    name: str = ""
    started: float = 0.0
    first: int = 0
    done: int = 0
    total: int = 0

    def left(self, now: float) -> float:
        """Seconds until the phase ends, as far as its pace is known."""
        elapsed = now - self.started
        if self.done <= self.first or elapsed < ESTIMATE_AFTER:
            return 0.0
        return elapsed / (self.done - self.first) * (self.total - self.done)

    def in_words(self) -> str:
        """The job, with its phase if that is not what it is named after, and the share of it."""
        if not self.total:
            return self.title
        phase = "" if self.name in self.title.split() else f"{self.name} "
        return f"{self.title} ({phase}{100 * self.done // self.total} %)"


class AtWork:
    """The jobs at work, by the number of their process, and how long they take at least."""

    def __init__(self, time: Callable[[], float] = time.monotonic) -> None:
        self.time = time
        self.phases: dict[int, _Phase] = {}

    def moved(self, slot: int, phase: str, done: int, total: int) -> None:
        """Take note of a job's progress."""
        job = self.phases[slot]
        if phase != job.name or done < job.done:
            job.name, job.started, job.first = phase, self.time(), done
        job.done, job.total = done, total

    def left_in_words(self, estimate: float | None) -> str:
        """How long all takes: the estimate, or at least what is left of the jobs at work."""
        least = max((job.left(self.time()) for job in self.phases.values()), default=0.0)
        if estimate:
            return f"about {clock(max(estimate, least))} left"
        return f"at least {clock(least)} left" if least >= 1 else ""

    def in_words(self) -> str:
        """Which they are, and how far."""
        return " and ".join(job.in_words() for job in self.phases.values())


class View:
    """Plain lines on stderr: each end of a job, and how far all is once a minute.

    ``slot`` numbers the processes side by side.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.spoken = time.monotonic()
        self.state = self.left = ""
        self.at_work = AtWork()

    def total(self, done: int, total: int, left: float | None) -> None:
        """Show how far all is, and the seconds left: an estimate, or the least that it takes."""
        is_first, self.state = not self.state, f"[{done}/{total}]"
        self.left = self.at_work.left_in_words(left)
        if is_first and self.left:
            self._say(self.left)
        elif time.monotonic() - self.spoken >= LINE_EVERY:
            self._say(f"running {self.at_work.in_words()}".strip(), self.left)

    def started(self, slot: int, title: str) -> None:
        """Show that a job begins."""
        self.at_work.phases[slot] = _Phase(title)
        self._say(f"start {title}", self.left)

    def moved(self, slot: int, phase: str, done: int, total: int) -> None:
        """Show how far a job is, where there is room for it."""
        self.at_work.moved(slot, phase, done, total)

    def ended(self, slot: int, title: str, how: str) -> None:
        """Show how a job has ended."""
        del self.at_work.phases[slot]
        self._say(f"{how} {title}")

    def _say(self, *parts: str) -> None:
        self.spoken = time.monotonic()
        if not self.quiet:
            now, text = time.strftime("%H:%M:%S"), ", ".join(filter(None, parts))
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
        self.at_work = AtWork()

    def total(self, done: int, total: int, left: float | None) -> None:
        """See :class:`View`."""
        note = self.at_work.left_in_words(left)
        self.update(self.all, completed=done, total=total, note=note)

    def started(self, slot: int, title: str) -> None:
        """See :class:`View`."""
        self.at_work.phases[slot] = _Phase(title)
        self.slots[slot] = self.add_task(title, total=None, note="")

    def moved(self, slot: int, phase: str, done: int, total: int) -> None:
        """See :class:`View`."""
        self.at_work.moved(slot, phase, done, total)
        self.update(self.slots[slot], completed=done, total=total, note=phase)

    def ended(self, slot: int, title: str, how: str) -> None:
        """See :class:`View`."""
        del self.at_work.phases[slot]
        self.remove_task(self.slots.pop(slot))
        self.console.print(f"{how} {title}", markup=False, highlight=False)
