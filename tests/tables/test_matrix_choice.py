"""What of the matrix is planned, and which part of it a report shows."""

import json
import re

import pytest

from helpers.command_line import done, refused
from helpers.matrix_runs import SAMPLE, adaptive_run, run, runs_of_each_kind
from poisonbench import registry
from poisonbench.core.errors import UsageError
from poisonbench.results.store import Store
from poisonbench.tables import catalogue


@pytest.fixture
def records():
    return runs_of_each_kind()


def test_an_adaptive_poison_is_planned_where_it_is_named():
    asked = {"methods": ["none", "jpeg"], "rhos": (1.0,), "trials": 1}
    requests = catalogue.missing_runs("matrix", (), SAMPLE, attacks=["pgd", "pgd:jpeg"], **asked)
    planned = [(r.method, dict(r.poison.settings.get("pgd", {}))) for r in requests]
    assert planned == [
        (method, settings) for method in ("none", "jpeg") for settings in ({}, {"against": "jpeg"})
    ]
    everything = catalogue.missing_runs("matrix", (), SAMPLE, **asked)
    assert not any("against" in values for r in everything for values in r.poison.settings.values())
    (only,) = catalogue.missing_runs("matrix", (adaptive_run(0.1, "none", "jpeg"),), SAMPLE,
                                     attacks=["pgd:jpeg"], **asked)  # fmt: skip
    assert only.method == "jpeg"
    for name in ("pgd:knn", "dap:jpeg", "em:epic"):
        with pytest.raises(UsageError, match=f"got {name}; it has .*pgd:jpeg"):
            catalogue.missing_runs("matrix", (), SAMPLE, attacks=[name])


def test_a_form_is_planned_where_it_is_named():
    def planned(*methods, key="matrix"):
        asked = {"dataset": SAMPLE, "rhos": (1.0,), "trials": 1}
        attacks = ["pgd"] if key == "matrix" else []
        requests = catalogue.missing_runs(key, (), methods=methods, attacks=attacks, **asked)
        return [(request.method, dict(request.settings)) for request in requests]

    assert planned("jpeg") == [("jpeg", {})]
    assert planned("jpeg:10", "none") == [("none", {}), ("jpeg", {"quality": 10})]
    assert planned("ueraser:max", "atda:linf") == [
        ("atda", {"norm": "linf"}),
        ("ueraser", {"form": "max"}),
    ]
    assert ("jpeg", {"quality": 10}) not in planned()
    with pytest.raises(UsageError, match=r"got jpeg:20; .* jpeg, jpeg:10,"):
        planned("jpeg:20")
    with pytest.raises(UsageError, match="table 2"):
        planned("jpeg:10", key="2")


def test_triggers_are_planned_with_changed_and_with_own_labels():
    requests = catalogue.missing_runs(
        "matrix", (), SAMPLE, methods=["spectral"], attacks=["badnets"], trials=1, rhos=(0.05,)
    )
    assert [dict(r.poison.settings.get("badnets", {})) for r in requests] == [
        {},
        {"clean_label": True},
    ]
    assert {r.poison.rho for r in requests} == {0.05}


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
        name
        for name, entry in registry.defenses().items()
        if not (entry.oracle or entry.colour_only or entry.pretrains)
    }
    untargeted = {(name,) for name, entry in registry.attacks().items() if not entry.scenario}
    mixes = {mix.attacks for mix in registry.MIXES.values()}
    assert {cell.attacks for cell in cells} == untargeted | mixes
    shares = {cell.rho for cell in cells if cell.attacks == ("narcissus",)}
    assert shares == {0.05, registry.attacks()["narcissus"].rho}
    adaptive = {cell.poison_text for cell in cells if cell.against}
    assert adaptive == {
        f"{name}:{against}"
        for name, entry in registry.attacks().items()
        for against in entry.against
        if not entry.scenario
    }


def test_no_cell_is_of_a_run_that_its_defense_refuses():
    cells = catalogue.cells("matrix", (), "cifar10@10000")
    scenarios = {cell.scenario for cell in cells if cell.method == "robust-features"}
    assert scenarios == {"transfer", "finetune"}
    assert "grayscale" in {cell.method for cell in cells}
    for data in (SAMPLE, "mnist", "mnist@3000"):
        assert "grayscale" not in {cell.method for cell in catalogue.cells("matrix", (), data)}


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
    words = ("report", "--table", "matrix", "--metric", "batch-norm", "--json")
    table = json.loads(done(*words, "--methods", "none,jpeg:10", "--attacks", "pgd").out)
    assert table["table"] == "matrix-batch-norm"


def test_a_report_shows_the_defenses_and_attacks_that_are_named(records):
    adaptive = {"labels": {"overrides": {"pgd.against": "jpeg"}}}
    records = [
        *records,
        run(0.70, method="jpeg", attack="pgd", labels={"overrides": {"quality": 10}}),
        run(0.75, method="jpeg", attack="pgd"),
        run(0.10, attack="pgd", digest="s", **adaptive),
    ]

    def shown(**chosen):
        (block,) = catalogue.build("matrix", records, SAMPLE, **chosen).blocks
        return [*block.columns[1:]], [row[0] for row in block.rows[:-4]], block.rows[-4][1:]

    columns, rows, worst = shown()
    assert columns == ["W/o Defense", "HINT", "JPEG", "JPEG 10"]
    assert rows == ["clean", "PGD", "PGD against JPEG", "DAP", "DAP, rho 0.6"]
    assert worst[0] == "10.00 (PGD against JPEG)"
    columns, rows, worst = shown(methods=["none", "jpeg:10"], attacks=["pgd"])
    assert columns == ["W/o Defense", "JPEG 10"]
    assert rows == ["clean", "PGD"]
    assert worst == ("20.00 (PGD)", "70.00 (PGD)")
    assert shown(methods=["jpeg"])[:2] == (["JPEG"], ["PGD"])
    columns, rows, worst = shown(methods=["jpeg:10", "hint", "none"], attacks=["pgd"])
    assert columns == ["JPEG 10", "HINT", "W/o Defense"]
    assert rows == ["clean", "PGD"]
    assert worst[0].startswith("70.00 (PGD)")
    assert shown(attacks=["pgd:jpeg", "dap"])[1] == [
        "clean",
        "PGD against JPEG",
        "DAP",
        "DAP, rho 0.6",
    ]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"methods": ["clean-only"]}, "defenses that table matrix on mnist-sample has, got clean"),
        ({"methods": ["jpeg:11"]}, "has, got jpeg:11; it has these: none"),
        ({"attacks": ["dap+durp"]}, "poisons that table matrix on mnist-sample has, got dap"),
    ],
)
def test_what_the_matrix_has_no_cells_of_is_refused(records, chosen, message):
    with pytest.raises(UsageError, match=message):
        catalogue.build("matrix", records, SAMPLE, **chosen)


def test_what_a_chosen_part_lacks_is_counted_of_that_part(records):
    chosen = {"methods": ["none"], "attacks": ["pgd"]}
    requests = catalogue.missing_runs("matrix", records, SAMPLE, **chosen)
    assert {(r.method, r.poison.rho) for r in requests} == {("none", rho) for rho in (0, 1.0, 0.6)}
    (state,) = (
        n for n in catalogue.build("matrix", records, SAMPLE, **chosen).notes if "lack" in n
    )
    assert state == "3 cell(s) lack runs (--missing)."
    assert catalogue.check("matrix", records, SAMPLE, **chosen).missing == len(requests)


def test_a_matrix_without_any_run_says_what_it_was_of_and_what_makes_some(results):
    results.mkdir()
    line = ("report", "--table", "matrix")
    empty = " ".join(done(*line, "--results", results).out.split())
    assert "No run is in a cell here: `report --table matrix --dataset NAME --missing`" in empty
    # Without data there are no cells whose commands could be printed.
    message = refused(2, results, *line, "--missing", "--methods", "none", "--quiet")
    assert "--missing: expected --dataset with --table matrix" in message
    # Data that is named and has no cell has no commands.
    named = done(
        "report", "--table", "apbench", "--missing", "--dataset", "mnist", "--results", results
    )
    assert "0 run(s) missing" in named.err
    Store(results).write_record(run(0.9, "hint", "pgd", variant="custom"))
    more = ("--methods", "hint,jpeg:10", "--attacks", "pgd", "--dataset", SAMPLE)
    text = " ".join(done(*line, *more, "--results", results).out.split())
    assert f"No run of hint, jpeg:10 under pgd or without poison on {SAMPLE} is in a cell" in text
    (command,) = re.findall("`report (.*?)`", text)
    assert done("report", *command.split(), "--results", results).out
    # Data without a run is named as such already.
    absent = done(*line, "--dataset", "mnist", "--results", results).out
    assert "There is no run on mnist here" in absent
    assert "in a cell here" not in absent


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("report", "--table", "2", "--methods", "none"), "--table matrix, got it with --table 2;"),
        (("report", "--attacks", "pgd"), "--attacks with --table matrix, got it with no --table;"),
        (
            ("report", "--runs", "--attacks", "pgd"),
            "--attacks with --table matrix, got it with --ru",
        ),
        (
            ("report", "--runs", "--metric", "peak"),
            "--metric with --table matrix, got it with --ru",
        ),
        (("report", "--summary", "--methods", "none"), "got it with --summary; leave it out or"),
        (("report", "--table", "matrix", "--methods", "nosuch"), "expected a defense"),
        (("report", "--table", "matrix", "--attacks", "nosuch"), "an attack (or mix)"),
        (("report", "--table", "2", "--metric", "last"), "--metric with --table matrix"),
        (("report", "--table", "matrix", "--metric", "best"), "one of last, peak, batch-norm"),
        (("sweep", "plan", "--table", "matrix", "--attacks", "nosuch"), "an attack (or mix)"),
        (("sweep", "plan", "--table", "2", "--attacks", "pgd"), "poisons that table 2 has"),
        (("sweep", "plan", "--table", "2", "--rho", "0.5"), "it has 0, 0.2, 0.4, 0.6, 0.8, 1"),
        (("sweep", "plan", "--preset", "quick", "--dataset", "mnist"), "in --table matrix"),
    ],
)
def test_what_makes_no_sense_is_refused(words, message, tmp_path):
    assert message in refused(2, tmp_path, *words)


def test_what_is_named_and_has_no_run_is_said(records):
    def notes(**named):
        return " ".join(catalogue.build("matrix", records, SAMPLE, **named).notes)

    assert "No run is here of jpeg:10, epic." in notes(methods=["none", "jpeg:10", "epic"])
    assert "No run is here of jpeg, tap." in notes(methods=["jpeg", "none"], attacks=["dap", "tap"])
    for named in ({}, {"methods": ["none", "hint"]}, {"attacks": ["pgd"]}):
        assert "No run is here" not in notes(**named)
