"""Tables of a poison other than their own."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.command_line import cli, done, refused
from helpers.synthetic_runs import changed, hint_run, make_record, targeted_run
from poisonbench.core.errors import ArtefactError, UsageError
from poisonbench.results.store import Store
from poisonbench.tables import catalogue
from poisonbench.tables.poison_selection import dataset_of, on_poisons

WANTED, UNWANTED, DEFAULT = (16 * digit for digit in ("ab12", "ab1f", "0000"))


def chosen(accuracy, digest, **arguments):
    """A run with ``--poison``."""
    arguments = {"labels": {"overrides": {"poison": "artefact"}}, "rho": 0.6, **arguments}
    return make_record(accuracy, digest=digest, variant="custom", **arguments)


def measured(records):
    """Accuracies by rho and method of Table II's cells that have any."""
    filled = [cell for cell in catalogue.build("2", records, "mnist").cells if cell.records]
    return {(cell.keys["rho"], cell.keys["method"]): cell.measured.mean for cell in filled}


@pytest.mark.parametrize("attacks", [None, ["pgd"], ["dap", "pgd"]])
@pytest.mark.parametrize("name", ["some/path", WANTED[:8], WANTED])
def test_runs_on_the_poison_fill_the_table_and_no_others_do(name, attacks):
    records = [
        make_record(0.99),
        make_record(0.5, rho=0.6, digest=DEFAULT),
        chosen(0.9, WANTED, attacks=attacks),
        chosen(0.4, UNWANTED, attacks=attacks),
        chosen(0.3, WANTED, method="hint", labels={"overrides": {"poison": "artefact", "r": 1}}),
    ]
    assert measured(records) == {(0.0, "none"): 0.99, (0.6, "none"): 0.5}
    cards = {"some/path": SimpleNamespace(digest=WANTED, attacks=["bp"])}
    selected, names = on_poisons(records, [name], cards)
    assert measured(selected) == {(0.0, "none"): 0.99, (0.6, "none"): 0.9}
    assert [record.id for record in selected] == [records[i].id for i in (0, 2, 4)]
    assert list(names) == [name]


def test_what_was_set_besides_still_counts():
    """Table IV's rows are told apart by HINT's settings, on another poison too."""
    given = {"ratio": 0.75, "poison": "artefact"}
    plain = hint_run(0.9, parameter="ratio", value=0.75, digest=WANTED)
    run = changed(plain, labels={"overrides": given})
    assert not [cell for cell in catalogue.build("4", [run], "mnist").cells if cell.records]
    selected, _ = on_poisons([run], [WANTED], {})
    (row,) = [cell for cell in catalogue.build("4", selected, "mnist").cells if cell.records]
    assert row.keys["value"] == 0.75
    assert run.labels.overrides == given


def test_an_artefact_of_the_tables_own_mix_is_the_same_poison():
    own = make_record(0.5, rho=0.6, digest=DEFAULT)
    assert measured(on_poisons([own], [DEFAULT], {})[0]) == {(0.6, "none"): 0.5}


@pytest.mark.parametrize(
    ("name", "count"), [("ab1", 0), ("ab12ab1f", 0), ("nowhere/at/all", 0), ("12345678", 2)]
)
def test_a_name_must_fit_one_poison(name, count):
    records = [chosen(0.9, WANTED), *(chosen(0.9, f"12345678{end}") for end in "ab")]
    with pytest.raises(ArtefactError, match=f"'{name}', which fits {count}"):
        on_poisons(records, [WANTED, name], {})


def test_two_poisons_are_of_two_ratios():
    records = [chosen(0.9, WANTED), chosen(0.4, UNWANTED)]
    with pytest.raises(UsageError, match=f"{WANTED} and {UNWANTED}, both at rho 0.6 of mnist"):
        on_poisons(records, [WANTED, UNWANTED], {})
    records = [chosen(0.9, WANTED), chosen(0.4, UNWANTED, rho=1.0)]
    selected, _ = on_poisons(records, [UNWANTED, WANTED.upper()], {})
    seeds = [chosen(0.9, WANTED), chosen(0.4, UNWANTED, seed=1)]
    assert len(on_poisons(seeds, [UNWANTED, WANTED], {})[0]) == 2
    assert measured(selected) == {(0.6, "none"): 0.9, (1.0, "none"): 0.4}


def test_poisons_of_different_attacks_are_in_no_table_together():
    records = [chosen(0.9, WANTED), chosen(0.4, UNWANTED, rho=1.0, attacks=["pgd", "dap", "dc"])]
    with pytest.raises(UsageError, match=r"same attacks, .* got ab12.* of pgd\+dap\+dc; make a"):
        on_poisons(records, [WANTED, UNWANTED], {})


def test_poisons_of_two_readings_are_in_no_table_together_and_the_title_names_one():
    signs = {"overrides": {"durp.distribution": "sign"}}
    records = [chosen(0.9, WANTED, labels=signs), chosen(0.4, UNWANTED, rho=1.0)]
    with pytest.raises(UsageError, match=r"one reading, got ab12.* \S+\+dc, reading sign, "):
        on_poisons(records, [WANTED, UNWANTED], {})
    _, made_of = on_poisons(records, [WANTED], {})
    assert made_of == {WANTED: "pgd+dap+durp+dc, reading sign"}
    title = catalogue.build("2", records, "mnist", made_of).title
    assert title.endswith(", on pgd+dap+durp+dc, reading sign")


def test_a_run_that_crafted_the_poison_itself_counts_whatever_was_set_of_its_attacks():
    settings = {"durp.distribution": "sign", "poison_trial": 1}
    crafted = chosen(0.9, WANTED, draw=1, labels={"overrides": settings})
    assert measured([crafted]) == {}
    assert measured(on_poisons([crafted], [WANTED], {})[0]) == {(0.6, "none"): 0.9}


def test_a_targeted_poison_has_no_place_here():
    record = targeted_run(True, dataset="mnist-sample@1000")
    record = changed(record, spec={"poison": {"digest": WANTED}})
    with pytest.raises(UsageError, match="untargeted"):
        on_poisons([record], [WANTED], {})


def test_the_note_names_the_poisons_first():
    plain = catalogue.build("2", [])
    notes = catalogue.build("2", [], poisons={"a/b": "pgd+dc", "1f": "dap"}).notes
    assert "on a/b (pgd+dc), 1f (dap)." in notes[0]
    assert any("--missing" in text for text in plain.notes)
    assert not any("--missing" in text for text in notes)


def test_the_command(tiny, results):
    crafted = done(
        "craft", "--attack", "durp", "--dataset", tiny, "--results", results, "--json"
    ).json
    words = ("report", "--poison", crafted["path"])
    for arguments, fragment in (
        (("--missing",), "--poison without --missing"),
        (("--filters",), "--poison without --filters"),
        (("--table", "3"), "1, 2, 4, 5"),
        (("--table", "9"), "'9'"),
    ):
        assert fragment in refused(2, results, *words, *arguments)
    Store(results).write_record(chosen(0.8765, crafted["digest"], rho=1.0))
    for name in ("nowhere", "9" * 300):
        assert f"got '{name}'" in refused(65, results, "report", "--poison", name)
    for name in (crafted["path"], Path(crafted["path"]).name, crafted["digest"][:12]):
        words = ("report", "--poison", name, "--results", results, "--dataset", "mnist")
        shown = done(*words, "--json").json
        assert f"on {name} (" in shown["notes"][0]
        assert "87.65 (1 of 5)" in done(*words).out
    assert "87.65" not in json.dumps(done("report", "--results", results, "--json").json)


def test_runs_on_data_of_ones_own_are_in_no_table():
    records = [chosen(0.9, WANTED, dataset="npz")]
    with pytest.raises(UsageError, match=r"got ab12.* with runs on npz; .*report --runs"):
        dataset_of(records, [WANTED], None)


def test_only_the_data_set_of_the_poison_is_shown(results):
    for run in (make_record(0.99), chosen(0.9, WANTED)):
        Store(results).write_record(run)
    words = ("report", "--results", results, "--poison", WANTED)
    shown = {cell["dataset"] for cell in done(*words, "--json").json["cells"]}
    assert shown == {"mnist"}
    outcome = cli(*words, "--dataset", "mnist-sample")
    assert outcome.code == 2
    assert f"expected that of the runs on {WANTED}, mnist, got mnist-sample" in outcome.err


def test_the_command_takes_a_poison_for_each_ratio(results):
    """And --check judges them."""
    for run in (make_record(0.99), chosen(0.9, WANTED), chosen(0.4, UNWANTED, rho=1.0)):
        Store(results).write_record(run)
    words = ("report", "--dataset", "mnist", "--results", results, "--poison", WANTED, "--poison")
    shown = done(*words, UNWANTED).out
    assert "90.00 (1 of 5)" in shown
    assert "40.00 (1 of 5)" in shown
    outcome = cli(*words, UNWANTED, "--check")
    assert outcome.code == 4
    assert "0 of 0 compared" in outcome.err
    assert (
        "declared claims are held to 5 % each, all else to 5 % together, by Holm's" in outcome.err
    )
    # Five methods' five trials at rho 0, 0.6 and 1.0, of which three are there.
    assert "72 run(s) missing" in outcome.err
    outcome = cli(*words, "--check")
    assert outcome.code == 2
    assert "got the option --check" in outcome.err
