"""Killed at any moment, a command leaves nothing half-made, and the same command completes it."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import processes
from helpers.command_line import SHORT, cli, done
from helpers.marks import LONG
from poisonbench.cli import session
from poisonbench.core.progress import LogReporter
from poisonbench.data.artefacts import read_poison
from poisonbench.results.records import read_record
from poisonbench.training.checkpoint import Checkpoint

#: What two runs of one spec share; the rest is time and place.
PARTS = ("id", "spec", "labels", "metrics", "curve", "notes", "digests", "warnings")

CRAFT = ("craft", "--attack", "pgd", "--steps", "2", "--epochs", "2")
#: Two steps a round, and a third one that scores.
CRAFT_DC = ("craft", "--attack", "dc", "--rounds", "2", "--batch-size", "100")
CRAFT_DC += ("--surrogate-width", "0.1", "--generator-width", "0.1")
DEFEND = ("defend", "--method", "hint", *SHORT, "--attack", "durp")


def equal(first, second):
    for part in PARTS:
        assert getattr(first, part) == getattr(second, part)


def the_record(results):
    (path,) = (results / "runs").glob("[!.]*")
    return read_record(path)


def read_all(results):
    """Read everything in the store that has its final name; damage raises."""
    for path in (results / "runs").glob("[!.]*"):
        read_record(path)
    for path in (results / "poisons").glob("[!.]*"):
        read_poison(path)
        assert len(list(path.iterdir())) == 3


def bytes_of(results, folder):
    files = [path for path in (results / folder).rglob("*") if path.is_file()]
    return {
        path.relative_to(results): path.read_bytes()
        for path in files
        if not any(part.startswith(".") for part in path.relative_to(results).parts)
    }


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
    """The results of both commands when nothing happens."""
    results = tmp_path_factory.mktemp("undisturbed") / "results"
    for words in (CRAFT, CRAFT_DC, DEFEND):
        done(*words, "--dataset", tiny, "--results", results)
    return results


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "every", "stride", "completed"),
    [
        (CRAFT, 60.0, 5, 2),
        (CRAFT_DC, 0.0, 17, 1),
        (DEFEND, 60.0, 5, 2),
        (DEFEND, 0.0, 23, 1),
        pytest.param(CRAFT, 60.0, 1, 5, marks=LONG),
        pytest.param(CRAFT_DC, 0.0, 5, 1, marks=LONG),
        pytest.param(DEFEND, 60.0, 1, 5, marks=LONG),
        pytest.param(DEFEND, 0.0, 7, 1, marks=LONG),
    ],
)
def test_killed_at_any_moment_of_writing(
    words, every, stride, completed, tiny, undisturbed, tmp_path
):
    """A file half-written, whole and not yet renamed, just renamed; with checkpoints or not.

    Of those killed, each ``completed``-th is run once more to its end.
    """
    killed = 0
    for die_at in range(1, 1000, stride):
        results = tmp_path / str(die_at)
        line = (*words, "--dataset", tiny, "--results", results)
        code = processes.run_killed(line, die_at, every)
        read_all(results)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        killed += 1
        if killed % completed:
            continue
        done(*line)
        read_all(results)
        if words == DEFEND:
            equal(the_record(results), the_record(undisturbed))
        for path, data in bytes_of(results, "poisons").items():
            assert data == (undisturbed / path).read_bytes(), path
        for path, data in bytes_of(results, "models").items():
            assert data == (undisturbed / path).read_bytes(), path
    assert killed * stride >= 15


@pytest.mark.slow
def test_killed_again_and_again_it_still_gets_there(tiny, undisturbed, tmp_path):
    """Each attempt gets a little further than the checkpoint before it."""
    results = tmp_path / "results"
    line = (*DEFEND, "--dataset", tiny, "--results", results)
    codes = []
    while 0 not in codes and len(codes) < 20:
        codes.append(processes.run_killed(line, 25, every=0.0))
        read_all(results)
    assert set(codes[:-1]) == {-signal.SIGKILL}
    assert codes[-1] == 0
    equal(the_record(results), the_record(undisturbed))
    assert not list((results / "checkpoints").iterdir())


class Signalled(LogReporter):
    """A reporter that sends this process a signal when a phase has come so far."""

    where = ("", 0)
    number = signal.SIGTERM

    def __call__(self, phase, done, total, detail=""):
        if (phase, done) == self.where:
            signal.raise_signal(self.number)


@pytest.fixture
def signalled(monkeypatch):
    def arrange(phase, step, number):
        monkeypatch.setattr(Signalled, "where", (phase, step))
        monkeypatch.setattr(Signalled, "number", number)
        monkeypatch.setattr(session, "LogReporter", Signalled)
        before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
        return before

    return arrange


def last(outcome):
    *_, line = outcome.err.splitlines()
    assert line.startswith("error: ")
    assert outcome.out == ""
    return line


# The tiny data set has 3 batches an epoch; HINT's round comes before the second epoch.
@pytest.mark.parametrize("step", [1, 3, 4, 8, 9])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_in_training_leaves_a_checkpoint(
    number, step, signalled, tiny, undisturbed, results
):
    before = signalled("hint", step, number)
    line = (*DEFEND, "--dataset", tiny, "--results", results)
    outcome = cli(*line)
    assert outcome.code == 75
    assert "with a checkpoint; run the same command to continue" in last(outcome)
    assert not (results / "runs").exists()
    (folder,) = (results / "checkpoints").iterdir()
    gc = rf"`poisonbench sweep gc --results {results}`"
    assert re.search(rf"{folder}, \d+\.\d MB, which {gc} lists", last(outcome))
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == before
    signalled("", 0, number)
    done(*line)
    record = the_record(results)
    equal(record, the_record(undisturbed))
    assert record.cost.interruptions == 1
    assert the_record(undisturbed).cost.interruptions == 0
    assert not list((results / "checkpoints").iterdir())


def test_a_run_continues_where_it_stopped(signalled, tiny, results, monkeypatch):
    signalled("hint", 5, signal.SIGTERM)
    line = (*DEFEND, "--dataset", tiny, "--results", results)
    assert cli(*line).code == 75
    steps = []

    class Watching(LogReporter):
        def __call__(self, phase, done, total, detail=""):
            steps.append((phase, done, total))

    monkeypatch.setattr(session, "LogReporter", Watching)
    done(*line)
    assert steps == [("hint", step, 9) for step in (6, 7, 8, 9)]


def test_a_damaged_checkpoint_costs_time_alone(signalled, tiny, undisturbed, results):
    line = (*DEFEND, "--dataset", tiny, "--results", results)
    signalled("hint", 5, signal.SIGTERM)
    assert cli(*line).code == 75
    (folder,) = (results / "checkpoints").iterdir()
    state = folder / "state.safetensors"
    state.write_bytes(state.read_bytes()[:1000])
    signalled("", 0, signal.SIGTERM)
    done(*line)
    equal(the_record(results), the_record(undisturbed))


def test_a_signal_in_the_surrogates_training_leaves_a_checkpoint(
    signalled, tiny, undisturbed, results
):
    signalled("surrogate", 4, signal.SIGTERM)
    line = (*CRAFT, "--dataset", tiny, "--results", results)
    outcome = cli(*line)
    assert outcome.code == 75
    assert "epoch 2 of 2 with a checkpoint" in last(outcome)
    assert not (results / "poisons").exists()
    assert not (results / "models").exists()
    signalled("", 0, signal.SIGTERM)
    done(*line)
    assert not list((results / "checkpoints").iterdir())
    for folder in ("poisons", "models"):
        for path, data in bytes_of(results, folder).items():
            assert data == (undisturbed / path).read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_an_attack_of_seconds_leaves_nothing(number, signalled, tiny, results):
    signalled("cuda", 1, number)
    line = ("craft", "--attack", "cuda", "--dataset", tiny, "--results", results)
    outcome = cli(*line)
    assert outcome.code == 130
    assert "nothing was written, run the same command again" in last(outcome)
    assert not (results / "poisons").exists()
    signalled("", 0, number)
    done(*line)
    read_all(results)


def test_a_surrogate_is_not_trained_again_after_a_signal_in_the_attack(signalled, tiny, results):
    signalled("pgd", 1, signal.SIGTERM)
    line = (*CRAFT, "--dataset", tiny, "--results", results)
    assert cli(*line).code == 75
    (model,) = (results / "models").iterdir()
    stamp = model.stat().st_mtime_ns
    signalled("", 0, signal.SIGTERM)
    assert "continuing pgd from its checkpoint" in done(*line).err
    assert model.stat().st_mtime_ns == stamp
    read_all(results)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("step", [1, 4, 6])
def test_a_signal_in_an_attack_with_a_checkpoint(
    number, step, signalled, tiny, undisturbed, results, monkeypatch
):
    signalled("dc", step, number)
    line = (*CRAFT_DC, "--dataset", tiny, "--results", results)
    outcome = cli(*line)
    assert outcome.code == 75
    assert "with a checkpoint; run the same command to continue" in last(outcome)
    assert not (results / "poisons").exists()
    assert len(list((results / "checkpoints").iterdir())) == 1
    steps = []

    class Watching(LogReporter):
        def __call__(self, phase, done, total, detail=""):
            steps.append((phase, done, total))

    monkeypatch.setattr(session, "LogReporter", Watching)
    assert "continuing dc from its checkpoint" in done(*line).err
    assert steps == [("dc", later, 6) for later in range(step + 1, 7)]
    assert not list((results / "checkpoints").iterdir())
    poisons = bytes_of(results, "poisons")
    assert len(poisons) == 3
    for path, data in poisons.items():
        assert data == (undisturbed / path).read_bytes()


@pytest.mark.parametrize("damage", ["cut", "another's"])
def test_an_attacks_damaged_checkpoint_costs_time_alone(
    damage, signalled, tiny, undisturbed, results
):
    line = (*CRAFT_DC, "--dataset", tiny, "--results", results)
    signalled("dc", 4, signal.SIGTERM)
    assert cli(*line).code == 75
    (folder,) = (results / "checkpoints").iterdir()
    if damage == "cut":
        state = folder / "state.safetensors"
        state.write_bytes(state.read_bytes()[:1000])
    else:
        Checkpoint(folder, "another").write(*Checkpoint(folder, folder.name).read())
    signalled("", 0, signal.SIGTERM)
    outcome = done(*line)
    assert "expected a checkpoint of this dc poison" in outcome.err
    assert "starting over" in outcome.err
    for path, data in bytes_of(results, "poisons").items():
        assert data == (undisturbed / path).read_bytes()


def test_a_finished_poison_discards_a_checkpoint_left_behind(tiny, undisturbed, tmp_path):
    """Killed between publishing the poison and discarding the checkpoint."""
    results = tmp_path / "results"
    shutil.copytree(undisturbed, results)
    (poison,) = (
        path
        for path in (results / "poisons").iterdir()
        if getattr(read_poison(path).card.spec, "attack", None) == "dc"
    )
    left = Checkpoint(results / "checkpoints" / poison.name, poison.name)
    left.write({}, {})
    done(*CRAFT_DC, "--dataset", tiny, "--results", results)
    assert not left.folder.exists()


@pytest.mark.slow
def test_an_attack_killed_again_and_again_continues(tiny, undisturbed, tmp_path):
    """By kill -9: each attempt gets a little further than the save before it."""
    results = tmp_path / "results"
    line = (*CRAFT_DC, "--dataset", tiny, "--results", results)
    reached = []
    for _ in range(3):
        assert processes.run_killed(line, 8, every=0.0) == -signal.SIGKILL
        read_all(results)
        (folder,) = (results / "checkpoints").iterdir()
        position, _ = Checkpoint(folder, folder.name).read()
        reached.append((position["number"], position["step"]))
    assert reached == sorted(set(reached))
    assert "continuing dc from its checkpoint" in done(*line).err
    assert not list((results / "checkpoints").iterdir())
    poisons = bytes_of(results, "poisons")
    assert len(poisons) == 3
    for path, data in poisons.items():
        assert data == (undisturbed / path).read_bytes()


def test_a_second_interrupt_ends_at_once(signalled, tiny, results, monkeypatch):
    class Twice(LogReporter):
        def __call__(self, phase, done, total, detail=""):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(session, "LogReporter", Twice)
    outcome = cli(*DEFEND, "--dataset", tiny, "--results", results)
    assert (outcome.code, last(outcome)) == (130, "error: interrupted")


def test_trials_stop_at_the_signal_and_keep_what_is_done(signalled, tiny, results, monkeypatch):
    seen = []

    class SecondTrial(LogReporter):
        def __call__(self, phase, done, total, detail=""):
            seen.append(done)
            if seen.count(2) == 2:
                signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(session, "LogReporter", SecondTrial)
    outcome = cli(*DEFEND, "--dataset", tiny, "--results", results, "--trials", "3")
    assert outcome.code == 75
    assert outcome.out.count("\n") == 1
    assert the_record(results).spec.trial == 0


def test_checkpoints_are_a_minute_apart():
    assert Checkpoint(Path("x"), "id").every == 60.0


@pytest.mark.slow
def test_the_installed_program_stops_and_continues(tiny, undisturbed, tmp_path):
    """The same from outside: python -m poisonbench, a signal from another process, an exit code."""
    results = tmp_path / "results"
    line = [sys.executable, "-m", "poisonbench", *DEFEND, "--dataset", tiny, "--json"]
    line += ["--results", str(results)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as program:
        for text in program.stderr:
            if text.startswith("training hint"):
                break
        program.send_signal(signal.SIGTERM)
        out, err = program.communicate(timeout=60)
    assert program.returncode == 75, err
    assert out == ""
    assert "run the same command to continue" in err
    summary = done(*line[3:]).json
    record = read_record(Path(summary["path"]))
    assert record.cost.interruptions == 1
    equal(record, the_record(undisturbed))
