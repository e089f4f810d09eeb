"""``poisonbench sweep worker``: does the jobs that a sweep sends, each in a fork.

Torch is imported once a worker; a run still has a process of its own, so one that is killed or
crashes takes nothing with it, and its peak memory is its own. The worker reads messages from stdin,
a JSON object a line, and answers on stdout in the same way; when stdin ends, as it does when the
sweep dies, the run is asked to save a checkpoint and stop.
"""

import ctypes
import io
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from poisonbench.cli import craft, defend
from poisonbench.cli.answers import answer_here
from poisonbench.cli.common import plugin_options
from poisonbench.cli.own_code import told_by_line
from poisonbench.cli.session import RunOptions
from poisonbench.core.progress import LogReporter, Reporter, relay
from poisonbench.plugins import check_file
from poisonbench.registry import register
from poisonbench.requests import CraftRequest, Request, command_of, from_json
from poisonbench.results.records import ClaimLabel

#: Seconds between looks at a run, and between requests to stop.
_POLL = 0.1
_AGAIN = 2.0
#: Seconds between reports of progress.
_REPORT = 0.5
_PR_SET_PDEATHSIG = 1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def worker() -> None:
    """Do the jobs that arrive on stdin, one at a time; for sweeps, not for people."""
    import torch

    import poisonbench.runs.defend  # noqa: F401

    # Forks have what every run needs; an optimiser imports for seconds.
    torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    for number in _SIGNALS:
        # The sweep gets the signals and passes them on as requests.
        signal.signal(number, signal.SIG_IGN)
    answers = os.dup(1)
    os.dup2(2, 1)
    messages = _Messages()
    while (message := messages.poll(None)) is not None:
        if "request" not in message:
            continue
        child = os.fork()
        if child == 0:
            _run(message, answers)
        _answer(answers, {"pid": child})
        _answer(answers, {"code": _wait(child, messages)})


class _Log(io.TextIOBase):
    """A log that a full disk cannot stop; remembers its last line."""

    def __init__(self, path: str) -> None:
        self.last = ""
        try:
            self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError:
            self.descriptor = -1

    def write(self, text: str) -> int:
        """Append the text, or do without."""
        self.last = (text.strip().splitlines() or [self.last])[-1]
        with suppress(OSError):
            os.write(self.descriptor, text.encode())
        return len(text)


class _Messages:
    """Lines of stdin, read without blocking while a run goes on."""

    def __init__(self) -> None:
        self.buffer = b""
        self.is_open = True

    def poll(self, seconds: float | None) -> dict[str, Any] | None:
        """The next message that arrives within some seconds, or ever; None if there is none."""
        while b"\n" not in self.buffer and self.is_open:
            ready, _, _ = select.select([0], [], [], seconds)
            if not ready:
                return None
            data = os.read(0, 65536)
            self.is_open = bool(data)
            self.buffer += data
        if b"\n" not in self.buffer:
            return None
        line, _, self.buffer = self.buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message


def _wait(child: int, messages: _Messages) -> int:
    """The exit code of a run, negative for a signal; it is stopped on request or at stdin's end."""
    asked, is_stopping = 0.0, False
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if messages.is_open:
            is_stopping |= messages.poll(_POLL) is not None or not messages.is_open
        else:
            time.sleep(_POLL)
        if is_stopping and time.monotonic() - asked > _AGAIN:
            # Again and again: one that comes before the run listens would be lost.
            asked = time.monotonic()
            os.kill(child, signal.SIGTERM)


def _run(message: dict[str, Any], answers: int) -> None:
    """Run in the fork: the job, its output in a log, its progress to the sweep. Never returns."""
    code = 1
    try:
        if sys.platform == "linux":
            # A run is asked to stop when its worker dies, however that happened.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in _SIGNALS[1:]:
            signal.signal(number, signal.SIG_DFL)
        log = _Log(message["log"])
        sys.stdout = sys.stderr = log
        answer_here()
        nothing = os.open(os.devnull, os.O_RDWR)
        for target in (0, 1, 2):
            os.dup2(log.descriptor if target and log.descriptor >= 0 else nothing, target)
        request, options = from_json(message["kind"], message["request"]), message["options"]
        words = [w for name, text in options.items() for w in (f"--{name.replace('_', '-')}", text)]
        words += plugin_options(message["plugins"])
        print(time.strftime("%Y-%m-%d %H:%M:%S"), command_of(request, *words), flush=True)
        relay.set(_reporter(answers))
        from poisonbench.cli.main import exit_code

        code = exit_code(lambda: _do(request, message))
    except BaseException:
        traceback.print_exc()
    finally:
        if code and isinstance(sys.stderr, _Log):
            _answer(answers, {"error": sys.stderr.last})
        os._exit(code)


def _reporter(answers: int) -> Reporter:
    """Progress to the sweep, not more often than it looks, and in lines of the log."""
    spoken, last, in_log = 0.0, "", LogReporter()

    def report(phase: str, done: int, total: int, detail: str = "") -> None:
        nonlocal spoken, last
        in_log(phase, done, total, detail)
        now = time.monotonic()
        if phase != last or now - spoken >= _REPORT:
            spoken, last = now, phase
            _answer(answers, {"phase": phase, "done": done, "total": total, "detail": detail})

    return report


def _do(request: Request, message: Mapping[str, Any]) -> None:
    """Do what ``craft`` or ``defend`` does for this request."""
    folders = message["options"]
    for path, digest in message["plugins"].items():
        check_file(path, digest)
        register(path)
    options = RunOptions(
        results=Path(folders["results"]),
        data_root=Path(folders["data_root"]),
        device=folders["device"],
        seed=request.seed,
    )
    with told_by_line():
        if isinstance(request, CraftRequest):
            craft.run([request], options, message["job"])
        else:
            claims = msgspec.convert(message["claims"], dict[str, ClaimLabel])
            defend.run([request], options, message["plan"], claims, message["job"])


def _answer(descriptor: int, value: dict[str, Any]) -> None:
    """One line in one write, so that those of run and worker do not mix."""
    # Without its reader the sweep is gone; the end of stdin says so too.
    with suppress(BrokenPipeError):
        os.write(descriptor, (json.dumps(value) + "\n").encode())
