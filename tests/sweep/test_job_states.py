"""What sweeps leave for each other in a results folder: leases, states, costs, rubbish."""

import errno
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.command_line import PLAN, POISON, RUNS, done, files_in, job
from helpers.synthetic_runs import make_record, targeted_run
from poisonbench.core import files
from poisonbench.data.artefacts import read_poison
from poisonbench.requests import PoisonRequest, RunRequest
from poisonbench.results.records import read_record
from poisonbench.results.run_keys import record_key
from poisonbench.results.store import Store
from poisonbench.sweep import lease as leases_module
from poisonbench.sweep.costs import Costs
from poisonbench.sweep.garbage import find_garbage, unfinished_checkpoints
from poisonbench.sweep.job_states import Failure, JobStates, State
from poisonbench.sweep.lease import Leases, Owner
from poisonbench.sweep.plan import Job, make_plan, read_plan, write_plan

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
    assert second.read("a").is_of(second.me)
    assert [path.name for path in files_in(second.folder)] == ["a.lease"]


def gone(**fields):
    """A process of this machine that has ended."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = leases_module._process(child.pid)
    assert process.startswith(f"{child.pid}:")
    child.communicate()
    return Owner(token="t", host=Owner.me().host, process=process, **fields)


def test_a_process_of_this_machine_that_has_ended_holds_nothing(two):
    first, second = two
    first.me = gone()
    assert first.take("a")
    assert second.take("a")


def test_a_process_elsewhere_is_believed_to_live(two):
    first, second = two
    first.me = Owner(token="t", host="elsewhere", process=gone().process)
    first.take("a")
    assert not second.take("a")


def test_an_earlier_start_of_the_same_slurm_job_holds_nothing(two):
    first, second = two
    first.me = Owner(token="t", host="elsewhere", process="1:1", slurm="7_3", restarts=0)
    first.take("a")
    second.me = Owner(token="u", host="here", process="1:1", slurm="7_4", restarts=1)
    assert not second.take("a")
    second.me = Owner(token="u", host="here", process="1:1", slurm="7_3", restarts=1)
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
    job_states, other = JobStates(store), JobStates(store)
    run = RUNS[0]
    assert job_states.state(run) is State.PLANNED
    other.leases.take(run.id)
    assert job_states.state(run) is State.RUNNING
    other.leases.release(run.id, is_interrupted=True)
    assert job_states.state(run) is State.INTERRUPTED
    other.write_failure(run, Failure(1, "diverged", "log"))
    assert job_states.state(run) is State.FAILED
    assert job_states.failure(run).reason == "diverged"
    record = make_record()
    mine = job(2, needs=()).__class__(**{**vars(run), "id": record_key(record)})
    other.write_failure(mine, Failure(1, "diverged", "log"))
    assert job_states.states([mine]) == {mine.id: State.FAILED}
    store.write_record(record)
    assert job_states.states([mine]) == {mine.id: State.DONE}
    assert job_states.failure(mine) is None
    assert other.clear_failure(run)
    assert not other.clear_failure(run)
    store.poison_path(POISON.id).mkdir(parents=True)
    assert job_states.state(POISON) is State.DONE


def test_an_unreadable_record_is_told_once_and_its_run_is_not_done(tmp_path):
    told = []
    job_states = JobStates(Store(tmp_path), on_error=told.append)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a.json").write_text("{")
    job_states.refresh()
    job_states.refresh()
    assert len(told) == 1
    assert job_states.records == {}


def test_costs_are_means_by_data_set_and_method():
    costs = Costs(make_record(trial=trial, seconds=(10, 30)[trial]) for trial in (0, 1))
    none, hint = job(1, method="none"), job(2, method="hint")
    assert costs.of(none) == 20
    assert costs.of(hint) is None
    assert costs.left([none, none, POISON]) == 40
    assert costs.left([none, hint]) is None


@pytest.mark.parametrize(
    ("attack", "dataset", "asked", "seconds"),
    [
        ("pgd", "mnist", None, 100),
        ("gm", "mnist", None, 100),
        ("fc", "mnist", None, 4),
        ("fc", "mnist", "finetune", 60),
        ("mp", "mnist", None, 100),
        ("mp", "mnist-sample@1000", None, 60),
        ("mp", "mnist@quick", None, 60),
    ],
)
def test_costs_tell_scenarios_apart(attack, dataset, asked, seconds):
    times = {"scratch": 100, "transfer": 4, "finetune": 60}
    costs = Costs(
        targeted_run(True, dataset=dataset, scenario=name, seconds=time)
        for name, time in times.items()
    )
    targeting = {"scenario": asked} if asked else {}
    poison = PoisonRequest(attacks=(attack,), targeting=targeting)
    request = RunRequest(method="none", dataset=dataset, poison=poison)
    assert costs.of(Job(id="a", request=request, title="")) == seconds


def test_what_is_left_counts_down_and_is_shared_by_processes():
    costs = Costs([make_record(seconds=20)])
    one, two, three = jobs = [job(number, method="none") for number in (1, 2, 3)]
    assert costs.left(jobs, {one.id: 5.0}) == 55
    assert costs.left(jobs, {one.id: 5.0, two.id: 99.0}) == 35
    assert costs.left(jobs, num_processes=2) == 30
    assert costs.left([three], {three.id: 5.0}, num_processes=2) == 15, "one run is not shared out"
    assert costs.left([], num_processes=2) == 0


def test_estimates_stand_for_what_is_like_nothing():
    none, hint = job(2, method="none"), job(3, method="hint")
    costs = Costs([make_record(seconds=20)], estimates={hint.id: 7.0, none.id: 99.0})
    assert costs.of(hint) == 7
    assert costs.left([none, hint, POISON]) == 27, "like runs say more than an estimate"
    costs = Costs([], estimates={hint.id: 7.0, POISON.id: 2.0})
    assert costs.left([hint, POISON], {POISON.id: 1.0}) == 8


def test_status_and_dry_run_give_the_hours_of_what_is_left(tmp_path, results):
    write_plan(PLAN, tmp_path / "plan.json")
    line = ("sweep", "status", tmp_path / "plan.json", "--results", results)

    def hours():
        rows = [text.split() for text in done(*line).out.splitlines()[2:]]
        return {" ".join(words[:-6]): words[-1] for words in rows}

    assert hours() == {"poison pgd mnist": "?", "hint mnist": "?", "all": "?"}
    records = [make_record(method="hint", trial=t, seconds=(2, 718)[t]) for t in (0, 1)]
    Store(results).write_record(records[0])
    assert hours() == {"poison pgd mnist": "?", "hint mnist": "<0.01", "all": "<0.01+?"}
    Store(results).write_record(records[1])
    assert hours() == {"poison pgd mnist": "?", "hint mnist": "1.00", "all": "1.00+?"}
    Store(results).poison_path(POISON.id).mkdir(parents=True)
    assert hours() == {"poison pgd mnist": "0.00", "hint mnist": "1.00", "all": "1.00"}


def test_with_save_model_the_weights_are_a_part_of_what_is_done(tmp_path):
    store = Store(tmp_path)
    record = make_record()
    store.write_record(record)
    request = RunRequest(method=record.spec.method, dataset="tiny")
    plain = Job(id=record_key(record), request=request, title="plain")
    kept = replace(plain, request=replace(request, save_model=True))
    # Of two lines of one run the one that keeps its weights is planned.
    for jobs in ((plain, kept), (kept, plain)):
        assert make_plan(jobs).jobs == (kept,)
    states = JobStates(store)
    states.refresh()
    assert states.is_done(plain)
    assert not states.is_done(kept)
    store.model_path(record.id).parent.mkdir(parents=True)
    store.model_path(record.id).write_bytes(b"x")
    assert states.is_done(kept)


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


@pytest.mark.parametrize("has_model", [False, True])
def test_a_training_for_weights_after_the_record_is_not_rubbish(tmp_path, has_model):
    store = Store(tmp_path)
    record = make_record()
    path = store.write_record(record)
    state = store.checkpoint_path(record.id) / "state.safetensors"
    state.parent.mkdir(parents=True)
    state.write_bytes(b"x")
    os.utime(path, (0, 0))
    if has_model:
        store.model_path(record.id).parent.mkdir(parents=True)
        store.model_path(record.id).write_bytes(b"x")
    found = find_garbage(store, stale=-1), unfinished_checkpoints(store)
    assert [len(items) for items in found] == ([1, 0] if has_model else [0, 1])


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
    garbage = {item.path for item in find_garbage(store)}
    expected = {rubbish[0].parent, rubbish[1], rubbish[2], rubbish[3].parent, dead.path("dead")}
    expected |= {rubbish[4].parent, rubbish[5]}
    assert garbage == expected
    outcome = done("sweep", "gc", "--results", tmp_path)
    assert outcome.err.startswith("7 item(s), ")
    unfinished = f"{store.checkpoint_path('going')}  3 bytes  checkpoint of an unfinished run"
    assert unfinished in outcome.out
    assert all(path.exists() for path in expected)
    assert done("sweep", "gc", "--results", tmp_path, "--yes", "--json").json["deleted"]
    assert not any(path.exists() for path in expected)
    assert all(path.exists() for path in kept)
    listed = done("sweep", "gc", "--results", tmp_path, "--json").json
    assert listed["garbage"] == []
    assert [Path(item["path"]).name for item in listed["kept"]] == ["going"]
