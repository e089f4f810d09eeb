"""Run what is not done: poisons before the runs that need them, several processes side by side.

One loop in one thread: read the workers' answers, keep the leases alive, start what is ready. A
job that fails is noted and the others go on. Nothing that this process holds is needed to go on
after its death: what is done is told by records, and a run continues from its checkpoint.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec

from poisonbench.core.errors import InterruptedRunError, JobsFailedError, StoreError
from poisonbench.core.signals import Stopping
from poisonbench.requests import to_json
from poisonbench.sweep.costs import Costs
from poisonbench.sweep.job_states import Failure, JobStates, State
from poisonbench.sweep.plan import Job, Plan
from poisonbench.sweep.process import Worker
from poisonbench.sweep.progress_view import View

#: Seconds between rounds of the loop, between looks at what others have done, and between requests
#: to stop.
_ROUND = 0.05
_LOOK = 1.0
_ASK = 2.0
#: A run that a signal killed (a node short of memory, say) is tried so often in one sweep.
_ATTEMPTS = 2
_CANNOT_WRITE = StoreError.exit_code
_COMING = (State.DONE, State.RUNNING)
_STOPPED = (InterruptedRunError.exit_code, 130)


class JobRunner(Protocol):
    """What a slot's jobs run in, one at a time: a process here, or a place on a cluster."""

    def send(self, message: dict[str, Any]) -> None:
        """Start a job, or with ``{"stop": True}`` ask it to save a checkpoint and end."""

    def answers(self) -> Iterable[dict[str, Any]]:
        """What has come since the last time."""

    def kill(self) -> None:
        """End it and its job."""


@dataclass
class Slot:
    """One of the processes side by side, and its job, with the time when that ``started``."""

    number: int
    device: str
    worker: JobRunner | None = None
    job: Job | None = None
    started: float = 0.0
    error: str = ""


@dataclass
class Sweep:
    """Jobs of a plan, being run; the devices are shared out over the processes.

    ``failed`` says which jobs failed, and why. ``new_worker`` gives what runs the jobs of a device;
    None starts a process on this machine. ``estimates`` are the seconds of jobs by id, for the time
    that is left where no like job is done; those that end say by how much they are off.
    """

    plan: Plan
    jobs: Sequence[Job]
    job_states: JobStates
    data_root: Path
    devices: Sequence[str]
    num_processes: int
    view: View
    stopping: Stopping
    new_worker: Callable[[str], JobRunner] | None = None
    estimates: Mapping[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    _attempts: Counter[str] = field(default_factory=Counter)
    _interrupted: set[str] = field(default_factory=set)
    _full: str = ""
    _has_news: bool = True
    _looked: float = 0.0
    _asked: float = 0.0

    def __post_init__(self) -> None:
        self._mine = {job.id for job in self.jobs}
        self._logs = self.job_states.store.sweep / "logs"

    def run(self) -> None:
        """Run everything; returns when each job is done.

        Raises:
            InterruptedRunError: a signal came; what was running has saved its checkpoint.
            StoreError: the results folder cannot be written.
            JobsFailedError: some failed; :attr:`failed` says which and why.
        """
        self.job_states.store.check_writable()
        slots = [
            Slot(number, self.devices[number % len(self.devices)])
            for number in range(self.num_processes)
        ]
        self._logs.mkdir(parents=True, exist_ok=True)
        self.job_states.refresh()
        for job in self.jobs:
            # Left alone until it is retried.
            if (failure := self.job_states.failure(job)) is not None:
                self.failed[job.id] = failure.reason
        try:
            while self._step(slots):
                time.sleep(_ROUND)
        finally:
            for slot in slots:
                if slot.job is not None:
                    is_done = self.job_states.is_done(slot.job)
                    self.job_states.leases.release(slot.job.id, is_interrupted=not is_done)
                if slot.worker is not None:
                    slot.worker.kill()
        self._conclude()

    def _step(self, slots: Sequence[Slot]) -> bool:
        """Do one round; whether there is more to do."""
        for slot in slots:
            self._hear(slot)
        self.job_states.leases.beat()
        now = time.monotonic()
        if self.stopping.is_set() or self._full:
            busy = [slot.worker for slot in slots if slot.job is not None]
            if self.stopping.is_set() and now - self._asked > _ASK:
                self._asked = now
                for worker in filter(None, busy):
                    worker.send({"stop": True})
            return bool(busy)
        if not self._has_news and now - self._looked < _LOOK:
            return True
        self._looked, self._has_news = now, False
        self.job_states.refresh()
        left = self._left()
        gone = {slot.job.id: now - slot.started for slot in slots if slot.job is not None}
        costs = Costs(self.job_states.records.values(), estimates=self._scaled_estimates())
        seconds = costs.left(left, gone, self.num_processes)
        self.view.total(len(self.jobs) - len(left), len(self.jobs), seconds)
        for slot in slots:
            if slot.job is None and not self._start_next(slot, left):
                break
        return bool(left)

    def _scaled_estimates(self) -> dict[str, float]:
        """The estimates as the runs among them that are done say that they should have been."""
        records = self.job_states.records
        done = [name for name in self.estimates if name in records]
        expected = sum(self.estimates[name] for name in done)
        taken = sum(records[name].cost.seconds.total for name in done)
        pace = taken / expected if expected else 1.0
        return {name: pace * seconds for name, seconds in self.estimates.items()}

    def _left(self) -> list[Job]:
        """Jobs to run or to wait for. Those whose poison cannot come are counted as failed."""
        left = []
        for job in self.jobs:
            if job.id in self.failed or job.id in self._interrupted or self.job_states.is_done(job):
                continue
            for poison in map(self.plan.job, job.needs):
                if poison.id in self.failed:
                    self.failed[job.id] = f"needs {poison.title}, which failed"
                elif poison.id not in self._mine and self.job_states.state(poison) not in _COMING:
                    self.failed[job.id] = f"needs {poison.title}, which is not there; run it first"
            if job.id not in self.failed:
                left.append(job)
        return left

    def _start_next(self, slot: Slot, left: Sequence[Job]) -> bool:
        """Start the first job that is ready and free; whether there was one."""
        leases = self.job_states.leases
        for job in left:
            is_free = job.id not in leases.held and job.id not in self._interrupted
            if not (is_free and self._is_ready(job) and leases.take(job.id)):
                continue
            # Another process may have ended it between our look and our lease.
            self.job_states.refresh()
            failure = self.job_states.failure(job)
            if failure is None and not self.job_states.is_done(job):
                self._start(slot, job)
                return True
            if failure is not None:
                self.failed[job.id] = failure.reason
            leases.release(job.id)
        return False

    def _is_ready(self, job: Job) -> bool:
        def is_settled(other: Job) -> bool:
            if other.id not in self._mine:
                # Another shard's, which may wait in a queue behind this one.
                return self.job_states.state(other) is not State.RUNNING
            unknown = other.id in self.failed or other.id in self._interrupted
            return (
                unknown
                or self.job_states.is_done(other)
                or self.job_states.failure(other) is not None
            )

        if not all(map(self.job_states.is_done, map(self.plan.job, job.needs))):
            return False
        if job.shares is not None and self.job_states.store.model_path(job.shares).exists():
            return True
        return all(map(is_settled, map(self.plan.job, job.after)))

    def _start(self, slot: Slot, job: Job) -> None:
        if slot.worker is None:
            slot.worker = (
                Worker(threads(self.num_processes))
                if self.new_worker is None
                else self.new_worker(slot.device)
            )
        slot.job, slot.error, slot.started = job, "", time.monotonic()
        self._attempts[job.id] += 1
        folders = {"results": str(self.job_states.store.root), "data_root": str(self.data_root)}
        slot.worker.send(
            {
                "job": job.id,
                "lease": self.job_states.leases.me.token,
                "kind": job.kind,
                "request": to_json(job.request),
                "options": {**folders, "device": slot.device},
                "plan": self.plan.digest,
                "plugins": dict(self.plan.plugins),
                "claims": msgspec.to_builtins(self.plan.claims),
                "log": str(self.job_states.log_path(job)),
            }
        )
        self.view.started(slot.number, job.title)

    def _hear(self, slot: Slot) -> None:
        worker = slot.worker
        if worker is None:
            return
        for answer in worker.answers():
            match answer:
                case {"error": error}:
                    slot.error = str(error).removeprefix("error: ")
                case {"phase": phase, "done": done, "total": total} if slot.job is not None:
                    self.view.moved(slot.number, phase, done, total)
                case {"code": code}:
                    self._end(slot, int(code))
                case {"dead": _}:
                    # Of a signal, say; its run goes with it, to start again from its checkpoint.
                    worker.kill()
                    slot.worker = None
                    self._end(slot, -9)

    def _end(self, slot: Slot, code: int) -> None:
        """Note how a job ended, by its exit code, negative for a signal."""
        job, slot.job = slot.job, None
        if job is None:
            return
        self._has_news = True
        self.job_states.refresh()
        is_done = self.job_states.is_done(job)
        if code == _CANNOT_WRITE:
            self._full = slot.error or "the results folder cannot be written"
        is_stopped = code in (*_STOPPED, _CANNOT_WRITE) or self.stopping.is_set()
        is_interrupted = is_stopped and not is_done
        if is_done:
            how = "done"
            self.job_states.clear_failure(job)
        elif is_interrupted:
            how = "stopped"
            self._interrupted.add(job.id)
        elif code < 0 and self._attempts[job.id] < _ATTEMPTS:
            how = f"killed by signal {-code}, again:"
        else:
            how = "FAILED"
            self._fail(job, code, slot.error)
        self.job_states.leases.release(job.id, is_interrupted=is_interrupted)
        self.view.ended(slot.number, job.title, how)

    def _fail(self, job: Job, code: int, error: str) -> None:
        reason = error or f"ended with code {code}"
        if code < 0:
            reason = f"killed by signal {-code}, {_ATTEMPTS} times; is there memory enough?"
        elif code == 0:
            reason = "ended well, but its result is not that of the plan; was it made elsewhere?"
        self.failed[job.id] = reason
        try:
            self.job_states.write_failure(
                job, Failure(code, reason, str(self.job_states.log_path(job)))
            )
        except StoreError as full:
            self._full = str(full)

    def _conclude(self) -> None:
        num_done = sum(map(self.job_states.is_done, self.jobs))
        progress = f"{num_done} of {len(self.jobs)} jobs are done"
        if self._full:
            raise StoreError(f"{self._full} ({progress}; run the same command to continue)")
        if self.stopping.is_set() or self._interrupted:
            raise InterruptedRunError(
                f"interrupted with checkpoints, {progress}; run the same command to continue"
            )
        if self.failed:
            raise JobsFailedError(
                f"{len(self.failed)} job(s) failed, {progress}; see their logs in {self._logs}, "
                "then `poisonbench sweep retry PLAN --failed` and run the same command again"
            )


def asked_threads() -> int | None:
    """OMP_NUM_THREADS, of its list the outermost level's; None where it is no number of threads."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


def threads(num_processes: int) -> int:
    """Threads of each process, so that together they fill the processors that this job may use."""
    if (asked := asked_threads()) is not None:
        return asked
    if allotted := os.environ.get("SLURM_CPUS_PER_TASK"):
        count = int(allotted)
    else:
        affinity = getattr(os, "sched_getaffinity", None)
        count = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, count // num_processes)
