"""The matrix of attacks and defenses: its grid, the rows below it, and what it plans."""

import json

import pytest

from helpers.command_line import done, refused
from helpers.synthetic_runs import make_record, targeted_run
from poisonbench import registry
from poisonbench.tables import catalogue
from poisonbench.tables.render import render

SAMPLE = "mnist-sample"


def run(accuracy, method="none", attack=None, rho=1.0, trial=0, **more):
    poisoned = {"rho": rho, "attacks": [attack]} if attack else {}
    return make_record(accuracy, dataset=SAMPLE, method=method, trial=trial, **poisoned, **more)


@pytest.fixture
def records():
    return [
        run(0.98, seconds=10.0),
        run(0.96, method="hint", seconds=20.0),
        run(0.20, attack="pgd", seconds=10.0),
        run(0.60, attack="dap", digest="q", seconds=10.0),
        run(0.50, attack="dap", rho=0.6, digest="r", seconds=10.0),
        *(
            run(value, method="hint", attack="pgd", trial=trial, seconds=30.0)
            for trial, value in enumerate((0.3, 0.4, 0.5))
        ),
    ]


def grid(records, key="matrix"):
    (block,) = catalogue.build(key, records, SAMPLE).blocks
    return block, {row[0]: dict(zip(block.columns[1:], row[1:], strict=True)) for row in block.rows}


def test_rows_are_attacks_and_columns_the_defenses_that_have_runs(records):
    block, rows = grid(records)
    assert block.columns == ("trained on", "W/o Defense", "HINT")
    assert [*rows] == [
        "clean",
        "PGD",
        "DAP",
        "DAP, rho 0.6",
        "worst at rho 1",
        "lost on clean data, points",
        "seconds a run",
    ]
    assert rows["clean"] == {"W/o Defense": "98.00 (1)", "HINT": "96.00 (1)"}
    # Student's t: 0.4 and 4.3027 * 0.1 / sqrt(3).
    assert rows["PGD"] == {"W/o Defense": "20.00 (1)", "HINT": "40.00 [15.2, 64.8] (3)"}
    assert rows["DAP"]["HINT"] == "-"
    assert len(block.cells) == 6


def test_the_rows_below_are_worst_case_loss_and_seconds(records):
    block, rows = grid(records)
    # The 50 % of rho 0.6 are no worst case of rho 1.
    assert rows["worst at rho 1"] == {
        "W/o Defense": "20.00 (PGD)",
        "HINT": "40.00 (PGD, 1 of 2)",
    }
    assert [block.rows[number][0] for number in block.strong] == ["worst at rho 1"]
    assert rows["lost on clean data, points"] == {"W/o Defense": "0.00", "HINT": "2.00"}
    assert rows["seconds a run"] == {"W/o Defense": "10.0", "HINT": "27.5"}


def test_an_interval_ends_where_shares_do():
    runs = [run(value, attack="pgd", trial=t) for t, value in enumerate((0.0, 0.0, 0.9))]
    _, rows = grid(runs)
    assert rows["PGD"]["W/o Defense"] == "30.00 [0.0, 100.0] (3)"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("markdown", "| **worst at rho 1** | **20.00 (PGD)** |"),
        ("latex", r"\textbf{worst at rho 1} & \textbf{20.00 (PGD)}"),
        ("html", '<tr class="strong"><th scope="row">worst at rho 1</th>'),
        ("rich", "worst at rho 1"),
    ],
)
def test_the_worst_case_stands_out(records, kind, expected):
    assert expected in render(catalogue.build("matrix", records, SAMPLE), kind)


@pytest.mark.parametrize(
    ("metric", "key"), [("batch_statistics", "matrix-batch-norm"), ("peak", "matrix-peak")]
)
def test_other_metrics_have_cells_of_the_runs_that_know_them(records, metric, key):
    known = {"test_accuracy": 0.2, f"{metric}_accuracy": 0.7}
    records = [*records, run(0.2, attack="durp", digest="s", metrics=known)]
    _, rows = grid(
        records, {"batch_statistics": "matrix-batch-norm", "peak": "matrix-peak"}[metric]
    )
    assert rows["DURP"]["W/o Defense"] == "70.00 (1)"
    assert rows["PGD"]["W/o Defense"] == "-"
    quantities = {cell.keys["quantity"] for cell in catalogue.build(key, records).cells}
    assert quantities == {"test_accuracy", f"{metric}_accuracy"}


def test_targets_have_a_grid_of_their_own():
    table = catalogue.build("matrix", [targeted_run(hit, trial=int(hit)) for hit in (False, True)])
    assert [block.title.rpartition(": ")[2] for block in table.blocks] == ["targets hit"]
    assert not table.blocks[0].strong


def test_the_plan_is_attacks_by_methods_with_clean_runs():
    requests = catalogue.missing_runs(
        "matrix", (), SAMPLE, methods=["none", "hint"], attacks=["dap", "mix"], rhos=(0.0, 1.0)
    )
    planned = {(r.poison.text if r.poison.rho else "clean", r.method, r.trial) for r in requests}
    attacks = ("clean", "dap", "pgd+dap+durp+dc")
    assert planned == {(a, m, t) for a in attacks for m in ("none", "hint") for t in range(3)}


def test_no_oracle_and_no_attack_is_left_out():
    cells = catalogue.cells("matrix", (), SAMPLE)
    assert {cell.method for cell in cells} == {
        name for name, entry in registry.defenses().items() if not entry.oracle
    }
    untargeted = {
        (name,)
        for name, entry in registry.attacks().items()
        if not (entry.scenario or entry.has_trigger)
    }
    assert {cell.attacks for cell in cells} == untargeted | {registry.MIX}


def test_the_commands_take_attacks_a_ratio_a_preset_and_a_metric(tmp_path):
    folder = ("--results", tmp_path)
    words = ("sweep", "plan", "--table", "matrix", "--preset", "quick", "--attacks", "pgd,dap")
    plan = done(*words, "--methods", "none", "--rho", "0.6", "--trials", "1", *folder).out
    lines = [line.partition(" --results")[0] for line in plan.splitlines()]
    start = "poisonbench defend --method none --dataset mnist-sample"
    assert lines == [
        f"{start} --rho 0 --trial 0",
        f"{start} --attack pgd --rho 0.6 --trial 0",
        f"{start} --attack dap --rho 0.6 --trial 0",
    ]
    table = json.loads(done("report", "--table", "matrix", "--metric", "batch-norm", "--json").out)
    assert table["table"] == "matrix-batch-norm"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("report", "--table", "2", "--metric", "last"), "--metric with --table matrix"),
        (("report", "--table", "matrix", "--metric", "best"), "one of last, peak, batch-norm"),
        (("sweep", "plan", "--table", "matrix", "--attacks", "nosuch"), "an attack (or mix)"),
        (("sweep", "plan", "--table", "2", "--attacks", "pgd"), "poisons that table 2 has"),
        (("sweep", "plan", "--preset", "quick", "--dataset", "mnist"), "--preset quick to choose"),
    ],
)
def test_what_makes_no_sense_is_refused(words, message, tmp_path):
    assert message in refused(2, tmp_path, *words)
