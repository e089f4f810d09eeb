"""Reports of a results folder: missing commands, verdicts, formats; the sample end to end."""

import json
import shlex

import pytest

from helpers.command_line import cli, done
from helpers.synthetic_runs import make_record, request_of
from poisonbench.cli.main import load_command
from poisonbench.registry import defenses
from poisonbench.results.published import METHOD_LABELS
from poisonbench.results.store import Store
from poisonbench.runs.method_settings import read_settings

# report


@pytest.mark.parametrize("table", ["1", "2"])
def test_missing_commands_are_command_lines_of_this_program(table, results):
    from poisonbench.data.sources import load_dataset

    words = ("report", "--table", table, "--dataset", "mnist-sample", "--results", results)
    commands = done(*words, "--missing", "--quiet").out.splitlines()
    data = load_dataset("mnist-sample", results, 0)
    assert len(commands) == (1 if table == "1" else len(METHOD_LABELS) * 6 * 5)
    for command in commands:
        assert command.endswith(f" --results {results}")
        request = request_of(command)
        assert request.dataset == "mnist-sample"
        entry = defenses()[request.method]
        assert read_settings(entry, data, request.profile, request.settings).overrides == {}
    assert done(*words, "--missing", "--json").json == {"missing": commands, "unpaired": []}


def test_missing_commands_know_the_default_folder(results, monkeypatch):
    monkeypatch.setenv("POISONBENCH_RESULTS", str(results))
    commands = done("report", "--missing", "--quiet").out.splitlines()
    assert len(commands) == 2 * len(METHOD_LABELS) * 6 * 5
    assert all("--results" not in command for command in commands)
    parser = load_command("defend")
    contexts = [parser.make_context("defend", shlex.split(command)[2:]) for command in commands]
    assert all(context.params["results"] == results for context in contexts)


def fake_runs(results, accuracies, dataset="mnist", rho=0.0):
    """Records as runs of that data set with the paper's settings would leave them."""
    for trial, accuracy in enumerate(accuracies):
        Store(results).write_record(make_record(accuracy, dataset=dataset, trial=trial))


def test_check_exits_with_3_on_a_deviation_alone(results):
    results.mkdir()
    words = ("report", "--table", "2", "--dataset", "mnist", "--results", results, "--check")
    outcome = cli(*words)
    assert outcome.code == 4
    assert "check: 0 of 0 compared figure(s) differ" in outcome.err
    fake_runs(results, [0.501, 0.5, 0.499, 0.502, 0.498])
    outcome = cli(*words)
    assert outcome.code == 3
    assert "check: 1 of 1 compared figure(s) differ" in outcome.err
    assert "\n0.0  50.00±0.16" in outcome.out
    assert cli(*words, "--quiet").err == ""
    assert cli(*words, "--json").code == 3
    assert cli(*words, "--json").json["table"] == "2"


def test_missing_commands_leave_out_what_is_done(results):
    words = ("report", "--table", "2", "--dataset", "mnist", "--results", results, "--missing")
    before = done(*words).out.splitlines()
    fake_runs(results, [0.5, 0.5])
    after = done(*words).out.splitlines()
    gone = [command for command in before if command not in after]
    assert len(after) == len(before) - 2
    assert all("--method none" in c and "--rho 0 " in c for c in gone)
    assert done(*words).err == f"{len(after)} run(s) missing\n"


def test_report_formats_and_output(results, tmp_path):
    fake_runs(results, [0.9, 0.92])
    words = ("report", "--table", "2", "--dataset", "mnist", "--results", results, "--quiet")
    cell = "91.00±1.41 (2 of 5)"
    signs = {
        "rich": ("Table II", f"\n0.0  {cell}  "),
        "markdown": ("| ", f"\n| 0.0 | {cell} | "),
        "csv": ("dataset,", "\n2,uniform,mnist,0.0,none,test_accuracy,0.91,0.0141421356,2,"),
        "json": ("{", '"mean": 0.91, "n": 2, "std": 0.0141421356}, "method": "none"'),
        "latex": ("\\begin{", "\n0.0 & 91.00$\\pm$1.41 (2 of 5) & "),
        "html": ("<!doctype html>", f'<td class="figure">{cell}</td>'),
    }
    for name, fragments in signs.items():
        outcome = done(*words, "--format", name)
        for fragment in fragments:
            assert fragment in outcome.out
        assert done(*words, "--format", name, "--output", tmp_path / name).out == ""
        assert (tmp_path / name).read_text() == outcome.out
    assert done(*words, "--json").json == json.loads((tmp_path / "json").read_text())


# End to end


@pytest.mark.slow
def test_end_to_end_on_the_embedded_sample(results):
    """A reader's first ten minutes, cut short: craft, defend, report."""
    words = ("--preset", "quick", "--results", results)
    crafted = done("craft", "--attack", "durp", "--rho", "0.2", *words)
    path = crafted.out.strip()
    audit = done("inspect", path, "--json").json
    assert audit["dataset"] == "mnist-sample"
    assert audit["num_poisons"] == 2000
    assert 0 < audit["max_abs_levels"] <= 76
    words = (*words, "--poison", path, "--json")
    settings = ("--epochs", "2", "--schedule", "1", "--ratio", "0.25")
    hint = done("defend", "--method", "hint", *settings, *words).json
    assert hint["test_accuracy"] > 0.8
    report = done("report", "--table", "2", "--results", results)
    assert "MNIST sample (not the paper's data)" in report.out
    assert "1 other run(s) are not averaged" in report.out
    assert report.err == ""
