"""The command ``poisonbench report``: streams, exit codes, and what it loads."""

import json
import os
import re
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from helpers.synthetic_runs import make_record
from poisonbench.cli.report import report
from poisonbench.core.errors import StoreError, UsageError
from poisonbench.results.store import Store
from poisonbench.tables import catalogue
from poisonbench.tables.render import render

app = typer.Typer()
app.command()(report)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.delenv("POISONBENCH_RESULTS", raising=False)
    (tmp_path / "results").mkdir()
    return Store(tmp_path / "results")


def invoke(store, *arguments):
    return CliRunner().invoke(app, ["--results", str(store.root), *arguments])


def test_a_pipe_gets_natural_width_and_no_torch_is_loaded(store):
    for trial in range(5):
        store.write_record(make_record(0.9687 + 1e-4 * trial, method="hint", trial=trial))
    program = (
        "import sys, typer; from poisonbench.cli.report import report\n"
        "app = typer.Typer(); app.command()(report); app(standalone_mode=False)\n"
        "print('torch' in sys.modules, 'pandas' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "--results", str(store.root)],
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"COLUMNS": "40", "PYTHONIOENCODING": "utf-8"},
        check=True,
    )
    assert re.search(
        r"^0\.0  HINT +96\.89±0\.02 \(5\)  98\.87±0\.01 \(5\) +-1\.98 +"
        r"\[-2\.01, -1\.95\] +differs +5 seeds {20,}0\.09$",
        done.stdout,
        re.MULTILINE,
    )
    assert "\x1b" not in done.stdout
    assert done.stdout.endswith("False False\n")
    assert done.stderr == ""


def test_importing_the_command_loads_neither_torch_nor_scipy():
    program = (
        "import sys, poisonbench.cli.report\n"
        "print([m for m in ('torch', 'scipy', 'pandas', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_missing_prints_commands_alone_on_stdout(store):
    store.write_record(make_record(trial=0))
    done = invoke(store, "--missing", "--dataset", "mnist")
    lines = done.stdout.splitlines()
    assert len(lines) == 149
    assert all(line.startswith("poisonbench defend --method ") for line in lines)
    assert all(line.endswith(f"--results {store.root}") for line in lines)
    assert "149 run(s) missing" in done.stderr
    document = json.loads(invoke(store, "--missing", "--json", "--dataset", "mnist").stdout)
    assert document == {"missing": lines, "unpaired": []}


def test_missing_names_the_folder_only_where_it_must(store, monkeypatch):
    monkeypatch.setenv("POISONBENCH_RESULTS", str(store.root))
    done = CliRunner().invoke(app, ["--missing"])
    assert done.stdout.splitlines()[0].endswith("--trial 0")


@pytest.mark.parametrize(("accuracy", "code"), [(0.9844, 4), (0.9, 3)])
def test_check_exits_with_3_on_a_deviation_and_else_with_4_on_missing_runs(store, accuracy, code):
    for trial in range(5):
        store.write_record(make_record(accuracy + 1e-5 * (trial - 2), trial=trial))
    done = invoke(store, "--check", "--json")
    assert done.exit_code == code
    assert len(json.loads(done.stdout)["cells"]) == 60
    differing = int(code == 3)
    assert f"check: {differing} of 1 compared figure(s) differ, 0 of 0 judged" in done.stderr
    assert "295 run(s) missing" in done.stderr
    assert invoke(store, "--json").exit_code == 0


def test_check_exits_with_0_when_all_is_there_and_agrees(store):
    store.write_record(make_record())
    assert invoke(store, "--table", "1", "--dataset", "mnist", "--check").exit_code == 0
    assert invoke(store, "--table", "1", "--check").exit_code == 4


def test_check_of_the_matrix_counts_the_data_sets_that_have_runs(store):
    chosen = ("--table", "matrix", "--check", "--methods", "none,jpeg", "--attacks")
    for dataset in ("mnist-sample", "folder:photos"):
        store.write_record(make_record(dataset=dataset, labels={"dataset": dataset}))
    counts = []
    for where in (("--dataset", "mnist-sample"), ("--dataset", "folder:photos"), ()):
        done = invoke(store, *chosen, "pgd,dap", *where)
        assert done.exit_code == 4
        counts.append(int(re.search(r"(\d+) run\(s\) missing", done.stderr)[1]))
    assert min(counts) > 0
    assert counts[2] == counts[0] + counts[1]
    # Of the two the sample has no cells of targeted attacks.
    assert invoke(store, *chosen, "gm").exit_code == 4


def test_check_of_nothing_and_of_another_mix_is_no_deviation(store):
    assert invoke(store, "--check").exit_code == 4
    for trial in range(5):
        store.write_record(
            make_record(0.1 + 0.01 * trial, rho=0.6, trial=trial, attacks=("pgd", "dap", "durp"))
        )
    assert invoke(store, "--check").exit_code == 4


@pytest.mark.parametrize(("gain", "code"), [(0.02, 4), (-0.02, 3)])
def test_check_exits_with_3_on_a_claim_that_is_refuted(store, gain, code):
    """Of the paper's data sets; of the sample when it is asked for alone."""
    for trial in range(5):
        noise = 1e-4 * (trial % 3)
        common = {"dataset": "mnist-sample", "trial": trial}
        store.write_record(make_record(0.97, **common))
        store.write_record(make_record(0.97 + gain + noise, method="hint", **common))
    done = invoke(store, "--check", "--dataset", "mnist-sample")
    assert done.exit_code == code
    assert f"{2 * (code == 3)} of 2 judged claim(s) refuted" in done.stderr
    assert invoke(store, "--check").exit_code == 4


@pytest.mark.parametrize(("table", "runs"), [("4", 2 * 7 * 5), ("5", 8 * 5)])
def test_missing_of_every_table(store, table, runs):
    lines = invoke(store, "--table", table, "--missing").stdout.splitlines()
    assert len(lines) == len(set(lines)) == runs
    assert all(line.startswith("poisonbench defend --method ") for line in lines)


def test_unreadable_records_are_warned_about_and_left_out(store):
    paths = [store.write_record(make_record(0.5, trial=trial)) for trial in range(3)]
    paths[0].write_text("{")
    paths[1].write_text(paths[1].read_text().replace('"trial": 1', '"trial": 4'))
    store.write_failure("0" * 16, {}, "diverged")
    done = invoke(store, "--json", "--quiet")
    (cell,) = [c for c in json.loads(done.stdout)["cells"] if c["measured"]]
    assert cell["records"] == [paths[2].stem]
    *warnings, failed = done.stderr.splitlines()
    assert len(warnings) == 2
    assert all(line.startswith("warning: left out: ") for line in warnings)
    assert failed.startswith("1 failed run(s) are in no table")


def test_quiet_and_an_empty_folder(store):
    assert "no run records in" in invoke(store).stderr
    done = invoke(store, "--quiet")
    assert done.stderr == ""
    assert "93.86±0.26 (5)" in done.stdout


def test_output_is_written_whole(store, tmp_path):
    target = tmp_path / "deep" / "table.md"
    done = invoke(store, "--format", "markdown", "--output", str(target))
    assert done.exit_code == 0
    assert done.stdout == ""
    assert target.read_text(encoding="utf-8") == render(catalogue.build("2", []), "markdown")
    (tmp_path / "file").write_text("")
    done = invoke(store, "--output", str(tmp_path / "file" / "table.md"))
    assert isinstance(done.exception, StoreError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "latx"], "did you mean 'latex'"),
        (["--format", "csv", "--json"], "leave one out"),
        (["--summary", "--format", "csv"], "expected --summary as text or json, got --format csv"),
        (["--missing", "--format", "rich"], "expected --missing as text or json, got --format ric"),
        (["--table", "7"], "expected a table among 1"),
        (["--dataset", "cifar"], "did you mean 'cifar10'"),
    ],
)
def test_usage_errors(store, arguments, message):
    error = invoke(store, *arguments).exception
    assert isinstance(error, UsageError)
    assert message in str(error)
