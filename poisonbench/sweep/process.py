"""A worker process as the sweep sees it: send a job, hear of its progress, ask it to stop."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

COMMAND = (sys.executable, "-m", "poisonbench", "sweep", "worker")


class Worker:
    """One process of ``poisonbench sweep worker`` and the job that it runs, if any.

    In a session of its own, so that Ctrl-C reaches the sweep alone, which then asks for
    checkpoints in order. ``threads`` None are those of the environment; ``folder`` is where it
    runs, None for this process's.
    """

    def __init__(self, threads: int | None, folder: str | None = None) -> None:
        changes = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=folder,
            env=os.environ | changes,
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin, self._stdout = self.process.stdin, self.process.stdout
        os.set_blocking(self._stdout.fileno(), False)
        self._buffer = b""

    def send(self, message: dict[str, Any]) -> None:
        """Start a job, or with ``{"stop": True}`` ask it to save a checkpoint and end.

        The message of a job has its ``kind`` and JSON values of its ``request``, ``options``
        (results, data_root and device), the digest of the ``plan``, its ``plugins`` and the path
        of its ``log``.
        """
        # A worker that is dead says so in its answers.
        with suppress(OSError):
            self._stdin.write((json.dumps(message) + "\n").encode())
            self._stdin.flush()

    def answers(self) -> Iterator[dict[str, Any]]:
        """What has come since the last time; ends with a code when the worker itself is dead."""
        # Before reading: what it wrote before it died is then in the pipe.
        code = self.process.poll()
        with suppress(BlockingIOError):
            while data := os.read(self._stdout.fileno(), 65536):
                self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        yield from map(json.loads, lines)
        if code is not None:
            yield {"dead": code}

    def kill(self) -> None:
        """End it and its job at once."""
        with suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for pipe in (self._stdin, self._stdout):
            with suppress(OSError):
                pipe.close()
        self.process.wait()
