"""The state of every job of a plan, read from records, poisons, failures and leases alone."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

import msgspec
from msgspec import structs

from poisonbench.core.errors import ArtefactError
from poisonbench.core.files import read_shared, write_text
from poisonbench.requests import to_words
from poisonbench.results.records import RunRecord, read_record
from poisonbench.results.run_keys import record_key
from poisonbench.results.store import Store
from poisonbench.sweep.lease import Leases
from poisonbench.sweep.plan import Job

#: More than any failure that is written here.
_MAX_BYTES = 2**20


class State(StrEnum):
    """The state of a job."""

    PLANNED = "planned"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    DONE = "done"


class Failure(msgspec.Struct, frozen=True):
    """The reason why a job failed: the exit code, the last words, and where all of them are."""

    code: int
    reason: str
    log: str


class JobStates:
    """The states of jobs in a results folder; ``on_error`` is told of unreadable records once."""

    def __init__(
        self, store: Store, on_error: Callable[[ArtefactError], None] = lambda error: None
    ) -> None:
        self.store = store
        self.leases = Leases(store.sweep / "leases")
        self.records: dict[str, RunRecord] = {}
        self._on_error = on_error
        self._read: set[Path] = set()

    def refresh(self) -> None:
        """Read the records that are new since the last time."""
        paths: set[Path] = set()
        with suppress(OSError):
            paths = set(self.store.record_paths())
        for path in sorted(paths - self._read):
            self._read.add(path)
            try:
                record = read_record(path)
            except ArtefactError as error:
                self._on_error(error)
            else:
                self.records[record_key(record)] = record

    def is_done(self, job: Job) -> bool:
        """Whether its result is there, as of the last :meth:`refresh` for a run.

        With ``--save-model`` the trained weights are a part of it.
        """
        if job.kind == "craft":
            return self.store.poison_path(job.id).is_dir()
        record = self.records.get(job.id)
        if record is None or not job.keeps_model:
            return record is not None
        return self.store.model_path(record.id).exists()

    def failure(self, job: Job) -> Failure | None:
        """The reason why it failed, unless it has been done since."""
        path = self.failure_path(job)
        if self.is_done(job) or not path.exists():
            return None
        try:
            return msgspec.json.decode(read_shared(path)[:_MAX_BYTES], type=Failure)
        except (OSError, ValueError, RecursionError):
            return Failure(1, f"unreadable: {path}", str(self.log_path(job)))

    def state(self, job: Job) -> State:
        """The state of one job."""
        if self.is_done(job):
            return State.DONE
        lease = self.leases.read(job.id)
        if lease is not None and lease.is_alive(self.leases.me):
            return State.RUNNING
        if self.failure(job) is not None:
            return State.FAILED
        return State.PLANNED if lease is None else State.INTERRUPTED

    def states(self, jobs: Sequence[Job]) -> dict[str, State]:
        """The states of jobs by id, after reading what is new."""
        self.refresh()
        return {job.id: self.state(job) for job in jobs}

    def write_failure(self, job: Job, failure: Failure) -> None:
        """Remember why a job failed, until it is done or retried.

        Raises:
            StoreError: the folder cannot be written.
        """
        fields = {"id": job.id, "words": to_words(job.request), "host": self.leases.me.host}
        text = json.dumps(fields | structs.asdict(failure), indent=1)
        write_text(self.failure_path(job), text + "\n")

    def clear_failure(self, job: Job) -> bool:
        """Forget that a job failed; whether it had."""
        path = self.failure_path(job)
        had_failed = path.exists()
        path.unlink(missing_ok=True)
        return had_failed

    def failure_path(self, job: Job) -> Path:
        """The file of the reason why a job failed."""
        return self.store.sweep / "failed" / f"{job.id}.json"

    def log_path(self, job: Job) -> Path:
        """The file of what the job printed, all attempts."""
        return self.store.sweep / "logs" / f"{job.id}.log"
