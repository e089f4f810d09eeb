"""Sweeps: plans, running side by side, signals, retries and SLURM's script."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from helpers.command_line import PLAN, POISON, RUNS, cli, done, job, lines_of, plan_of, records_of
from helpers.synthetic_runs import changed, make_record, pool_label
from poisonbench.core.errors import ArtefactError, UsageError
from poisonbench.core.files import write_text
from poisonbench.core.signals import Stopping
from poisonbench.requests import command_of
from poisonbench.results.records import ClaimLabel
from poisonbench.results.store import Store
from poisonbench.runs.context import RunContext
from poisonbench.runs.craft import craft
from poisonbench.sweep.execute import Sweep, threads
from poisonbench.sweep.job_states import JobStates
from poisonbench.sweep.plan import make_plan, read_plan, record_key, run_key, write_plan
from poisonbench.sweep.progress_view import View
from poisonbench.tables.declared import shipped

# Plans


def test_a_plan_has_each_job_once_and_poisons_first(tmp_path):
    assert PLAN.jobs == (POISON, *RUNS)
    write_plan(PLAN, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == PLAN
    write_plan(PLAN, tmp_path / "plan.json")
    with pytest.raises(UsageError, match="a plan never changes"):
        write_plan(make_plan(RUNS[:0]), tmp_path / "plan.json")


@pytest.mark.parametrize("count", [1, 3, 10, 20])
def test_shards_share_the_runs_out_and_each_has_the_poisons_it_needs(count):
    shards = [PLAN.shard(index, count) for index in range(count)]
    runs = [job.id for shard in shards for job in shard if job.kind == "defend"]
    assert sorted(runs) == [run.id for run in RUNS]
    assert all((POISON in shard) == (len(shard) > 0) for shard in shards)
    only = [PLAN.shard(index, count, "defend") for index in range(count)]
    assert sum(map(len, only)) == len(RUNS)
    assert sum(map(len, (PLAN.shard(i, count, "craft") for i in range(count)))) == 1
    with pytest.raises(UsageError, match="0 <= i < n"):
        PLAN.shard(count, count)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plan: plan["jobs"][0].update(title="other"), "was edited"),
        (lambda plan: plan["jobs"].reverse(), "was edited"),
        (lambda plan: plan.update(schema=9), "schema 2, got 9"),
        (lambda plan: plan.update(more=1), "a plan's fields"),
        (lambda plan: plan["jobs"][0].update(id="../../../etc/pas"), "matching regex"),
        (lambda plan: plan["jobs"][0].update(title=3), "Expected `str`, got `int`"),
        (lambda plan: plan["jobs"][0].update(request={"seed": "x"}), "Expected `int`, got `str`"),
        (lambda plan: plan["jobs"][0].pop("needs"), "missing required field `needs`"),
    ],
)
def test_an_edited_plan_is_refused(change, message, tmp_path):
    raw = json.loads(PLAN.to_json())
    change(raw)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(ArtefactError, match=message):
        read_plan(path)


CLAIMS = {"a-claim": ClaimLabel(digest="0" * 16, trials=7)}


def test_a_plan_for_claims_says_which(tmp_path):
    plan = make_plan(PLAN.jobs, claims=CLAIMS)
    assert plan.digest != PLAN.digest
    assert "claims" not in json.loads(PLAN.to_json())
    path = tmp_path / "plan.json"
    write_plan(plan, path)
    assert read_plan(path) == plan
    for change, message in (({"trials": 8}, "was edited"), ({"trials": "8"}, "Expected `int`")):
        raw = json.loads(plan.to_json())
        raw["claims"]["a-claim"].update(change)
        path.write_text(json.dumps(raw))
        with pytest.raises(ArtefactError, match=message):
            read_plan(path)


def test_runs_of_a_plan_for_claims_say_so_in_their_records(tiny, results, tmp_path):
    jobs = read_plan(plan_of(lines_of(tiny, trials=1), tmp_path / "plain.json")).jobs
    for name, claims in (("plain", {}), ("claims", CLAIMS)):
        where, path = results / name, tmp_path / f"{name}-plan.json"
        write_plan(make_plan(jobs, claims=claims), path)
        done("sweep", "run", path, "--results", where)
        (copy,) = Store(where).plans.iterdir()
        assert copy.read_bytes() == path.read_bytes()
    (plain,), (labelled,) = records_of(results / "plain"), records_of(results / "claims")
    assert labelled.id == plain.id
    assert (plain.labels.claims, labelled.labels.claims) == (None, CLAIMS)


def test_a_job_behind_what_needs_it_is_refused(tmp_path):
    backwards = make_plan([job(5, "craft", needs=(job(6, "craft").id,)), job(6, "craft")])
    write_plan(backwards, tmp_path / "plan.json")
    with pytest.raises(ArtefactError, match="behind the jobs that it needs"):
        read_plan(tmp_path / "plan.json")


def test_a_runs_key_forgets_the_digest_of_a_crafted_poison_alone():
    pools = {"pgd": "a", "dap": "b"}
    specs = [make_record(rho=0.6, digest=digest).spec for digest in ("first", "second")]
    assert run_key(specs[0], pools) == run_key(specs[1], pools)
    assert run_key(specs[0], pools) != run_key(specs[0], pools | {"dap": "c"})
    assert run_key(specs[0], {}) != run_key(specs[1], {})
    origins = {name: pool_label(name, pools[name]) for name in pools}
    record = make_record(rho=0.6, labels={"poison": {"id": "x", "pools": origins}})
    asked = changed(record, spec={"poison": {"digest": None}}).spec
    assert record_key(record) == run_key(asked, pools)
    assert record_key(make_record()) == run_key(make_record().spec, {})


@pytest.mark.parametrize("share", ["--rho 0.05", "--rho 0.2 --selection uniform", ""])
@pytest.mark.parametrize("attack", ["badnets", "narcissus", "pgd"])
def test_a_poisons_command_makes_the_poison_that_its_run_needs(share, attack, tiny, tmp_path):
    if attack == "narcissus" and not share:
        # Its own share of so few images is none.
        share = "--rho 0.01"
    lines = [f"poisonbench defend --method none --dataset {tiny} --attack {attack} {share}"]
    craft, run = read_plan(plan_of(lines, tmp_path / "plan.json")).jobs
    (again,) = read_plan(plan_of([command_of(craft.request)], tmp_path / "craft.json")).jobs
    assert run.needs == (craft.id,) == (again.id,)


def test_lines_are_what_the_report_misses(results, monkeypatch):
    line = ("sweep", "plan", "--dataset", "mnist-sample", "--results", results)
    lines = done(*line, "--methods", "hint", "--trials", "2").out.splitlines()
    assert len(lines) == 12
    assert lines[3] == (
        "poisonbench defend --method hint --dataset mnist-sample --rho 0.2 --poison-trial 1 "
        f"--trial 1 --results {results}"
    )
    record = make_record(dataset="mnist-sample", method="hint", rho=0.2, trial=1, draw=1)
    Store(results).write_record(record)
    assert done(*line, "--methods", "hint", "--trials", "2").out.splitlines() == [
        text for text in lines if "0.2 --poison-trial 1 --trial 1" not in text
    ]
    missing = done("report", "--missing", "--dataset", "mnist-sample", "--results", results)
    assert sorted(done(*line).out.splitlines()) == sorted(missing.out.splitlines())
    assert "did you mean 'hint'?" in cli(*line, "--methods", "hin").err


def test_a_plan_for_claims_says_what_it_costs_before_it_is_made(results, tmp_path):
    line = ("sweep", "plan", "--for-claims", "--results", results, "--dataset", "mnist-sample")
    outcome = done(*line)
    lines = outcome.out.splitlines()
    assert [text.split(":")[0] for text in lines[:-1]] == [
        "hint-beats-defenses-mnist-sample-1.0",
        "hint-defends-mnist-sample-1.0",
    ]
    assert lines[-1] == (
        "25 run(s), of which 0 are done; 25 to do, on 20 poison(s); no run like them says how long "
        "they take; crafting not counted, no poison like them was crafted here"
    )
    assert "add --json --output PLAN" in outcome.err
    record = make_record(
        dataset="mnist-sample", method="hint", rho=1.0, trial=0, seconds=3600.0, session=3600.0
    )
    Store(results).write_record(record)
    for attack, poisons, seconds in (("dc", 1, 7200.0), ("pgd", 2, 7200.0)):
        cost = {"dataset": "mnist-sample", "attack": attack, "poisons": poisons, "seconds": seconds}
        write_text(Store(results).crafting_path(attack), json.dumps(cost))
    write_text(Store(results).crafting_path("damaged"), "{")
    # What the run that is done trained on is not crafted again: four draws of each are left.
    assert done(*line).out.splitlines()[-1] == (
        "25 run(s), of which 1 are done; 24 to do, on 20 poison(s), 4.0 hours by the times of like "
        "runs, without 20 that are like none; crafting 12.0 hours by the times of like poisons, "
        "without 8 that are like none"
    )
    warned = [text for text in done(*line).out.splitlines() if text.startswith("warning: ")]
    assert [text.split(": ")[1] for text in warned] == [text.split(":")[0] for text in lines[:-1]]
    fewer = done(*line, "--trials", "2")
    assert "2 seed(s) on 2 poison(s) by choice, of 5" in fewer.out
    assert "10 run(s)" in fewer.out

    path = tmp_path / "plan.json"
    told = done(*line, "--trials", "2", "--json", "--output", path)
    assert told.out == ""
    assert fewer.out in told.err
    plan = read_plan(path)
    assert len(plan.only("defend")) == 10
    assert {run.request.poison.trial for run in plan.only("defend")} == {0, 1}
    own = {claim.id: claim.digest for claim in shipped()}
    assert {name: label.digest for name, label in plan.claims.items()} == {
        name: own[name] for name in plan.claims
    }
    assert {label.trials for label in plan.claims.values()} == {2}
    # A program is told too, by the plan and by what is shown of it.
    assert [f"warning: {text}" for text in plan.warnings] == warned
    status = done("sweep", "status", path, "--json", "--results", results)
    assert json.loads(status.out)["warnings"] == list(plan.warnings)
    assert warned[0] in done("sweep", "status", path, "--results", results).out
    assert "seed(s)" not in done(*line, "--dry-run", "--quiet").err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--methods", "hint"), "a claim needs all the runs that it compares"),
        (("--lines", "-"), "without --lines and --methods"),
        (("--table", "4"), "a table with declared claims, got 4; there are some of 2 (cifar10)"),
        (("--table", "5", "--dataset", "mnist"), "got 5 on mnist"),
    ],
)
def test_what_claims_cannot_be_planned_with_is_refused(words, message, results):
    outcome = cli("sweep", "plan", "--for-claims", "--results", results, *words)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err


def test_a_gpu_that_is_not_there_is_said_before_a_job_fails(results, tmp_path):
    plan = tmp_path / "plan.json"
    words = ("--methods", "none", "--dataset", "mnist-sample", "--trials", "1", "--json")
    done("sweep", "plan", *words, "--output", plan, "--results", results)
    outcome = cli("sweep", "run", plan, "--devices", "cuda:99", "--results", results)
    assert (outcome.code, outcome.out) == (2, "")
    assert "--devices: expected a CUDA device that exists, got 'cuda:99'" in outcome.err
    assert not list(results.rglob("failed/*"))


def test_defenses_that_the_paper_lacks_are_planned_when_named(results):
    line = ("sweep", "plan", "--dataset", "mnist-sample", "--results", results, "--trials", "1")
    lines = done(*line, "--methods", "clean-only,jpeg").out.splitlines()
    shares = [text.split("--rho ")[1].split()[0] for text in lines if "clean-only" in text]
    assert shares == ["0", "0.2", "0.4", "0.6", "0.8"]
    assert len(lines) == 5 + 6
    outcome = cli(*line, "--table", "4", "--methods", "hint,epic")
    assert (outcome.code, outcome.out) == (2, "")
    assert "table 4 on mnist-sample has, got epic; it has these: hint" in outcome.err
    words = ("--table", "baseline-1", "--dataset", "mnist", "--methods", "knn")
    outcome = cli("sweep", "plan", "--results", results, *words)
    assert "got knn; it has no cells there" in outcome.err


@pytest.mark.parametrize("table", ["1", "2"])
def test_what_has_run_counts_as_for_the_report(table, results):
    Store(results).write_record(make_record(dataset="mnist-sample", method="hint", rho=0.6))
    words = ("--table", table, "--dataset", "mnist-sample", "--results", results)
    planned = done("sweep", "plan", *words).out.splitlines()
    assert sorted(planned) == sorted(done("report", "--missing", *words).out.splitlines())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("poisonbench list --attack pgd", "line 1: expected poisonbench defend"),
        ("poisonbench craft --preset quick", "line 1: Missing option '--attack'"),
        ("poisonbench craft --attack pgd --ratio 2 --preset quick", "line 1: pgd has no option"),
        ("poisonbench defend --method hint --dataset 'x", "line 1: expected a shell command"),
        ("\npoisonbench defend --method hint --ratoi 1 --preset quick", "line 2: "),
        ("poisonbench defend --method hint --ratio 2 --preset quick", "line 1: hint: "),
    ],
)
def test_a_bad_line_is_named(text, message, tmp_path):
    path = tmp_path / "lines"
    path.write_text(text)
    outcome = cli("sweep", "plan", "--lines", path, "--json")
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err


# Running


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


def sweep(*words, **options):
    """The program in a process of its own, as a user starts it."""
    command = [sys.executable, "-m", "poisonbench", "sweep", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        **options,
    )  # fmt: skip


@pytest.mark.slow
def test_a_sweep_runs_all_but_what_fails_and_says_so(tiny, tmp_path, results):
    """Poisons once and first, two processes, a job that diverges, and all of it seen again."""
    bad = lines_of(tiny, trials=1, extra="--learning-rate 1e30")
    path = plan_of([*bad, *lines_of(tiny, attacks="durp+pgd")], tmp_path / "plan.json")
    program = sweep("run", path, "--results", results, "--jobs", 2)
    _, err = program.communicate(timeout=300)
    assert program.returncode == 4, err
    assert "4 of 5 jobs are done" in err
    mixed = "start none npz:tiny.npz durp+pgd"
    assert err.index("start poison pgd") < err.index(mixed)
    plan = read_plan(path)
    kept = records_of(results)
    assert [record.environment.plan for record in kept] == [plan.digest] * 2
    assert {record_key(record) for record in kept} == {job.id for job in plan.only("defend")[1:]}
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
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
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


def test_the_script_of_an_array_job(tmp_path, results):
    write_plan(PLAN, tmp_path / "my plan.json")
    line = ("sweep", "script", tmp_path / "my plan.json", "--results", results)
    text = done(*line, "--shards", 4, "--at-once", 2, "--time", "4:00:00", "--gpus", 2).out
    assert text.startswith("#!/bin/bash\n#SBATCH ")
    # SLURM fails a task whose log has no folder.
    (log,) = (word for word in text.split() if word.startswith("--output="))
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
