"""Leases: who is at work on which job. They save work and nothing depends on them.

A lease is a file made with exclusive create and touched every few seconds. It is dead when its
process is known to be gone, or when it has not been touched for :data:`LIFETIME` seconds by the
file server's own clock. Two processes on one job are harmless, since ids are hashes of specs and
records appear atomically: a lease that is lost, stolen or left behind costs time alone.
"""

import os
import socket
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import structs

from poisonbench.core.files import store_errors

#: Seconds between touches, and seconds without one after which a lease is dead.
HEARTBEAT = 15.0
LIFETIME = 90.0

_MAX_BYTES = 10_000


class Owner(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A process that can hold leases, as their files state it; the token is its alone."""

    token: str
    #: Name, boot and process namespace: where ``process`` means something.
    host: str
    #: Id and start time, so that a reused id is not taken for it.
    process: str
    #: The SLURM job (array job and task), or nothing, and how often SLURM has started it again.
    slurm: str = ""
    restarts: int = 0
    #: It has stopped with the job unfinished.
    is_interrupted: bool = False

    @staticmethod
    def me() -> "Owner":
        """This process."""
        array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
        return Owner(
            token=uuid.uuid4().hex,
            host=_host(),
            process=_process(os.getpid()),
            slurm=f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", ""),
            restarts=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        )

    def is_known_to_be_gone(self, observer: "Owner") -> bool:
        """Whether the observer can tell at once: same machine, or an earlier start of its job."""
        if self.slurm and self.slurm == observer.slurm and self.restarts < observer.restarts:
            return True
        number = self.process.partition(":")[0]
        is_near = self.host == observer.host and number.isdigit()
        return is_near and _process(int(number)) != self.process


@dataclass(frozen=True)
class Lease:
    """What a lease file says: its owner, where it can be read (yet), and the seconds untouched."""

    owner: Owner | None
    age: float

    def is_alive(self, observer: Owner) -> bool:
        """Whether its owner is at work, as far as the observer can tell."""
        owner = self.owner
        if owner is not None and (owner.is_interrupted or owner.is_known_to_be_gone(observer)):
            return False
        return self.age <= LIFETIME

    def is_of(self, owner: Owner) -> bool:
        """Whether it is this owner's."""
        return self.owner is not None and self.owner.token == owner.token


class Leases:
    """The leases of a results folder, as one process sees and makes them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.me = Owner.me()
        self.held: set[str] = set()
        self._touched = time.monotonic()

    def path(self, job_id: str) -> Path:
        """A job's lease."""
        return self.folder / f"{job_id}.lease"

    def read(self, job_id: str) -> Lease | None:
        """A job's lease, or None; without an owner from a file half-written or damaged."""
        try:
            with self.path(job_id).open("rb") as stream:
                # Of the open file: opening renews what a network file system has cached of it.
                stamp = os.fstat(stream.fileno()).st_mtime
                text = stream.read(_MAX_BYTES)
        except OSError:
            return None
        owner = None
        with suppress(ValueError):
            owner = msgspec.json.decode(text, type=Owner)
        return Lease(owner, self._now() - stamp)

    def is_taken(self, job_id: str) -> bool:
        """Whether another process is at work on the job."""
        lease = self.read(job_id)
        return lease is not None and not lease.is_of(self.me) and lease.is_alive(self.me)

    def take(self, job_id: str) -> bool:
        """Take a job unless another process is at work on it.

        Raises:
            StoreError: the folder cannot be written.
        """
        path = self.path(job_id)
        if path.exists():
            if self.is_taken(job_id):
                return False
            # Of several processes that take a dead lease away, the rename lets one through.
            aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
            with suppress(OSError):
                path.rename(aside)
                aside.unlink(missing_ok=True)
        with store_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                with path.open("xb") as stream:
                    stream.write(msgspec.json.encode(self.me) + b"\n")
            except FileExistsError:
                return False
        self.held.add(job_id)
        return True

    def beat(self) -> None:
        """Touch what is held, when it is time."""
        if time.monotonic() - self._touched < HEARTBEAT:
            return
        self._touched = time.monotonic()
        for job_id in self.held:
            # One taken from us, or on a server that is away: the work goes on, its result counts.
            with suppress(OSError):
                os.utime(self.path(job_id))

    def release(self, job_id: str, *, is_interrupted: bool = False) -> None:
        """Give a job back; one that was interrupted keeps a note of it until it is taken again."""
        self.held.discard(job_id)
        lease = self.read(job_id)
        if lease is None or not lease.is_of(self.me):
            return
        path = self.path(job_id)
        # A full disk or a server that is away: the lease dies by itself.
        with suppress(OSError):
            if is_interrupted:
                note = structs.replace(self.me, is_interrupted=True)
                path.write_bytes(msgspec.json.encode(note) + b"\n")
            else:
                path.unlink(missing_ok=True)

    def _now(self) -> float:
        """The file server's clock, which also stamps the leases; this machine's may differ."""
        probe = self.folder / f".clock-{self.me.token}.tmp"
        try:
            with probe.open("wb") as stream:
                return os.fstat(stream.fileno()).st_mtime
        except OSError:
            return time.time()
        finally:
            probe.unlink(missing_ok=True)


def _host() -> str:
    """Name, boot and process namespace: containers of one host have processes of their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        boot = namespace = ""
    return f"{socket.gethostname()} {boot} {namespace}"


def _process(number: int) -> str:
    """``"1234:5678"``: a process by id and start time; empty when it is gone."""
    with suppress(OSError, IndexError, ValueError):
        text = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace")
        state, *rest = text.rpartition(")")[2].split()
        return "" if state in ("Z", "X") else f"{number}:{rest[18]}"
    if Path("/proc/self/stat").exists():
        return ""
    with suppress(PermissionError):
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return ""
    return f"{number}:"
