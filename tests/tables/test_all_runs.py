"""``report --runs``: all runs by their settings."""

import re

import msgspec
import pytest

from helpers.command_line import cli, done
from helpers.synthetic_runs import hint_run, make_record, targeted_run
from poisonbench.core.errors import UsageError
from poisonbench.results.store import Store
from poisonbench.tables.all_runs import build_runs
from poisonbench.tables.render import FORMATS, render


def rows_of(records, dataset=None):
    return {block.title: block.rows for block in build_runs(records, dataset).blocks}


MIX = "pgd+dap+durp+dc"
RUNS = [
    make_record(0.99),
    hint_run(0.95, parameter="ratio", value=0.25, digest="a" * 64),
    hint_run(0.96, digest="a" * 64),
    hint_run(0.97, digest="a" * 64, trial=1),
    hint_run(0.80, digest="b" * 64),
    targeted_run(True, 0.9),
    targeted_run(False, 0.8, trial=1),
]


def test_rows_are_settings_on_a_poison():
    assert rows_of(RUNS) == {
        "cifar10": (
            (
                "W/o Defense",
                "gm",
                "0.01",
                "scratch",
                "paper",
                "-",
                "85.00±7.07 (2)",
                "-",
                "-",
                "1/2 [9.5, 90.5]",
            ),
        ),
        "mnist": (
            ("W/o Defense", "-", "0.0", "-", "paper", "-", "99.00 (1)", "-", "-", "-"),
            ("HINT", MIX, "0.6", "-", "paper", "a" * 12, "96.50±0.71 (2)", "-", "-", "-"),
            ("HINT", MIX, "0.6", "-", "paper", "b" * 12, "80.00 (1)", "-", "-", "-"),
            ("HINT", MIX, "0.6", "-", "ratio=0.25", "a" * 12, "95.00 (1)", "-", "-", "-"),
        ),
    }
    assert rows_of(RUNS[::-1]) == rows_of(RUNS)


def test_titles_are_short_where_no_two_share_them():
    runs = [make_record(dataset=f"folder:{path}") for path in ("/a/logos", "/b/logos", "/b/cats")]
    assert set(rows_of(runs)) == {"folder:/a/logos", "folder:/b/logos", "folder:cats"}


def test_values_of_settings_are_written_as_options_take_them():
    changed = {"overrides": {"durp.epsilon": 9 / 255, "decay": None}}
    (row,) = rows_of([make_record(labels=changed)])["mnist"]
    assert row[4] == "decay=none, durp.epsilon=9/255"


def test_the_norm_of_atda_is_in_its_name():
    linf = make_record(0.9, method="atda", config={"norm": "linf"}, labels={"profile": "linf"})
    both = rows_of([make_record(0.8, method="atda", config={"norm": "l2"}), linf])["mnist"]
    assert [row[0] for row in both] == ["ATDA (Linf)", "ATDA (L2)"]


def by_batch_statistics(value):
    return {"metrics": {"batch_statistics_accuracy": value}}


@pytest.mark.parametrize(
    ("runs", "shown"),
    [
        (
            [
                make_record(0.6, rho=1.0, **by_batch_statistics(0.95)),
                make_record(0.7, rho=1.0, trial=1, **by_batch_statistics(0.97)),
                # A run from before there was the diagnostic, and a network without batch norm.
                make_record(0.8, rho=1.0, trial=2),
                make_record(0.9, rho=1.0, trial=3, **by_batch_statistics(None)),
            ],
            ("75.00±12.91 (4)", "96.00±1.41 (2)", "-"),
        ),
        (
            [
                targeted_run(True, 0.9, scenario="transfer", **by_batch_statistics(0.8)),
                targeted_run(True, 0.9, scenario="transfer", trial=1, **by_batch_statistics(0.8)),
            ],
            ("90.00±0.00 (2)", "80.00±0.00 (2)", "2/2 [34.2, 100.0]"),
        ),
    ],
    ids=["scratch", "transfer"],
)
def test_the_accuracy_by_batch_statistics_stands_beside_the_other(runs, shown):
    table = build_runs(runs)
    (block,) = table.blocks
    assert block.columns[-4:] == ("accuracy", "by batch statistics", "noise", "success")
    assert [(*row[-4:-2], row[-1]) for row in block.rows] == [shown]
    (diagnostic,) = [
        cell for cell in block.cells if cell.keys["quantity"] == "batch_statistics_accuracy"
    ]
    assert set(diagnostic.records) == {
        run.id for run in runs if isinstance(run.metrics.batch_statistics_accuracy, float)
    }
    for kind in FORMATS:
        text = render(table, kind)
        figure = diagnostic.measured.mean
        assert str(figure) in text if kind in ("csv", "json") else f"{100 * figure:.2f}" in text
        # A long heading has two lines in LaTeX.
        assert kind in ("csv", "json") or re.search(r"by batch\W+statistics", text)


def test_the_first_rounds_noise_is_averaged_over_the_runs_that_have_it():
    rounds = [[0.5, 2.5], [1.5], []]
    runs = [
        msgspec.structs.replace(
            hint_run(trial=trial),
            notes=[{"round": "hint"}, *({"mean_abs_noise": level / 255} for level in levels)],
        )
        for trial, levels in enumerate(rounds)
    ]
    (block,) = build_runs([*runs, make_record(0.9)]).blocks
    assert {row[0]: row[-2] for row in block.rows} == {
        "W/o Defense": "-",
        "HINT": "1.00±0.71 (2)",
    }
    (noise,) = [cell for cell in block.cells if cell.keys["quantity"] == "mean_abs_noise"]
    assert noise.measured.mean == pytest.approx(1.0)
    assert set(noise.records) == {runs[0].id, runs[1].id}


def test_a_run_without_poison_has_no_success():
    (row,) = rows_of([targeted_run(False, 0.8, clean=True)])["cifar10"]
    assert row[-4:] == ("80.00 (1)", "-", "-", "-")


def test_runs_that_are_not_averaged_are_counted():
    old = make_record(0.9, method="hint", recipe=1)
    table = build_runs([old, make_record(0.8, method="hint", recipe=2)])
    assert table.blocks[0].rows[0][-4] == "80.00 (1)"
    assert any(text.startswith("1 other run(s)") for text in table.notes)
    assert not any("other run(s)" in text for text in build_runs(RUNS).notes)


def test_only_one_data_set_and_none_at_all():
    assert list(rows_of(RUNS, "mnist")) == ["mnist"]
    with pytest.raises(UsageError, match="cifar10, mnist, got 'mnits'; did you mean 'mnist'"):
        build_runs(RUNS, "mnits")
    assert "No run was found." in build_runs([]).notes


def test_the_command_lists_what_tables_leave_out(results):
    for record in RUNS:
        Store(results).write_record(record)
    words = ("report", "--runs", "--results", results)
    assert "ratio=0.25" in done(*words).out
    assert {cell["quantity"] for cell in done(*words, "--json").json["cells"]} == {
        "test_accuracy",
        "attack_success",
    }
    for clash in (("--filters",), ("--table", "2"), ("--missing",), ("--poison", "a" * 12)):
        outcome = cli(*words, *clash)
        assert (outcome.code, outcome.out) == (2, "")
        assert clash[0] in outcome.err
