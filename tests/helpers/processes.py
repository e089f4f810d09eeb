"""Commands in processes of their own, on tiny data, what they leave, and deaths on the way.

Children are forked from a server that has imported everything, so that many can be killed.
"""

import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import msgspec
import numpy as np

from poisonbench.results.records import read_record

#: What two runs of one spec share; the rest is time and place.
PARTS = ("id", "spec", "labels", "metrics", "curve", "notes", "digests", "warnings")

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    [
        "torch",
        "torchvision",
        "torch._dynamo",
        "poisonbench.cli.main",
        "poisonbench.runs.defend",
        "helpers.processes",
    ]
)


def run_killed(words, die_at, every=60.0):
    """How a command line ended that is killed at its n-th moment, if it gets there.

    Moments are the halves of every write and before and after whatever makes a file appear.

    Args:
        words: the command line.
        die_at: which moment, from 1.
        every: seconds between checkpoints.

    Returns:
        The exit code, negative for a signal.
    """
    child = _forks.Process(target=_run_killed, args=([str(word) for word in words], die_at, every))
    child.start()
    return finish(child, 120)


def finish(child, seconds=600):
    """Its exit code."""
    child.join(seconds)
    code = child.exitcode
    child.kill()
    child.join()
    child.close()
    return code


def _run_killed(words, die_at, every):
    from poisonbench.training.checkpoint import Checkpoint

    moments = iter(range(1, sys.maxsize))

    def moment():
        if next(moments) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def framed(function):
        def call(*args, **kwargs):
            moment()
            result = function(*args, **kwargs)
            moment()
            return result

        return call

    def halved(descriptor, mode):
        stream = fdopen(descriptor, mode)
        write = stream.write

        class Halves:
            def __enter__(self):
                return self

            def __exit__(self, *error):
                stream.close()

            def __getattr__(self, name):
                return getattr(stream, name)

            def write(self, data):
                write(data[: len(data) // 2])
                stream.flush()
                moment()
                write(data[len(data) // 2 :])

        return Halves()

    fdopen = os.fdopen
    os.fdopen = halved
    os.replace = framed(os.replace)
    Path.rename = framed(Path.rename)
    Checkpoint.discard = framed(Checkpoint.discard)
    _run(words, every, os.devnull)


def start(words, every=60.0, log=os.devnull):
    """A command line in a fork that has torch already; ``every`` seconds between checkpoints."""
    child = _forks.Process(target=_run, args=([str(word) for word in words], every, str(log)))
    child.start()
    return child


def _run(words, every, log):
    import torch

    from poisonbench.cli.main import main
    from poisonbench.training.checkpoint import Checkpoint

    torch.set_num_threads(1)
    _, *others = Checkpoint.__init__.__defaults__
    Checkpoint.__init__.__defaults__ = (every, *others)
    sys.stdout = sys.stderr = open(log, "a", buffering=1)
    os._exit(main(words))


def call(*words):
    """A command line in this process that must succeed; what it printed."""
    from poisonbench.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(word) for word in words])
    assert code == 0, err.getvalue()
    return out.getvalue()


def program(*words):
    """The program as a user starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "poisonbench", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def data_set(folder):
    """The tests' tiny data set."""
    from helpers.command_line import tiny_arrays

    np.savez(folder / "tiny.npz", **tiny_arrays())
    return f"npz:{folder / 'tiny.npz'}"


def plan_of(folder, data, lines=None, copies=1):
    """A plan of a few short runs, each line so many times."""
    lines = lines or [
        f"poisonbench defend --method {method} --dataset {data} --attack durp+pgd --rho 0.6 "
        f"--trial {trial} {options}"
        for method, options in (("none", "--epochs 3"), ("hint", "--epochs 4 --schedule 1,2"))
        for trial in range(3)
    ]
    (folder / "lines").write_text("\n".join(lines * copies))
    call("sweep", "plan", "--lines", folder / "lines", "--json", "--output", folder / "plan.json")
    return folder / "plan.json"


def unreadable(results):
    """Files under a final name that cannot be read, of records, poisons, models and failures."""
    from safetensors import safe_open

    from poisonbench.data.artefacts import read_poison

    bad = []
    readers = {
        "runs": lambda path: path.name.endswith(".failed.json") or read_record(path),
        "poisons": read_poison,
        "models": lambda path: safe_open(path, framework="pt").keys(),
        "sweep/failed": lambda path: json.loads(path.read_text()),
    }
    for folder, read in readers.items():
        for path in (results / folder).glob("[!.]*"):
            try:
                read(path)
            except FileNotFoundError:
                continue
            except Exception as error:
                bad.append(f"{path}: {error}")
    for path in (results / "checkpoints").glob("*/state.safetensors"):
        try:
            safe_open(path, framework="pt").metadata()
        except FileNotFoundError:
            continue
        except Exception as error:
            bad.append(f"{path}: {error}")
    return bad


def contents(results):
    """What folders of the same work share: what records say, the bytes of poisons and models."""
    by_path = {}
    for path in (results / "runs").glob("[!.]*.json"):
        record = read_record(path)
        fields = msgspec.to_builtins(record)
        by_path[path.name] = json.dumps([fields[part] for part in PARTS], sort_keys=True)
    for folder in ("poisons", "models"):
        for path in (results / folder).rglob("*"):
            name = path.relative_to(results)
            if path.is_file() and not any(part.startswith(".") for part in name.parts):
                by_path[str(name)] = path.read_bytes()
    return by_path


def is_continued(record):
    """Whether a run's time was spent in more than its last session."""
    return record.cost.seconds.total > record.cost.session_seconds
