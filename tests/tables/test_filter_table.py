"""``report --filters`` from synthetic runs of defenses that drop images."""

import csv
import io
import json

import pytest
import typer
from typer.testing import CliRunner

from helpers.synthetic_runs import make_record, targeted_run
from poisonbench.cli.report import report
from poisonbench.core.errors import UsageError
from poisonbench.results.store import Store
from poisonbench.tables.filter_table import build_filters
from poisonbench.tables.render import FORMATS, render

app = typer.Typer()
app.command()(report)


def counts(poisons_removed, poisons, lost, clean):
    removed = poisons_removed + lost
    return {
        "poisons_removed": poisons_removed,
        "num_poisons": poisons,
        "clean_removed": lost,
        "num_clean": clean,
        "precision": poisons_removed / removed if removed else None,
        "recall": poisons_removed / poisons if poisons else None,
        "f1": 2 * poisons_removed / (removed + poisons) if removed + poisons else None,
        "per_class": [],
    }


def filtered(poisons_removed, poisons, lost, clean, *, targeted=False, **arguments):
    metrics = {"filter": counts(poisons_removed, poisons, lost, clean)}
    if targeted:
        return targeted_run(False, metrics=metrics, **arguments)
    return make_record(**{"rho": 0.6} | arguments, metrics=metrics)


RUNS = [
    filtered(40, 50, 10, 950, method="knn", trial=0, targeted=True),
    filtered(45, 50, 5, 950, method="knn", trial=1, targeted=True),
    filtered(5, 50, 45, 950, method="random", targeted=True),
    filtered(300, 600, 100, 400, method="knn", dataset="mnist"),
    filtered(0, 0, 30, 1000, method="knn", dataset="mnist", rho=0.0),
    filtered(
        1, 600, 1, 400, method="knn", dataset="mnist", labels={"overrides": {"neighbours": 3}}
    ),
    make_record(method="none", dataset="mnist"),
]


def rows_of(table):
    return {block.title: [" | ".join(row[:10]) for row in block.rows] for block in table.blocks}


def test_trials_are_averaged_and_settings_kept_apart():
    mix, score = "Deep k-NN | pgd+dap+durp+dc | 0.6 | - |", "85.00±7.07 (2)"
    assert rows_of(build_filters(RUNS)) == {
        "cifar10": [
            "Deep k-NN | gm | 0.01 | scratch | paper | 2 | 42.5 of 50 | 7.5 of 950 | "
            f"{score} | {score}",
            "Random filter | gm | 0.01 | scratch | paper | 1 | 5 of 50 | 45 of 950 | "
            "10.00 (1) | 10.00 (1)",
        ],
        "mnist": [
            "Deep k-NN | - | 0.0 | - | paper | 1 | 0 of 0 | 30 of 1,000 | - | -",
            f"{mix} neighbours=3 | 1 | 1 of 600 | 1 of 400 | 50.00 (1) | 0.17 (1)",
            f"{mix} paper | 1 | 300 of 600 | 100 of 400 | 75.00 (1) | 50.00 (1)",
        ],
    }


def test_order_of_reading_does_not_matter_and_repeated_trials_count_once():
    again = filtered(50, 50, 0, 950, method="knn", trial=1, targeted=True, model="resnet18")
    assert build_filters(RUNS[::-1]) == build_filters(RUNS)
    # Another network is another row.
    assert len(rows_of(build_filters([*RUNS, again]))["cifar10"]) == 3
    newer = filtered(0, 50, 0, 950, method="knn", trial=1, targeted=True, recipe=2)
    first = rows_of(build_filters([*RUNS, newer]))["cifar10"][0]
    assert first.endswith("| 1 | 0 of 50 | 0 of 950 | - | 0.00 (1)")


def test_only_the_data_set_asked_for():
    assert list(rows_of(build_filters(RUNS, "mnist"))) == ["mnist"]
    with pytest.raises(UsageError, match=r"cifar10, mnist, got 'mnits'; did you mean 'mnist'"):
        build_filters(RUNS, "mnits")


def test_without_such_runs_the_table_says_so():
    table = build_filters([make_record()])
    assert table.blocks == ()
    assert "No run of a defense that drops images" in table.notes[-1]


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format(kind):
    text = render(build_filters(RUNS), kind)
    if kind == "json":
        cells = json.loads(text)["cells"]
        assert len(cells) == 5 * 7
        f1 = [c for c in cells if c["quantity"] == "f1" and c["method"] == "random"]
        assert f1[0]["measured"]["mean"] == pytest.approx(0.1)
        assert f1[0]["unit"] == "fraction"
    elif kind == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        assert len(rows) == 5 * 7
        assert (rows[0]["quantity"], rows[0]["measured"]) == ("poisons_removed", "42.5")
    else:
        assert "42.5 of 50" in text


def test_the_command(tmp_path):
    store = Store(tmp_path / "results")
    for record in RUNS:
        store.write_record(record)

    def invoke(*words):
        return CliRunner().invoke(app, ["--results", str(store.root), "--filters", *words])

    assert "42.5 of 50" in invoke("--dataset", "cifar10").stdout
    assert json.loads(invoke("--json").stdout)["table"] == "filters"
    for clash in (["--table", "2"], ["--missing"], ["--check"]):
        error = invoke(*clash).exception
        assert isinstance(error, UsageError)
        assert f"--filters without {clash[0]}" in str(error)
