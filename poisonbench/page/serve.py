"""The page of folders that still grow: served to this machine alone, and refreshed by its script.

The standard library's server is enough: one reader, one page, and one question every two seconds.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from poisonbench.core.errors import ArtefactError, UsageError
from poisonbench.page.document import build_page
from poisonbench.results.store import Store
from poisonbench.results.submissions import SUFFIX
from poisonbench.sweep.costs import Costs
from poisonbench.sweep.job_states import JobStates, State
from poisonbench.sweep.plan import Plan, read_plan

HOST = "127.0.0.1"

#: What of a folder the page is made of.
_SHOWN = ("runs/*.json", "poisons/*/card.json", "figures/*.json", f"*{SUFFIX}")

#: Jobs that the progress names one by one.
_MOST_JOBS = 20


class Watched:
    """Results folders, the page of them, and how far their sweeps are.

    Args:
        paths: the folders.
        data_root: where data sets are.
        plans: files of plans to show beside those in the folders; they are of the first folder.
    """

    def __init__(self, paths: Sequence[Path], data_root: Path, plans: Sequence[Path] = ()) -> None:
        self.paths = tuple(paths)
        self.plans = tuple(plans)
        self.data_root = data_root
        self._lock = threading.Lock()
        self._page: tuple[str, bytes] | None = None
        self._boards = {path: JobStates(Store(path)) for path in self.paths}
        self._plans: dict[Path, tuple[int, Plan | None]] = {}

    def digest(self) -> str:
        """What the page is made of, as far as names, sizes and times tell."""
        parts: list[str] = []
        for path in self.paths:
            for pattern in _SHOWN:
                for file in sorted(path.glob(pattern)):
                    with suppress(OSError):
                        about = file.stat()
                        parts.append(f"{file} {about.st_size} {about.st_mtime_ns}")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def page(self) -> bytes:
        """The page, made again where the folders have changed."""
        with self._lock:
            digest = self.digest()
            if self._page is None or self._page[0] != digest:
                built = build_page(self.paths, self.data_root, live=digest)
                self._page = digest, built.text.encode()
            return self._page[1]

    def news(self) -> dict[str, Any]:
        """What the page's script asks for: the digest, and each plan's progress."""
        with self._lock:
            files = [(path, file) for path in self.paths for file in _plan_files(path)]
            files += [(self.paths[0], file) for file in self.plans]
            known = {
                (plan.digest, path): plan for path, file in files for plan in self._read_plan(file)
            }
            plans = [_progress(plan, self._boards[path]) for (_, path), plan in known.items()]
            # Of plans that are done the last one is news until there is another.
            left = [plan for plan in plans if plan["states"][State.DONE.value] < plan["total"]]
            return {"digest": self.digest(), "plans": left or plans[-1:]}

    def _read_plan(self, file: Path) -> list[Plan]:
        """The plan in a file, read again where it has changed; none in JSON of another kind."""
        with suppress(OSError):
            changed = file.stat().st_mtime_ns
            if self._plans.get(file, (0, None))[0] != changed:
                plan = None
                with suppress(ArtefactError):
                    plan = read_plan(file)
                self._plans[file] = changed, plan
            if (known := self._plans[file][1]) is not None:
                return [known]
        return []


def _plan_files(folder: Path) -> list[Path]:
    """What may be a plan in a results folder, those that sweeps left there by age."""
    ages = {}
    for file in Store(folder).plans.glob("*.json"):
        with suppress(OSError):
            ages[file] = file.stat().st_mtime_ns
    return [*sorted(folder.glob("*.json")), *sorted(ages, key=lambda file: (ages[file], file))]


def _progress(plan: Plan, board: JobStates) -> dict[str, Any]:
    """A plan's counts by state, what is left, and the jobs that run or failed."""
    states = board.states(plan.jobs)
    left = [job for job in plan.jobs if states[job.id] is not State.DONE]
    counts = Counter(states.values())
    failed = [(job, board.failure(job)) for job in left if states[job.id] is State.FAILED]
    return {
        "plan": plan.digest,
        "total": len(plan.jobs),
        "states": {state.value: counts[state] for state in State},
        "seconds_left": Costs(board.records.values()).left(left),
        "running": [job.title for job in left if states[job.id] is State.RUNNING][:_MOST_JOBS],
        "failed": [
            {"title": job.title, "reason": failure.reason if failure else ""}
            for job, failure in failed[:_MOST_JOBS]
        ],
    }


def serve(watched: Watched, port: int, say: Callable[[str], None]) -> None:
    """Serve the page until interrupted; ``say`` is told its address.

    Raises:
        UsageError: the port is taken.
    """
    server = make_server(watched, port)
    say(f"http://{HOST}:{server.server_port}/ (Ctrl+C ends it)")
    with server:
        server.serve_forever(poll_interval=0.2)


def make_server(watched: Watched, port: int = 0) -> ThreadingHTTPServer:
    """A server on this machine's own address; port 0 takes a free one.

    Raises:
        UsageError: the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        server_version = "poisonbench"
        sys_version = ""

        def do_GET(self) -> None:
            address = f"{HOST}:{server.server_port}"
            # A name that another site had resolve to this machine must not read the results.
            if self.headers.get("Host") not in (address, address.replace(HOST, "localhost")):
                self.send_error(HTTPStatus.FORBIDDEN)
            elif self.path == "/":
                self._send(watched.page(), "text/html; charset=utf-8")
            elif self.path == "/news":
                self._send(json.dumps(watched.news()).encode(), "application/json")
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

        def _send(self, data: bytes, kind: str) -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            with suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(data)

        def log_message(self, format: str, *values: Any) -> None:
            """Say nothing of each request."""

    try:
        server = ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise UsageError(
            f"--port: expected a free port, got {port}: {error.strerror}; leave it out to take one"
        ) from None
    server.daemon_threads = True
    return server
