"""Jobs of a sweep on a dask.distributed cluster, whose workers share the results folder.

The sweep stays where it was started: it keeps the order and the leases and sees what is done, from
records. A task on the cluster is one job, in a process of its own beneath the dask worker, which
ends with a checkpoint when its worker dies, when the sweep asks, or when the sweep itself is gone:
then the job's lease is no longer kept alive.
"""

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event
from typing import Any

from poisonbench import __version__
from poisonbench.core.errors import InterruptedRunError, UsageError
from poisonbench.core.files import write_text
from poisonbench.results.store import Store
from poisonbench.sweep.execute import asked_threads
from poisonbench.sweep.lease import Leases
from poisonbench.sweep.process import Worker

SCHEME = "dask://"
#: What a worker has one of for each job that asks for an accelerator.
RESOURCE = "GPU"

#: Seconds for a scheduler to answer, and for a file to appear on the other side of a file system.
_CONNECT = 10.0
_APPEAR = 15.0
#: Seconds between a task's looks at its process, at its sweep, and between its reports.
_POLL = 0.1
_LOOK = 2.0
_REPORT = 2.0

_LOST = "lost, before it ended"


class Cluster:
    """A sweep's side of a cluster: connect, check its workers, and hand out jobs.

    Args:
        address: ``dask://HOST:PORT``, a scheduler's.
        store: the results folder, which the workers must see under the same path.

    Raises:
        UsageError: no dask.distributed here, an address of another form, or nobody there.
    """

    def __init__(self, address: str, store: Store) -> None:
        host, _, port = address.removeprefix(SCHEME).rpartition(":")
        if not (address.startswith(SCHEME) and host and port.isdecimal()):
            raise UsageError(f"--on: expected {SCHEME}HOST:PORT, a scheduler's, got {address!r}")
        try:
            from distributed import Client
        except ImportError:
            raise UsageError(
                "--on: expected dask.distributed for a cluster, found none; "
                "`pip install 'poisonbench[dask]'`, here and where the workers run"
            ) from None
        self.address, self.store = address, store
        self.token = uuid.uuid4().hex
        self._stop_name = f"poisonbench-stop-{self.token}"
        try:
            self.client = Client(f"tcp://{host}:{port}", timeout=_CONNECT, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise UsageError(
                f"--on: expected a dask scheduler at {address}, got no answer in {_CONNECT:.0f} s "
                f"({type(error).__name__}); start one with `dask scheduler`, or mend the address"
            ) from None

    def close(self) -> None:
        """Leave the cluster; tasks that are still there end with checkpoints."""
        with suppress(Exception):
            self.client.close(timeout=_CONNECT)

    def wait_for_workers(self, stopping: Event, say: Callable[[str], None]) -> None:
        """Wait until there is a worker; clusters that grow on demand have none at first.

        Raises:
            InterruptedRunError: a signal came first.
        """
        if not self._workers():
            say(f"waiting for the first worker of {self.address}")
            # A task that waits makes a cluster that adapts itself start one.
            call = self.client.submit(os.getpid, pure=False)
            while not self._workers():
                if stopping.wait(_POLL):
                    raise InterruptedRunError(
                        "interrupted before a job was started; run the same command to continue"
                    )
            call.release()

    def check_workers(self, devices: Sequence[str]) -> None:
        """Refuse a cluster whose workers could not do the jobs.

        Raises:
            UsageError: a worker lacks poisonbench or has another version, sees another results
                folder, or none has a GPU to give where ``devices`` ask for one.
        """
        workers = self._workers()
        if any(map(_takes_gpu, devices)) and not any(
            worker.get("resources", {}).get(RESOURCE) for worker in workers.values()
        ):
            raise UsageError(
                f"--devices: expected workers with the resource {RESOURCE} at {self.address}, got "
                f"{len(workers)} without; start theirs with `dask worker ... --resources "
                f"{RESOURCE}=1`, one a GPU"
            )
        mark = self.store.sweep / f".dask-{self.token}.tmp"
        write_text(mark, self.token)
        try:
            path = str(mark.resolve())
            seen = self.client.run(_look_around, path, self.token, _APPEAR, on_error="return")
        finally:
            mark.unlink(missing_ok=True)
        for worker, finding in seen.items():
            if isinstance(finding, BaseException):
                raise UsageError(
                    f"--on: expected poisonbench {__version__} on each worker of {self.address}, "
                    f"got {type(finding).__name__}: {finding} on {worker}; install it there, with "
                    "the extra dask"
                )
            version, is_same_folder = finding
            if version != __version__:
                raise UsageError(
                    f"--on: expected poisonbench {__version__} on each worker of {self.address}, "
                    f"got {version} on {worker}; install the same one there"
                )
            if not is_same_folder:
                raise UsageError(_other_folder(self.store.root.resolve(), worker))

    def num_slots(self, devices: Sequence[str]) -> int:
        """How many jobs the workers that are there can run side by side, at least one."""
        workers = self._workers().values()
        if all(map(_takes_gpu, devices)):
            return max(1, int(sum(own.get("resources", {}).get(RESOURCE, 0) for own in workers)))
        return max(1, sum(int(own["nthreads"]) for own in workers))

    def worker(self, device: str) -> "ClusterWorker":
        """What runs the jobs of one slot, one at a time."""
        return ClusterWorker(self, device)

    def submit(self, message: Mapping[str, Any], device: str, topic: str) -> Any:
        """Hand a job to the cluster; the future of its end.

        Raises:
            InterruptedRunError: the scheduler is gone.
        """
        job = str(message["job"])
        options = dict(message["options"])
        for name in ("results", "data_root"):
            options[name] = str(Path(options[name]).resolve())
        log = str(Path(message["log"]).resolve())
        try:
            return self.client.submit(
                run_job,
                {**message, "options": options, "log": log},
                topic=topic,
                stop_name=self._stop_name,
                threads=asked_threads(),
                folder=os.getcwd(),
                key=f"poisonbench-{job}-{uuid.uuid4().hex[:8]}",
                pure=False,
                resources={RESOURCE: 1} if _takes_gpu(device) else None,
            )
        except Exception as error:
            raise self.lost() from error

    def stop(self) -> None:
        """Ask all tasks of this sweep to end with checkpoints."""
        from distributed import Event as ClusterEvent

        # Without its scheduler a task stops by itself.
        with suppress(Exception):
            ClusterEvent(self._stop_name, client=self.client).set()

    def lost(self) -> InterruptedRunError:
        """The error of a scheduler that is gone."""
        return InterruptedRunError(
            f"lost the dask scheduler at {self.address}; what was running ends with checkpoints; "
            "start it again and run the same command to continue"
        )

    def _workers(self) -> dict[str, dict[str, Any]]:
        try:
            return dict(self.client.scheduler_info(n_workers=-1)["workers"])
        except (OSError, TimeoutError) as error:
            raise self.lost() from error


class ClusterWorker:
    """A slot's place on the cluster, with the face of a local worker process."""

    def __init__(self, cluster: Cluster, device: str) -> None:
        self._cluster, self._device = cluster, device
        self._topic = f"poisonbench-{uuid.uuid4().hex}"
        self._heard: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._future: Any = None
        self._has_started = False
        cluster.client.subscribe_topic(self._topic, self._hear)

    def send(self, message: dict[str, Any]) -> None:
        """Start a job, or with ``{"stop": True}`` ask it to save a checkpoint and end."""
        if "request" in message:
            self._has_started = False
            self._future = self._cluster.submit(message, self._device, self._topic)
            return
        self._cluster.stop()
        if self._future is not None and not self._has_started:
            # It waits for a worker; should one take it just then, it sees the request to stop.
            self._future.cancel()

    def answers(self) -> Iterator[dict[str, Any]]:
        """What has come since the last time; of a job that ended, its exit code at last.

        Raises:
            InterruptedRunError: the scheduler is gone.
        """
        with suppress(Empty):
            while True:
                answer = self._heard.get_nowait()
                self._has_started = True
                yield answer
        future = self._future
        if future is None or future.status == "pending":
            return
        self._future = None
        if future.status == "finished":
            yield from future.result()
        elif future.status == "error":
            yield {"error": _in_words(future.exception())}
            yield {"code": 1}
        elif self._has_started or self._cluster.client.status != "running":
            raise self._cluster.lost()
        else:
            yield {"code": InterruptedRunError.exit_code}

    def kill(self) -> None:
        """Give up its job, which ends with a checkpoint where it is."""
        with suppress(Exception):
            if self._future is not None:
                self._cluster.stop()
                self._future.cancel()
            self._cluster.client.unsubscribe_topic(self._topic)

    def _hear(self, event: tuple[float, Any]) -> None:
        self._heard.put(event[1])


def run_job(
    message: dict[str, Any], *, topic: str, stop_name: str, threads: int | None, folder: str
) -> list[dict[str, Any]]:
    """Do a job on a dask worker, in a process of its own; its last answers, with the exit code.

    Args:
        message: as :meth:`poisonbench.sweep.process.Worker.send` takes it, with the ``job``'s id
            and the ``lease``'s token.
        topic: where the sweep hears of progress.
        stop_name: the cluster's event that asks for a stop.
        threads: the process's; None leaves it to the worker's OMP_NUM_THREADS.
        folder: where the sweep runs, from which relative paths of data count.
    """
    from distributed import get_worker

    dask_worker = get_worker()
    results = Path(message["options"]["results"])
    leases = Leases(Store(results).sweep / "leases")
    job, token = message["job"], message["lease"]
    if not _waits_for(partial(_is_held, leases, job, token), _APPEAR):
        # A sweep that has gone has let its lease go; nobody reads this then.
        return [{"error": _other_folder(results, dask_worker.address)}, {"code": 1}]
    is_asked_to_stop = _stop_request(stop_name)
    process = Worker(threads, folder if Path(folder).is_dir() else None)
    last: list[dict[str, Any]] = []
    phase, reported, looked = "", 0.0, time.monotonic()
    dask_worker.log_event(topic, {"worker": dask_worker.address})
    process.send(message)
    try:
        while True:
            for answer in process.answers():
                match answer:
                    case {"code": _}:
                        return [*last, answer]
                    case {"dead": _}:
                        return [*last, {"code": -9}]
                    case {"error": _}:
                        last = [answer]
                    case {"phase": name}:
                        if name != phase or time.monotonic() - reported > _REPORT:
                            phase, reported = name, time.monotonic()
                            dask_worker.log_event(topic, answer)
            if time.monotonic() - looked > _LOOK:
                looked = time.monotonic()
                if is_asked_to_stop() or not _is_held(leases, job, token):
                    process.send({"stop": True})
            time.sleep(_POLL)
    finally:
        process.kill()


def _stop_request(name: str) -> Callable[[], bool]:
    """A question to the scheduler: is this sweep's work to stop? Yes too if it does not answer."""
    from distributed import Event as ClusterEvent

    event = ClusterEvent(name)

    def is_asked() -> bool:
        try:
            return bool(event.is_set())
        except (OSError, TimeoutError, RuntimeError):
            return True

    return is_asked


def _is_held(leases: Leases, job: str, token: str) -> bool:
    """Whether the sweep with this token is still there and holds the job."""
    lease = leases.read(job)
    if lease is None or lease.owner is None:
        return False
    return lease.owner.token == token and lease.is_alive(leases.me)


def _look_around(mark: str, token: str, seconds: float) -> tuple[str, bool]:
    """On a worker: its version of poisonbench, and whether it sees the sweep's mark in time."""

    def is_there() -> bool:
        with suppress(OSError):
            return Path(mark).read_text(encoding="utf-8") == token
        return False

    return __version__, _waits_for(is_there, seconds)


def _waits_for(is_so: Callable[[], bool], seconds: float) -> bool:
    """Whether something comes true in time."""
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(_POLL)
    return True


def _takes_gpu(device: str) -> bool:
    """Whether jobs on this device, as the command line names it, take a GPU of the cluster."""
    return device not in ("auto", "cpu")


def _other_folder(results: Path, worker: str) -> str:
    return (
        f"--results: expected a folder that all workers share, got {results}, where the worker "
        f"{worker} does not see what this process writes; mount the same file system there, under "
        "the same path"
    )


def _in_words(error: BaseException | None) -> str:
    if type(error).__name__ == "KilledWorker":
        return "the dask workers that ran it died, one after the other; is there memory enough?"
    return f"on the dask worker: {type(error).__name__}: {error}"
