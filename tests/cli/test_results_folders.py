"""A results folder that does not exist: a mistake where it is read, made where it is written."""

import pytest

from helpers.command_line import PLAN, cli, done, refused
from helpers.synthetic_runs import make_record
from poisonbench.results.store import Store
from poisonbench.sweep.plan import write_plan

READING = [
    ("report",),
    ("report", "--runs"),
    ("report", "--table", "2", "--check"),
    ("page",),
    ("figure", "3", "--quiet"),
    ("figure", "sensitivity", "--dataset", "mnist"),
    ("sweep", "gc"),
]


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_a_mistyped_folder_is_refused(words, results):
    message = refused(2, results, *words)
    assert f"--results: expected a folder of results, got {results}, which" in message
    assert "poisonbench defend" in message
    assert not results.exists()


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_an_empty_folder_is_none(words, results, tmp_path):
    results.mkdir()
    more = ("--output", tmp_path / "page.html") if words == ("page",) else ()
    assert "which" not in cli(*words, *more, "--results", results).err


def test_the_folder_that_is_taken_untold_may_be_lacking(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "results, which does not exist yet; --missing prints" in done("report").err
    monkeypatch.setenv("POISONBENCH_RESULTS", "nosuch")
    assert cli("report").code == 2


def test_commands_and_plans_are_for_a_folder_that_is_not_there_yet(results, tmp_path):
    outcome = done("report", "--missing", "--results", results)
    assert f"no run records in {results}, which does not exist yet\n" in outcome.err
    assert outcome.out.splitlines()[0].endswith(f"--results {results}")
    path = tmp_path / "plan.json"
    write_plan(PLAN, path)
    outcome = done("sweep", "status", path, "--results", results)
    assert f"{results} does not exist yet, so that no job is done" in outcome.err
    # None of its jobs can have failed there.
    assert "which does not exist" in refused(2, results, "sweep", "retry", path, "--failed")
    results.mkdir()
    assert done("sweep", "status", path, "--results", results).err == ""
    assert not list(results.iterdir())


def test_commands_for_what_a_folder_of_submissions_lacks_fill_that_folder(results, tmp_path):
    for trial in range(3):
        Store(results).write_record(make_record(trial=trial))
    board = tmp_path / "board"
    board.mkdir()
    done("submit", results, "--output", board / "ada.submission.zip")
    line = ("report", "--missing", "--dataset", "mnist", "--results", board)
    commands = done(*line).out.splitlines()
    assert len(commands) == 147
    assert all(command.endswith(f" --results {board}") for command in commands)
    Store(board).write_record(make_record(trial=3))
    assert done(*line).out.splitlines() == commands[1:]
