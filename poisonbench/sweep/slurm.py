"""SLURM: an array job whose tasks take the shards of a plan, and what the queue says of it."""

import os
import re
import shlex
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from poisonbench.core.errors import UsageError
from poisonbench.core.files import store_errors, write_text
from poisonbench.results.store import Store

#: Many sites allow arrays of 1,000 tasks.
MOST_SHARDS = 1000

#: ``--only``'s words by kind of job.
ONLY = {"craft": "poisons", "defend": "runs"}

_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class ArrayJob:
    """An array job of so many shards: a plan's file, folders that all nodes share, and each task.

    ``at_once`` tasks run at a time, and ``jobs`` runs in each; ``notice`` are seconds before the
    limit ``time``, in SLURM's form, at which a task saves its checkpoints. None leaves it to SLURM.
    """

    plan: Path
    results: Path
    data_root: Path
    shards: int
    at_once: int | None = None
    time: str | None = None
    cpus: int = 1
    gpus: int = 0
    jobs: int = 1
    notice: int = 180
    partition: str | None = None
    #: "craft", "defend" or None for both.
    only: str | None = None
    #: Further ones of sbatch.
    options: tuple[str, ...] = ()
    #: The command that runs poisonbench on the nodes.
    program: tuple[str, ...] = ("poisonbench",)

    def __post_init__(self) -> None:
        if not 1 <= self.shards <= MOST_SHARDS:
            raise UsageError(f"--shards: expected 1 to {MOST_SHARDS} tasks, got {self.shards}")
        limit = _seconds(self.time or "")
        if limit is not None and self.notice >= limit:
            # A task would be asked to stop as soon as it has started, again and again.
            raise UsageError(
                f"--notice: expected fewer seconds than the time limit of {limit}, got "
                f"{self.notice}; lower it or raise --time"
            )


def prepare(store: Store, digest: str) -> None:
    """Make the folder of the tasks' logs, without which SLURM fails them and says nothing.

    Remembers that SLURM may have tasks of this plan, for :func:`queue`.

    Raises:
        StoreError: the results folder cannot be written.
    """
    with store_errors(store.sweep):
        (store.sweep / "logs").mkdir(parents=True, exist_ok=True)
    write_text(_mark(store, digest), "")


def script(array: ArrayJob, digest: str) -> str:
    """The batch script of a plan with this digest, by which its tasks are named.

    ``exec`` makes the sweep the batch process, so that SLURM's signal before the time limit
    reaches it. The number of shards is written down: SLURM's own count changes when a user submits
    some indices again.
    """
    results = array.results.resolve()
    options = [
        f"--job-name={_name(digest)}",
        f"--array=0-{array.shards - 1}" + (f"%{array.at_once}" if array.at_once else ""),
        "--requeue",
        "--open-mode=append",
        # sbatch takes quotes in these lines as a shell does.
        f"--output={shlex.quote(f'{results}/sweep/logs/slurm-%A_%a.out')}",
        f"--signal=B:USR1@{array.notice}",
        f"--cpus-per-task={array.cpus}",
        array.gpus and f"--gres=gpu:{array.gpus}",
        array.time and f"--time={array.time}",
        array.partition and f"--partition={array.partition}",
        *array.options,
    ]
    words = [*array.program, "sweep", "run", str(array.plan.resolve()), "--results", str(results)]
    words += ["--data-root", str(array.data_root.resolve()), "--jobs", str(array.jobs)]
    if array.gpus:
        words += ["--devices", ",".join(f"cuda:{number}" for number in range(array.gpus))]
    if array.only:
        words += ["--only", ONLY[array.only]]
    lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in options if option), "set -eu"]
    lines += [f"cd {shlex.quote(os.getcwd())}", f"exec {shlex.join(words)} --requeue --shard "]
    return "\n".join(lines) + f'"$SLURM_ARRAY_TASK_ID/{array.shards}"\n'


def submit(array: ArrayJob, store: Store, digest: str, after: str | None = None) -> str:
    """Submit the script of a plan with this digest; SLURM's job id.

    ``after`` is a SLURM job that must have ended first, well or not.

    Raises:
        UsageError: no sbatch, or it refuses.
        StoreError: the results folder cannot be written.
    """
    if shutil.which("sbatch") is None:
        raise UsageError(
            "expected SLURM's sbatch on this machine, found none; run this on a login node, or "
            "print the job with `poisonbench sweep script PLAN`"
        )
    prepare(store, digest)
    command = ["sbatch", "--parsable"]
    if after is not None:
        command += [f"--dependency=afterany:{after}"]
    done = subprocess.run(
        command, input=script(array, digest), capture_output=True, text=True, check=False
    )
    job = done.stdout.strip().partition(";")[0]
    if done.returncode or not job.isdigit():
        raise UsageError(f"expected sbatch to take the job, got: {done.stderr.strip()}")
    return job


def queue(store: Store, digest: str) -> dict[str, int] | None:
    """Count the tasks of a plan that SLURM has, by its states.

    None without squeue, when nothing of the plan was meant for SLURM, or when squeue does not
    answer.
    """
    if shutil.which("squeue") is None or not _mark(store, digest).exists():
        return None
    command = ["squeue", "--noheader", "--array", "--format=%T", f"--name={_name(digest)}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    states = re.findall(r"^[A-Z_]+$", done.stdout, re.MULTILINE)
    return dict(Counter(map(str.lower, states)))


def requeue() -> bool:
    """Ask SLURM to start the job again that this process is the batch process of."""
    task = os.environ.get("SLURM_JOB_ID")
    if task is None or shutil.which("scontrol") is None:
        return False
    return subprocess.run(["scontrol", "requeue", task], check=False).returncode == 0


def describe() -> str:
    """Say in words whether SLURM is here."""
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        return "none here; sweeps run on one machine, or submit from a login node"
    done = subprocess.run([sbatch, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or sbatch


def _seconds(time: str) -> int | None:
    """Read minutes, [hours:]minutes:seconds or days-hours[:minutes[:seconds]]; else None."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time)
    if match is None:
        return None
    days, *rest = match.groups()
    parts = [int(part) for part in rest if part is not None]
    if days is None and len(parts) < 3:
        parts = [0, *parts]
    hours, minutes, seconds = (*parts, 0, 0)[:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _name(digest: str) -> str:
    """The name of a plan's jobs in SLURM, however they were submitted."""
    return f"poisonbench-{digest}"


def _mark(store: Store, digest: str) -> Path:
    return store.sweep / "slurm" / digest
