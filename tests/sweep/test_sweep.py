"""Sweeps: running side by side, signals, retries and SLURM's script."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.command_line import PLAN, cli, done, job, lines_of, plan_of, records_of, tiny_arrays
from helpers.marks import LONG
from helpers.synthetic_runs import make_record
from poisonbench.cli.sweep_estimates import seconds_here
from poisonbench.core.signals import Stopping
from poisonbench.results.run_keys import record_key
from poisonbench.results.store import Store
from poisonbench.runs.context import RunContext
from poisonbench.runs.craft import craft
from poisonbench.sweep.execute import Sweep, threads
from poisonbench.sweep.job_states import JobStates
from poisonbench.sweep.plan import make_plan, read_plan, write_plan
from poisonbench.sweep.progress_view import View

# Running


def test_estimates_are_corrected_by_the_runs_that_are_done(tmp_path):
    """By all their sessions: one that was continued was no quicker for it."""
    runs = [job(number) for number in range(3)]
    states = JobStates(Store(tmp_path))
    states.records = {runs[0].id: make_record(seconds=30)}
    sweep = Sweep(
        make_plan(runs), runs, states, tmp_path, ["cpu"], 1, View(quiet=True), Stopping(),
        estimates={runs[0].id: 10.0, runs[1].id: 4.0},
    )  # fmt: skip
    assert sweep._scaled_estimates() == {runs[0].id: 30.0, runs[1].id: 12.0}
    states.records = {}
    assert sweep._scaled_estimates() == {runs[0].id: 10.0, runs[1].id: 4.0}


def test_what_cannot_be_estimated_is_said_and_an_accelerator_stops_nothing(tmp_path, monkeypatch):
    told = []
    line = "poisonbench defend --method none --dataset mnist-sample@500 --rho 0 --epochs 1"
    jobs = read_plan(plan_of([line], tmp_path / "plan.json")).jobs
    other = replace(jobs[0], id="f" * 16, request=replace(jobs[0].request, method="unknown"))
    states = JobStates(Store(tmp_path / "results"))
    seconds = seconds_here([*jobs, other], states, tmp_path, ["auto"], 1, told.append)
    assert list(seconds) == [jobs[0].id]
    assert seconds[jobs[0].id] > 0
    assert "what is left is not known: expected a defense" in told[0]
    monkeypatch.setattr("poisonbench.core.devices.is_accelerator", lambda device: True)
    assert seconds_here(jobs, states, tmp_path, ["auto"], 1, told.append) == {}
    assert "timed on a CPU alone, not on auto" in told[1]


def test_threads_fill_what_is_allotted(monkeypatch):
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    count = len(os.sched_getaffinity(0))
    assert threads(1) == count
    assert threads(10 * count) == 1
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "12")
    assert threads(4) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert threads(4) == 5
    # Threads by level of nesting, as OpenMP has it; what is no number says nothing.
    for setting, expected in {"4,2": 4, " 6 ,1": 6, "0": 3, "many": 3, "": 3}.items():
        monkeypatch.setenv("OMP_NUM_THREADS", setting)
        assert threads(4) == expected, setting


def sweep(*words, **options):
    """The program in a process of its own, as a user starts it."""
    command = [sys.executable, "-m", "poisonbench", "sweep", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    # A log must have what is not written at once, too.
    environment.pop("PYTHONUNBUFFERED", None)
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        **options,
    )  # fmt: skip


@pytest.mark.slow
def test_a_sweep_runs_all_but_what_fails_and_says_so(tiny, tmp_path, results):
    """Poisons once and first, two processes, a job that diverges, and all of it seen again."""
    bad = lines_of(tiny, trials=1, extra="--learning-rate 1e30")
    path = plan_of([*bad, *lines_of(tiny, attacks="durp+pgd")], tmp_path / "plan.json")
    program = sweep("run", path, "--results", results, "--jobs", 2, "--estimate")
    _, err = program.communicate(timeout=300)
    assert program.returncode == 4, err
    assert re.search(r"^\S+ \[0/5\] about \d+:\d\d left\n\S+ \[0/5\] start ", err), err
    assert "4 of 5 jobs are done" in err
    mixed = "start none npz:tiny.npz durp+pgd"
    assert err.index("start poison pgd") < err.index(mixed)
    plan = read_plan(path)
    kept = records_of(results)
    assert [record.environment.plan for record in kept] == [plan.digest] * 2
    assert {record_key(record) for record in kept} == {job.id for job in plan.only("defend")[1:]}
    logs = [log.read_text() for log in (results / "sweep" / "logs").iterdir()]
    assert sum("test accuracy" in log for log in logs) == 2
    status = done("sweep", "status", path, "--results", results, "--json").json
    assert status["states"] == {"done": 4, "failed": 1}
    (failed,) = [item for item in status["jobs"] if item["state"] == "failed"]
    assert failed["title"].startswith("none ")
    assert failed["title"].endswith(" durp at rho 0.5 trial 0")
    assert err.count(f"failed: {failed['title']}: ") == 1
    assert "finite" in failed["detail"]
    assert Path(failed["detail"].partition("(log: ")[2].rstrip(")")).read_text()
    shown = done("sweep", "status", path, "--results", results).out
    assert "\npoison pgd" in shown
    assert f"\nfailed: {failed['title']}: " in shown
    # What failed is left alone until it is retried; what is done is not done again.
    stamps = {path: path.stat().st_mtime_ns for path in (results / "runs").iterdir()}
    again = cli("sweep", "run", path, "--results", results, "--quiet")
    assert again.code == 4
    assert {path: path.stat().st_mtime_ns for path in (results / "runs").iterdir()} == stamps
    retried = done("sweep", "retry", path, "--failed", "--results", results).out
    assert retried == f"{failed['title']}\n"
    status = done("sweep", "status", path, "--results", results, "--json").json
    assert status["states"] == {"done": 4, "planned": 1}
    assert not list((results / "sweep" / "leases").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=LONG),
        pytest.param(signal.SIGUSR1, marks=LONG),
    ],
)
def test_a_signal_leaves_checkpoints(tiny, tmp_path, results, number):
    path = plan_of(lines_of(tiny, epochs=400, trials=1), tmp_path / "plan.json")
    program = sweep("run", path, "--results", results)
    for text in program.stderr:
        if "start none" in text:
            break
    time.sleep(3)
    program.send_signal(number)
    _, err = program.communicate(timeout=60)
    assert program.returncode == 75, err
    assert "1 of 2 jobs are done; run the same command to continue" in err
    status = done("sweep", "status", path, "--results", results, "--json").json
    assert status["states"] == {"done": 1, "interrupted": 1}
    assert not (results / "runs").exists()


def test_attacks_on_one_surrogate_wait_for_the_first_of_them_whatever_their_line(tiny, tmp_path):
    short = {name: f" --{name}.epochs 1 --{name}.steps 1" for name in ("pgd", "dap")}
    lines = [line for name in short for line in lines_of(tiny, attacks=name, extra=short[name])]
    first, second = read_plan(plan_of(lines, tmp_path / "plan.json")).only("craft")
    assert (first.after, second.after) == ((), (first.id,))
    # The surrogate's file, by which the second knows that it need not wait for the first's poison.
    assert first.shares is None
    context = RunContext(Store(tmp_path / "results"), tmp_path, torch.device("cpu"))
    craft(context, first.request)
    assert context.store.model_path(second.shares).exists()


def test_a_job_starts_once_the_network_that_it_shares_is_there(tmp_path):
    first, second = job(1, "craft"), job(2, "craft", after=(job(1).id,), shares="a" * 16)
    store = Store(tmp_path / "results")
    write_plan(make_plan([first, second]), tmp_path / "plan.json")
    plan = read_plan(tmp_path / "plan.json")
    assert plan.jobs == (first, second)
    sweep = Sweep(plan, plan.jobs, JobStates(store), tmp_path, ["cpu"], 2, View(), Stopping())
    assert not sweep._is_ready(second)
    path = store.model_path("a" * 16)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    assert sweep._is_ready(second)


def test_a_shard_waits_for_a_surrogate_of_another_shard_only_while_that_is_at_work(tmp_path):
    """It may be in a queue behind this one."""
    first, second = job(1, "craft"), job(2, "craft", after=(job(1).id,))
    job_states, other = JobStates(Store(tmp_path)), JobStates(Store(tmp_path))

    def is_ready(*jobs):
        plan = make_plan([first, second])
        sweep = Sweep(plan, jobs, job_states, tmp_path, ["cpu"], 1, View(), Stopping())
        return sweep._is_ready(second)

    assert not is_ready(first, second)
    assert is_ready(second)
    other.leases.take(first.id)
    assert not is_ready(second)
    other.leases.release(first.id, is_interrupted=True)
    assert is_ready(second)


@pytest.mark.slow
def test_what_was_changed_since_the_plan_is_refused_before_it_is_trained(tmp_path, results):
    own, arrays = tmp_path / "own.npz", tiny_arrays()
    np.savez(own, **arrays)
    path = plan_of(lines_of(f"npz:{own}", attacks="durp"), tmp_path / "plan.json")
    np.savez(own, **arrays | {"x_train": 255 - arrays["x_train"]})
    program = sweep("run", path, "--results", results)
    _, err = program.communicate(timeout=300)
    assert program.returncode == 4, err
    assert "was changed since it was planned; put it back, or plan again" in err
    assert not records_of(results)
    assert not (results / "poisons").exists()


def test_nothing_to_do_starts_nothing(tmp_path, results):
    write_plan(make_plan([]), tmp_path / "plan.json")
    outcome = done("sweep", "run", tmp_path / "plan.json", "--results", results)
    assert outcome.err == "0 jobs are done\n"


def test_runs_whose_poison_is_not_there_are_not_waited_for(tmp_path, results):
    write_plan(PLAN, tmp_path / "plan.json")
    line = ("sweep", "run", tmp_path / "plan.json", "--results", results, "--only", "runs")
    outcome = cli(*line)
    assert outcome.code == 4
    assert outcome.err.count("needs craft 1, which is not there; run it first") == 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--shard", "3/3"), "0 <= i < n"),
        (("--shard", "1"), "i/n such as 0/8"),
        (("--only", "run"), "poisons or runs"),
    ],
)
def test_bad_options_of_run(words, message, tmp_path):
    write_plan(PLAN, tmp_path / "plan.json")
    outcome = cli("sweep", "run", tmp_path / "plan.json", *words)
    assert outcome.code == 2
    assert message in outcome.err


# SLURM's script


def test_the_script_of_an_array_job(tmp_path):
    write_plan(PLAN, tmp_path / "my plan.json")
    line = ("sweep", "script", tmp_path / "my plan.json", "--results", tmp_path / "my results")
    text = done(*line, "--shards", 4, "--at-once", 2, "--time", "4:00:00", "--gpus", 2).out
    assert text.startswith("#!/bin/bash\n#SBATCH ")
    # SLURM fails a task whose log has no folder.
    lines = [line for line in text.splitlines() if line.startswith("#SBATCH --output=")]
    (log,) = shlex.split(lines[0].removeprefix("#SBATCH "))
    assert Path(log.partition("=")[2]).parent.is_dir()
    for option in ("array=0-3%2", "requeue", "signal=B:USR1@180", "time=4:00:00", "gres=gpu:2"):
        assert f"#SBATCH --{option}\n" in text
    *_, last = text.splitlines()
    words = shlex.split(last)
    assert words[0] == "exec"
    assert words[-1] == "$SLURM_ARRAY_TASK_ID/4"
    assert str(tmp_path / "my plan.json") in words
    assert "cuda:0,cuda:1" in words
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    # No more tasks than runs.
    assert "--array=0-9\n" in done(*line).out


def test_status_asks_squeue_for_the_jobs_of_a_plan(tmp_path, results, monkeypatch):
    """By the name that the script gives them, so those that were submitted by hand count."""
    write_plan(PLAN, tmp_path / "plan.json")
    line = (tmp_path / "plan.json", "--results", results)
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(
        '#!/bin/sh\necho "$*" >> "$0.asked"\nprintf "RUNNING\\nPENDING\\nPENDING\\n"\n'
    )
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(squeue.parent), prepend=":")
    assert done("sweep", "status", *line, "--json").json["slurm"] is None
    text = done("sweep", "script", *line).out
    assert done("sweep", "status", *line, "--json").json["slurm"] == {"running": 1, "pending": 2}
    assert "SLURM: 2 pending, 1 running" in done("sweep", "status", *line).out
    (name,) = (word for word in text.split() if word.startswith("--job-name="))
    asked = squeue.with_name("squeue.asked").read_text().split()
    assert "--name=" + name.partition("=")[2] in asked
    squeue.write_text("#!/bin/sh\nexit 1\n")
    assert done("sweep", "status", *line, "--json").json["slurm"] is None


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("3", 180),
        ("2:30", 150),
        ("0:02:59", 179),
        ("0-0:3", 180),
        ("0-0:2:1", 121),
        ("3:1", None),
        ("0:03:01", None),
        ("1-0", None),
        ("60", None),
        ("UNLIMITED", None),
    ],
)
def test_a_notice_is_shorter_than_the_time_limit(tmp_path, results, time, seconds):
    write_plan(PLAN, tmp_path / "plan.json")
    outcome = cli("sweep", "script", tmp_path / "plan.json", "--results", results, "--time", time)
    assert outcome.code == (0 if seconds is None else 2), outcome.err
    if seconds is not None:
        assert f"fewer seconds than the time limit of {seconds}, got 180" in outcome.err
