"""Sweeps: plans, leases, states, running side by side, signals, retries, rubbish."""

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import cli, done, files_in
from synthetic_runs import make_record, pin_registry

from poisonbench import files
from poisonbench.data.artefacts import read_poison
from poisonbench.errors import ArtefactError, UsageError
from poisonbench.results.records import read_record
from poisonbench.results.store import Store
from poisonbench.signals import Stopping
from poisonbench.sweep import lease as leases_module
from poisonbench.sweep.board import Board, Failure, State
from poisonbench.sweep.costs import Costs
from poisonbench.sweep.execute import Sweep, threads
from poisonbench.sweep.garbage import find_garbage
from poisonbench.sweep.lease import Leases, Owner
from poisonbench.sweep.plan import Job, make_plan, read_plan, record_key, run_key, write_plan
from poisonbench.sweep.view import View


def job(number, kind="defend", method="hint", **fields):
    names = {"words": (kind, "--trial", str(number)), "title": f"{kind} {number}"}
    return Job(id=f"{number:016x}", kind=kind, dataset="mnist", method=method, **(names | fields))


POISON = job(1, "craft", "pgd")
RUNS = [job(number, needs=(POISON.id,)) for number in range(2, 12)]
PLAN = make_plan([*RUNS, POISON, *RUNS])


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
        (lambda plan: plan.update(schema=9), "schema 1, got 9"),
        (lambda plan: plan.update(more=1), "a plan's fields"),
        (lambda plan: plan["jobs"][0].update(id="../../../etc/pas"), "a kind and an id"),
        (lambda plan: plan["jobs"][0].update(words="defend"), "words to be text"),
        (lambda plan: plan["jobs"][0].pop("needs"), "expected jobs with"),
    ],
)
def test_an_edited_plan_is_refused(change, message, tmp_path):
    raw = json.loads(PLAN.to_json())
    change(raw)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(ArtefactError, match=message):
        read_plan(path)


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
    labels = {"poison": {"id": "x", "pools": {name: {"id": pools[name]} for name in pools}}}
    record = make_record(rho=0.6, labels=labels)
    asked = {**record.spec, "poison": dict(record.spec["poison"])}
    del asked["poison"]["digest"]
    assert record_key(record) == run_key(asked, pools)
    assert record_key(make_record()) == run_key(make_record().spec, {})


def test_lines_are_what_the_report_misses(results, monkeypatch):
    pin_registry(monkeypatch)
    line = ("sweep", "plan", "--dataset", "mnist-sample", "--results", results)
    lines = done(*line, "--methods", "hint", "--trials", "2").out.splitlines()
    assert len(lines) == 12
    assert lines[3] == (
        "poisonbench defend --method hint --dataset mnist-sample --rho 0.2 --trial 1 "
        f"--results {results}"
    )
    record = make_record(dataset="mnist-sample", method="hint", rho=0.2, trial=1)
    Store(results).write_record(record)
    assert done(*line, "--methods", "hint", "--trials", "2").out.splitlines() == [
        text for text in lines if "0.2 --trial 1" not in text
    ]
    missing = done("report", "--missing", "--dataset", "mnist-sample", "--results", results)
    assert sorted(done(*line).out.splitlines()) == sorted(missing.out.splitlines())
    assert "hint" in cli(*line, "--methods", "hin").err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("poisonbench craft --attack pgd", "line 1: expected poisonbench defend"),
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


# Leases


@pytest.fixture
def two(tmp_path):
    first, second = (Leases(tmp_path / "leases") for _ in range(2))
    assert first.me.token != second.me.token
    return first, second


def test_a_lease_excludes_until_it_is_released(two):
    first, second = two
    assert first.take("a")
    assert not second.take("a")
    assert second.is_taken("a")
    assert not first.is_taken("a")
    first.release("a")
    assert second.take("a")
    # Released by its owner alone.
    first.release("a")
    assert second.path("a").exists()


def test_a_lease_dies_when_it_is_not_touched(two, monkeypatch):
    first, second = two
    first.take("a")
    old = time.time() - leases_module.LIFETIME - 1
    os.utime(first.path("a"), (old, old))
    assert not second.is_taken("a")
    monkeypatch.setattr(leases_module, "HEARTBEAT", 0)
    first.beat()
    assert second.is_taken("a")
    os.utime(first.path("a"), (old, old))
    assert second.take("a")
    assert second.read("a").owner == second.me
    assert [path.name for path in files_in(second.folder)] == ["a.lease"]


def gone(**fields):
    """A process of this machine that has ended."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = leases_module._process(child.pid)
    assert process.startswith(f"{child.pid}:")
    child.communicate()
    return Owner(token="t", place=Owner.me().place, process=process, **fields)


def test_a_process_of_this_machine_that_has_ended_holds_nothing(two):
    first, second = two
    first.me = gone()
    assert first.take("a")
    assert second.take("a")


def test_a_process_elsewhere_is_believed_to_live(two):
    first, second = two
    first.me = Owner(token="t", place="elsewhere", process=gone().process)
    first.take("a")
    assert not second.take("a")


def test_an_earlier_start_of_the_same_slurm_job_holds_nothing(two):
    first, second = two
    first.me = Owner(token="t", place="elsewhere", process="1:1", slurm="7_3", restarts=0)
    first.take("a")
    second.me = Owner(token="u", place="here", process="1:1", slurm="7_4", restarts=1)
    assert not second.take("a")
    second.me = Owner(token="u", place="here", process="1:1", slurm="7_3", restarts=1)
    assert second.take("a")


def test_a_damaged_lease_lives_by_its_age(two):
    first, second = two
    first.take("a")
    first.path("a").write_bytes(b'{"token": 3')
    assert not second.take("a")
    os.utime(first.path("a"), (0, 0))
    assert second.take("a")


# States


def test_the_states_of_a_job(tmp_path):
    store = Store(tmp_path)
    board, other = Board(store), Board(store)
    run = RUNS[0]
    assert board.state(run) is State.PLANNED
    other.leases.take(run.id)
    assert board.state(run) is State.RUNNING
    other.leases.release(run.id, is_interrupted=True)
    assert board.state(run) is State.INTERRUPTED
    other.write_failure(run, Failure(1, "diverged", "log"))
    assert board.state(run) is State.FAILED
    assert board.failure(run).reason == "diverged"
    record = make_record()
    mine = job(2, needs=()).__class__(**{**vars(run), "id": record_key(record)})
    other.write_failure(mine, Failure(1, "diverged", "log"))
    assert board.states([mine]) == {mine.id: State.FAILED}
    store.write_record(record)
    assert board.states([mine]) == {mine.id: State.DONE}
    assert board.failure(mine) is None
    assert other.clear_failure(run)
    assert not other.clear_failure(run)
    store.poison_path(POISON.id).mkdir(parents=True)
    assert board.state(POISON) is State.DONE


def test_an_unreadable_record_is_told_once_and_its_run_is_not_done(tmp_path):
    told = []
    board = Board(Store(tmp_path), on_error=told.append)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a.json").write_text("{")
    board.refresh()
    board.refresh()
    assert len(told) == 1
    assert board.records == {}


def test_costs_are_means_by_data_set_and_method():
    records = [make_record(trial=trial) for trial in (0, 1)]
    for record, seconds in zip(records, (10, 30), strict=True):
        record.cost["seconds"] = {"total": seconds}
    costs = Costs(records)
    none, hint = job(1, method="none"), job(2, method="hint")
    assert costs.of(none) == 20
    assert costs.of(hint) is None
    assert costs.left([none, none, POISON]) == 40
    assert costs.left([none, hint]) is None


def test_status_and_dry_run_give_the_hours_of_what_is_left(tmp_path, results):
    write_plan(PLAN, tmp_path / "plan.json")
    line = ("sweep", "status", tmp_path / "plan.json", "--results", results)

    def hours():
        rows = [text.split() for text in done(*line).out.splitlines()[2:]]
        return {" ".join(words[:-6]): words[-1] for words in rows}

    assert hours() == {"poison pgd mnist": "?", "hint mnist": "?", "all": "?"}
    records = [make_record(dataset="mnist", method="hint", trial=trial) for trial in (0, 1)]
    for record, seconds in zip(records, (2, 718), strict=True):
        record.cost["seconds"] = {"total": seconds}
    Store(results).write_record(records[0])
    assert hours() == {"poison pgd mnist": "?", "hint mnist": "<0.01", "all": "<0.01+?"}
    Store(results).write_record(records[1])
    assert hours() == {"poison pgd mnist": "?", "hint mnist": "1.00", "all": "1.00+?"}
    Store(results).poison_path(POISON.id).mkdir(parents=True)
    assert hours() == {"poison pgd mnist": "0.00", "hint mnist": "1.00", "all": "1.00"}


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


# Running


def lines_of(tiny, methods=("none",), trials=2, attacks="durp", epochs=2, extra=""):
    return [
        f"poisonbench defend --method {method} --dataset {tiny} --attack {attacks} --rho 0.5 "
        f"--epochs {epochs} --trial {trial} {extra}"
        for method in methods
        for trial in range(trials)
    ]


def plan_of(lines, path):
    text = path.with_suffix(".txt")
    text.write_text("\n".join(lines))
    done("sweep", "plan", "--lines", text, "--json", "--output", path)
    return path


def sweep(*words, **options):
    """The program in a process of its own, as a user starts it."""
    command = [sys.executable, "-m", "poisonbench", "sweep", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        **options,
    )  # fmt: skip


def records_of(results):
    paths = sorted((results / "runs").glob("[!.]*.json"))
    return [read_record(path) for path in paths if not path.name.endswith(".failed.json")]


@pytest.mark.slow
def test_a_sweep_runs_all_but_what_fails_and_says_so(tiny, tmp_path, results):
    """Poisons once and first, two processes, a job that diverges, and all of it seen again."""
    bad = lines_of(tiny, trials=1, extra="--learning-rate 1e30")
    path = plan_of([*bad, *lines_of(tiny, attacks="durp+pgd")], tmp_path / "plan.json")
    program = sweep("run", path, "--results", results, "--jobs", 2)
    _, err = program.communicate(timeout=300)
    assert program.returncode == 4, err
    assert "4 of 5 jobs are done" in err
    assert err.count("failed: none") == 1
    mixed = f"start none {tiny} durp+pgd"
    assert err.index("start poison pgd") < err.index(mixed)
    plan = read_plan(path)
    made = records_of(results)
    assert [record.environment["plan"] for record in made] == [plan.digest] * 2
    assert {record_key(record) for record in made} == {job.id for job in plan.only("defend")[1:]}
    status = done("sweep", "status", path, "--results", results, "--json").json
    assert status["states"] == {"done": 4, "failed": 1}
    (failed,) = [item for item in status["jobs"] if item["state"] == "failed"]
    assert "finite" in failed["detail"]
    assert Path(failed["detail"].partition("(log: ")[2].rstrip(")")).read_text()
    shown = done("sweep", "status", path, "--results", results).out
    assert "poison pgd" in shown
    assert "failed: none" in shown
    # What failed is left alone until it is retried; what is done is not done again.
    stamps = {path: path.stat().st_mtime_ns for path in (results / "runs").iterdir()}
    again = cli("sweep", "run", path, "--results", results, "--quiet")
    assert again.code == 4
    assert {path: path.stat().st_mtime_ns for path in (results / "runs").iterdir()} == stamps
    assert "none" in done("sweep", "retry", path, "--failed", "--results", results).out
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
    lines = [line for name in ("pgd", "dap") for line in lines_of(tiny, attacks=name)]
    first, second = read_plan(plan_of(lines, tmp_path / "plan.json")).only("craft")
    assert (first.after, second.after) == ((), (first.id,))


def test_a_shard_waits_for_a_surrogate_of_another_shard_only_while_that_is_at_work(tmp_path):
    """It may be in a queue behind this one."""
    first, second = job(1, "craft"), job(2, "craft", after=(job(1).id,))
    board, other = Board(Store(tmp_path)), Board(Store(tmp_path))

    def is_ready(*jobs):
        plan = make_plan([first, second])
        sweep = Sweep(plan, jobs, board, tmp_path, ["cpu"], 1, View(), Stopping())
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
    assert "0 jobs are done" in outcome.err


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


# A shared file system


@pytest.mark.parametrize("number", [errno.ESTALE, errno.ENOENT])
def test_a_read_of_a_shared_file_is_tried_again(tmp_path, monkeypatch, number):
    monkeypatch.setattr(files, "_WAITS", (0, 0))
    errors = [OSError(number, "") for _ in range(3)]
    left = errors[:2]

    def read():
        if left:
            raise left.pop()
        return b"x"

    assert files.retried(tmp_path / "file", read) == b"x"
    left = errors[:]
    with pytest.raises(OSError, match=f"Errno {number}"):
        files.retried(tmp_path / "file", read)
    assert left == []
    left = [OSError(errno.EACCES, ""), OSError(errno.EACCES, "")]
    with pytest.raises(PermissionError):
        files.retried(tmp_path / "file", read)
    assert len(left) == 1


def test_records_poisons_and_plans_are_read_so(tmp_path, artefact, monkeypatch):
    record = Store(tmp_path).write_record(make_record())
    write_plan(PLAN, tmp_path / "plan.json")
    monkeypatch.setattr(files, "_WAITS", (0, 0))
    whole, seen = Path.open, set()

    def stale_at_first(path, *words, **options):
        if path not in seen:
            seen.add(path)
            raise OSError(errno.ESTALE, "Stale file handle")
        return whole(path, *words, **options)

    monkeypatch.setattr(Path, "open", stale_at_first)
    assert read_record(record).id == make_record().id
    assert read_plan(tmp_path / "plan.json") == PLAN
    assert len(read_poison(artefact)) == 270
    assert len(seen) == 4


# Rubbish


def test_gc_finds_what_nothing_needs_and_deletes_on_yes(tmp_path):
    store = Store(tmp_path)
    record = make_record()
    kept = [store.write_record(record), tmp_path / "runs" / ".new.json.x.tmp"]
    kept += [store.checkpoint_path("going") / "state.safetensors"]
    kept += [store.poison_path("crafted") / "card.json"]
    rubbish = [
        store.checkpoint_path(record.id) / "state.safetensors",
        store.checkpoint_path("going") / ".state.safetensors.y.tmp",
        tmp_path / "runs" / ".old.json.x.tmp",
        tmp_path / "poisons" / ".pgd.x.tmp" / "card.json",
        store.checkpoint_path("crafted") / "state.safetensors",
        store.checkpoint_path("going") / "healthy" / ".state.safetensors.z.tmp",
    ]
    for path in (*kept[1:], *rubbish):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    for path in (*rubbish, rubbish[3].parent):
        os.utime(path, (0, 0))
    living, dead = (Leases(store.sweep / "leases") for _ in range(2))
    living.take("alive")
    dead.me = gone()
    dead.take("dead")
    kept.append(living.path("alive"))
    found = {item.path for item in find_garbage(store)}
    expected = {rubbish[0].parent, rubbish[1], rubbish[2], rubbish[3].parent, dead.path("dead")}
    expected |= {rubbish[4].parent, rubbish[5]}
    assert found == expected
    outcome = done("sweep", "gc", "--results", tmp_path)
    assert "7 item(s)" in outcome.err
    assert all(path.exists() for path in expected)
    assert done("sweep", "gc", "--results", tmp_path, "--yes", "--json").json["deleted"]
    assert not any(path.exists() for path in expected)
    assert all(path.exists() for path in kept)
    assert done("sweep", "gc", "--results", tmp_path, "--json").json["garbage"] == []


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
