"""Tables of a poison other than their own."""

import json

import pytest
from conftest import done, refused
from synthetic_runs import hint_run, make_record

from poisonbench.experiments import tables
from poisonbench.experiments.other_poisons import on_poisons, with_note

ARTEFACT = {"variant": "custom", "overrides": {"poison": "artefact"}}


def chosen(accuracy, digest, **arguments):
    labels = {key: value for key, value in ARTEFACT.items() if key != "variant"}
    arguments = {"variant": "custom", "labels": labels, "rho": 0.6, **arguments}
    return make_record(accuracy, digest=digest, **arguments)


def measured(records, key="2"):
    """Accuracies by rho and method of the cells that have any."""
    cells = tables.build(key, records, "mnist").cells
    return {
        (cell.keys["rho"], cell.keys["method"]): cell.measured.mean
        for cell in cells
        if cell.records
    }


@pytest.mark.parametrize("attacks", [None, ["pgd"], ["dap", "pgd"]])
def test_runs_on_the_poison_fill_the_table_and_no_others_do(attacks):
    records = [
        make_record(0.99),
        make_record(0.5, rho=0.6, digest="default"),
        chosen(0.9, "wanted", attacks=attacks),
        chosen(0.4, "unwanted", attacks=attacks),
        chosen(0.3, "wanted", method="hint", labels={"overrides": {"poison": "artefact", "r": 1}}),
    ]
    assert measured(records) == {(0.0, "none"): 0.99, (0.6, "none"): 0.5}
    found = on_poisons(records, ["wanted"])
    assert measured(found) == {(0.0, "none"): 0.99, (0.6, "none"): 0.9}
    assert [record.id for record in found] == [records[i].id for i in (0, 2, 4)]


def test_what_was_set_besides_still_counts():
    """Table IV's rows are told apart by HINT's settings, on another poison too."""
    run = hint_run(0.9, parameter="ratio", value=0.75, digest="wanted")
    overrides = {**run.labels["overrides"], "poison": "artefact"}
    run.labels["overrides"] = overrides
    assert not [cell for cell in tables.build("4", [run], "mnist").cells if cell.records]
    (row,) = [
        cell
        for cell in tables.build("4", on_poisons([run], ["wanted"]), "mnist").cells
        if cell.records
    ]
    assert row.keys["value"] == 0.75
    assert run.labels["overrides"] == overrides


def test_an_artefact_of_the_tables_own_mix_is_the_same_poison():
    own = make_record(0.5, rho=0.6, digest="default")
    assert measured(on_poisons([own], ["default"])) == {(0.6, "none"): 0.5}


def test_the_note_names_the_poisons_first():
    card = {"attacks": ["pgd", "dc"], "num_poisons": 35_400}
    notes = with_note(tables.build("2", []), {"a/b": card}).notes
    assert "a/b (pgd+dc, 35,400 images)" in notes[0]
    assert len(notes) > 1


def test_usage(tiny, results):
    made = done("craft", "--attack", "durp", "--dataset", tiny, "--results", results, "--json").json
    words = ("report", "--poison", made["path"])
    for arguments, fragment in (
        (("--missing",), "--poison without --missing"),
        (("--filters",), "--poison without --filters"),
        (("--table", "3"), "1, 2, 4, 5"),
        (("--table", "9"), "'9'"),
    ):
        assert fragment in refused(2, results, *words, *arguments)
    assert "no such file" in refused(65, results, "report", "--poison", results / "nowhere")
    outcome = json.loads(done(*words, "--results", results, "--json").out)
    assert f"{made['path']} (durp, 270 images)" in outcome["notes"][0]
