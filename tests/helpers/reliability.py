"""Reliability in figures: kills, duplicates, a full disk, damaged files.

    PYTHONPATH=tests python -m helpers.reliability kills 100
    PYTHONPATH=tests python -m helpers.reliability duplicates 16
    PYTHONPATH=tests python -m helpers.reliability full-disk     # mounts a small tmpfs: root alone
    PYTHONPATH=tests python -m helpers.reliability mutations 10000

Each prints one JSON object of figures and exits with 1 when a promise is broken.
``tests/end_to_end/test_reliability.py`` runs shorter versions;
``docs/reliability.md`` records the long ones.
"""

import json
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

from msgspec import to_builtins

from helpers.processes import (
    call,
    contents,
    data_set,
    finish,
    is_continued,
    plan_of,
    program,
    start,
    unreadable,
)
from poisonbench.core.errors import ArtefactError, PoisonbenchError
from poisonbench.requests import to_words
from poisonbench.results.records import read_record
from poisonbench.sweep.plan import read_plan

CRAFT = ("craft", "--attack", "pgd", "--steps", "2", "--epochs", "4")
DEFEND = ("defend", "--method", "hint", "--epochs", "6", "--schedule", "1,3", "--attack", "durp")


# Kills


def kills(folder, count, seed=0):
    """``kill -9`` at random moments of craft, defend and sweep, until each has got there.

    A command that was killed is started again in the same folder; when it ends, what it made is
    compared with an undisturbed run's, and an empty folder follows. Checkpoints are a tenth of a
    second apart for craft and defend. Of a sweep the main process, a worker or a run is killed.
    """
    draw = random.Random(seed)
    data = data_set(folder)
    plan = plan_of(folder, data)
    commands = {
        "craft": (*CRAFT, "--dataset", data),
        "defend": (*DEFEND, "--dataset", data),
        "sweep": ("sweep", "run", plan, "--jobs", "2"),
    }
    figures = Counter()
    planned = {"craft": count * 2 // 5, "defend": count * 2 // 5}
    planned["sweep"] = count - sum(planned.values())
    for kind, words in commands.items():
        undisturbed = folder / f"undisturbed-{kind}"
        started = time.monotonic()
        line = (*words, "--results", undisturbed)
        if kind == "sweep":
            code, _ = _kill_in_sweep(line, None, draw)
        else:
            code = _kill_command(line, None)
        assert code == 0, code
        duration = time.monotonic() - started
        expected, killed, number = contents(undisturbed), 0, 0
        results = folder / f"{kind}-0"
        while True:
            again = killed < planned[kind]
            delay = draw.uniform(0, duration) if again else None
            started = time.monotonic()
            if kind == "sweep":
                code, hits = _kill_in_sweep((*words, "--results", results), delay, draw)
            else:
                code = _kill_command((*words, "--results", results), delay)
                hits = int(code == -signal.SIGKILL)
            killed += hits
            figures[f"kills of {kind}"] += hits
            figures["unreadable files"] += len(unreadable(results))
            if kind == "sweep" and code == 4:
                call("sweep", "retry", plan, "--failed", "--results", results)
            if code != 0:
                continue
            # A run that was not hit, so that later moments are inside the next one.
            duration = min(duration, time.monotonic() - started)
            actual = contents(results)
            figures["folders completed"] += 1
            figures["results lost"] += len(expected.keys() - actual.keys())
            figures["results that differ"] += sum(
                actual[name] != expected[name] for name in expected.keys() & actual.keys()
            )
            figures["results too many"] += len(actual.keys() - expected.keys())
            figures["runs continued from a checkpoint"] += sum(
                is_continued(read_record(path)) for path in (results / "runs").glob("[!.]*.json")
            )
            figures["stray temporary files"] += len(list(results.rglob(".*.tmp")))
            if not again:
                break
            number += 1
            results = folder / f"{kind}-{number}"
    broken = ("unreadable files", "results lost", "results that differ", "results too many")
    return dict(figures), not any(figures[name] for name in broken)


def _kill_command(words, delay):
    child = start(words, every=0.1)
    if delay is not None:
        child.join(delay)
        if child.exitcode is None:
            child.kill()
    return finish(child)


def _kill_in_sweep(words, delay, draw):
    """The sweep's exit code and how many kills hit; its main process, a worker or a run dies."""
    sweep = program(*words, "--quiet")
    hits = 0
    if delay is not None:
        try:
            sweep.wait(delay)
        except subprocess.TimeoutExpired:
            victims = [[sweep.pid], _children(sweep.pid)]
            victims.append([run for worker in victims[1] for run in _children(worker)])
            chosen = draw.choice([some for some in victims if some])
            try:
                os.kill(draw.choice(chosen), signal.SIGKILL)
                hits = 1
            except ProcessLookupError:
                pass
    sweep.communicate(timeout=600)
    return sweep.returncode, hits


def _children(process):
    try:
        text = Path(f"/proc/{process}/task/{process}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


# Duplicates


def duplicates(folder, processes):
    """Every job twice: as lines, so many at a time, and as one plan that so many sweeps run."""
    data = data_set(folder)
    plan = plan_of(folder, data, copies=2)
    jobs = read_plan(plan).jobs
    runs = [job for job in jobs if job.kind == "defend"]
    figures = {"runs asked for": len(runs), "processes": processes}
    broken = False
    lines = [to_words(job.request) for job in runs for _ in range(2)]
    shell = folder / "shell"
    waiting, busy, codes = list(lines), [], []
    while waiting or busy:
        while waiting and len(busy) < processes:
            log = folder / f"{len(waiting)}.log"
            busy.append((start((*waiting.pop(0), "--results", shell), log=log), log))
        for child, log in list(busy):
            if child.exitcode is not None:
                busy.remove((child, log))
                codes.append(finish(child))
        time.sleep(0.01)
    trained = sum("training " in path.read_text() for path in folder.glob("*.log"))
    figures["lines: work done twice"] = round((trained - len(runs)) / len(runs), 3)
    figures["lines: exit codes"] = sorted(set(codes))
    broken |= set(codes) != {0}
    sweeps = folder / "sweeps"
    commands = [program("sweep", "run", plan, "--results", sweeps) for _ in range(processes)]
    errors = [command.communicate(timeout=1200)[1] for command in commands]
    figures["sweeps: exit codes"] = sorted({command.returncode for command in commands})
    broken |= {command.returncode for command in commands} != {0}
    started = sum(error.count(" start ") for error in errors)
    figures["sweeps: work done twice"] = round((started - len(jobs)) / len(jobs), 3)
    for name, results in (("lines", shell), ("sweeps", sweeps)):
        records = [read_record(path) for path in (results / "runs").glob("[!.]*.json")]
        keys = Counter((r.spec.method, r.spec.trial) for r in records)
        figures[f"{name}: records"] = len(records)
        figures[f"{name}: duplicates"] = sum(keys.values()) - len(keys)
        figures[f"{name}: torn files"] = len(unreadable(results))
        broken |= bool(unreadable(results)) or len(keys) != len(runs) or len(records) != len(runs)
    same = contents(shell) == contents(sweeps)
    figures["both made the same bytes"] = same
    return figures, not broken and same


# A full disk


@contextmanager
def small_disk(folder, size):
    """A file system of so many bytes; raises PermissionError where it cannot be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        raise PermissionError("a small file system cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def full_disk(folder):
    """The disk fills while a run trains, and while a sweep does; then there is room again."""
    data = data_set(folder)
    calm, log = folder / "calm", folder / "log"
    words = ("defend", "--method", "hint", "--schedule", "1,3", "--attack", "durp")
    words = (*words, "--dataset", data, "--epochs", "60")
    figures, is_well = {}, True
    assert finish(start((*words, "--results", calm))) == 0
    plan = plan_of(folder, data, ["poisonbench " + " ".join(words)])
    for name, command in (("defend", words), ("sweep", ("sweep", "run", plan))):
        with small_disk(folder / name, "80m") as results:
            child = start((*command, "--results", results), every=0.05, log=log)
            ballast = results / "ballast"
            while not list(results.glob("checkpoints/*/state.safetensors")):
                if name == "sweep" and list(results.glob("poisons/*")):
                    break
                time.sleep(0.01)
            # Unbuffered, so that closing it has nothing left to write.
            with ballast.open("wb", buffering=0) as stream:
                try:
                    while True:
                        stream.write(bytes(65536))
                except OSError:
                    pass
            code = finish(child)
            error = log.read_text().strip().splitlines()[-1]
            figures[f"{name}: exit code"] = code
            figures[f"{name}: error"] = error.replace(str(folder), "")
            figures[f"{name}: unreadable files"] = len(unreadable(results))
            is_well &= code == 73 and "No space left on device" in error
            is_well &= not unreadable(results)
            ballast.unlink(missing_ok=True)
            again = finish(start((*command, "--results", results), log=log))
            same = contents(results) == contents(calm)
            (record,) = (read_record(path) for path in (results / "runs").glob("[!.]*.json"))
            figures[f"{name}: again, with room"] = again
            figures[f"{name}: continued from its checkpoint"] = is_continued(record)
            figures[f"{name}: same results"] = same
            is_well &= again == 0 and same
    return figures, is_well


# Damaged files of every kind, given to what reads them


class Trap:
    """A pickle that tells when it is opened."""

    marker = ""

    def __reduce__(self):
        return (os.mkdir, (self.marker,))


def mutations(folder, count, seed=0):
    """Bit flips, truncation, insertions, huge headers, wrong types and pickles, read by us.

    Each is refused by an error of ours, or what was read equals what was written.
    """
    from poisonbench.data.artefacts import FILE_NAME, read_poison

    draw = random.Random(seed)
    data = data_set(folder)
    results = folder / "results"
    poison = Path(
        call("craft", "--attack", "durp", "--dataset", data, "--results", results).strip()
    )
    short = ("--epochs", "1", "--attack", "durp", "--dataset", data, "--results", results)
    call("defend", "--method", "none", *short)
    (record,) = (results / "runs").glob("*.json")
    plan = plan_of(folder, data)
    state, snapshot = _snapshot(folder)
    readers = {
        state: snapshot,
        poison / FILE_NAME: lambda path: _plain(read_poison(path)),
        record: read_record,
        plan: read_plan,
    }
    Trap.marker = str(folder / "code-ran")
    figures, worst = Counter(), 0.0
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        original, read = list(readers.items())[number % len(readers)]
        how, damaged = _damage(original.read_bytes(), draw)
        path = folder / "damaged" / original.name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(damaged)
        figures[f"damage: {how}"] += 1
        signal.signal(signal.SIGALRM, _hangs)
        signal.alarm(20)
        started = time.monotonic()
        try:
            same = read(path) == read(original)
            figures["read as written" if same else f"READ OTHERWISE: {how} {original.name}"] += 1
        except PoisonbenchError:
            figures["refused"] += 1
        except Exception as error:
            figures[f"CRASHED: {type(error).__name__} {original.suffix}"] += 1
        finally:
            signal.alarm(0)
        worst = max(worst, time.monotonic() - started)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 2**20
    figures["code was run"] = int(Path(Trap.marker).exists())
    figures["slowest read, s"] = round(worst, 2)
    figures["memory grown, GB"] = round(grown, 3)
    bad = any(name.isupper() or name[:7] in ("READ OT", "CRASHED") for name in figures)
    return dict(figures), not bad and not figures["code was run"] and grown < 1


def _snapshot(folder):
    """A checkpoint's file, and what reads a copy of it: a snapshot, or an error for none."""
    import torch

    from poisonbench.training.checkpoint import Checkpoint, Snapshot
    from poisonbench.training.state import TrainingSet

    original = TrainingSet(torch.zeros((4, 1, 2, 2), dtype=torch.uint8), torch.arange(4))
    tensors = {"weight": torch.linspace(-1, 1, 500), "momentum": torch.ones(20)}
    Checkpoint(folder / "checkpoint", "id").save(
        Snapshot({"epoch": 1, "step": 2, "curve": [0.5, 0.25]}, tensors, None), original
    )

    def read(path):
        snapshot = Checkpoint(path.parent, "id").load(original)
        if snapshot is None:
            raise ArtefactError("refused: the run starts anew")
        return [snapshot.position, {name: t.tolist() for name, t in snapshot.tensors.items()}]

    return folder / "checkpoint" / "state.safetensors", read


def _hangs(number, frame):
    raise TimeoutError("a read took more than 20 s")


def _plain(poison):
    return [
        to_builtins(poison.card),
        poison.images.tolist(),
        poison.indices.tolist(),
        poison.sources.tolist(),
    ]


def _damage(data, draw):
    """A damaged copy, and how."""
    buffer = bytearray(data)
    place = draw.randrange(len(buffer))
    if draw.random() < 0.5:
        # Where the structure is; the pixels come after it.
        place = draw.randrange(min(len(buffer), 4000))
    how = draw.choice(
        ["bit", "bits", "cut", "cut", "insert", "zeros", "header", "type", "pickle", "digit"]
    )
    if how == "bit":
        buffer[place] ^= 1 << draw.randrange(8)
    elif how == "bits":
        for _ in range(draw.randrange(2, 50)):
            buffer[draw.randrange(len(buffer))] ^= 1 << draw.randrange(8)
    elif how == "cut":
        del buffer[place:]
    elif how == "insert":
        buffer[place:place] = draw.randbytes(draw.randrange(1, 100))
    elif how == "zeros":
        buffer[place : place + 512] = bytes(len(buffer[place : place + 512]))
    elif how == "header":
        buffer[:8] = draw.choice([2**63 - 1, 2**40, len(buffer) * 2, 2**31]).to_bytes(8, "little")
    elif how == "type":
        old, new = draw.choice(
            [
                *((b"I64", b"F64"), (b'"U8"', b'"I8"'), (b"1", b"9" * 30), (b"[", b"[" * 2000)),
                *((b"true", b"null"), (b": 0", b": {}"), (b'": "', b'": 1e999, "')),
            ]
        )
        buffer = bytearray(bytes(buffer).replace(old, new, draw.randrange(1, 5)))
    elif how == "digit":
        digits = [index for index, byte in enumerate(buffer[:20_000]) if 48 <= byte < 58]
        buffer[draw.choice(digits)] = draw.randrange(48, 58)
    else:
        buffer = bytearray(pickle.dumps(Trap(), protocol=draw.randrange(6)))
    return how, bytes(buffer)


MODES = {
    "kills": (kills, 100),
    "duplicates": (duplicates, 16),
    "full-disk": (full_disk, None),
    "mutations": (mutations, 10_000),
}


def main():
    mode, default = MODES[sys.argv[1]]
    arguments = [] if default is None else [int(sys.argv[2]) if sys.argv[2:] else default]
    folder = Path(tempfile.mkdtemp(prefix="reliability-"))
    started = time.monotonic()
    try:
        figures, is_well = mode(folder, *arguments)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    figures["seconds"] = round(time.monotonic() - started)
    print(json.dumps(figures, indent=1))
    sys.exit(not is_well)


if __name__ == "__main__":
    main()
