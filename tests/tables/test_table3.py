"""Table III from synthetic runs of targeted attacks."""

import csv
import io
import json
from itertools import product
from pathlib import Path

import msgspec
import pytest
import torch
from scipy import stats

from helpers.synthetic_runs import (
    changed,
    data_of,
    make_record,
    missing_commands,
    request_of,
    targeted_run,
)
from poisonbench import registry
from poisonbench.core.settings import as_json
from poisonbench.requests import command_of
from poisonbench.results import published
from poisonbench.results.proportions import ShareDifference
from poisonbench.results.statistics import Proportion, Summary, Verdict
from poisonbench.results.store import Store
from poisonbench.results.verdicts import Basis
from poisonbench.runs.context import RunContext
from poisonbench.runs.method_settings import read_settings
from poisonbench.runs.poison import resolve_poison
from poisonbench.tables import catalogue
from poisonbench.tables.cells import COLOUR_PART, TARGETED_SAMPLE, Cell
from poisonbench.tables.claims import SuccessOrder
from poisonbench.tables.render import FORMATS, render
from poisonbench.tables.table3 import attack_rows, control_rows, own_share

PLAIN = {"augment": "none"}


def trials(hits, **arguments):
    """One run a letter: x is a hit."""
    return [targeted_run(hit == "x", trial=trial, **arguments) for trial, hit in enumerate(hits)]


def cell_of(records, attack="gm", method="none", quantity="attack_success", dataset="cifar10"):
    (measured_cell,) = [
        cell
        for cell in catalogue.build("3", records, dataset).cells
        if (cell.keys["attack"], cell.keys["method"]) == (attack, method)
        and cell.keys["quantity"] == quantity
    ]
    return measured_cell


def papers_runs(turn=False):
    """Five trials of each cell with the paper's counts, or their mirror, and its accuracies."""
    records = []
    for row, trial in product(published.table3(), range(5)):
        scenario = "scratch" if row.attack in ("gm", "mp") else "transfer"
        hits = row.trials - row.successes if turn else row.successes
        records.append(
            targeted_run(
                trial < hits,
                row.mean / 100 + 1e-4 * ((trial * (len(row.method) + 1)) % 5 - 2),
                attack=row.attack,
                scenario=scenario,
                method=row.method,
                trial=trial,
                overrides=PLAIN if row.attack == "mp" else None,
            )
        )
    return records


def test_a_cell_is_counted_beside_the_published_count():
    cell = cell_of(trials("x.x.."))
    assert cell.measured == Proportion(2, 5)
    assert cell.published == Proportion(5, 5)
    assert cell.difference == pytest.approx(-0.6)
    evidence = ShareDifference(Proportion(2, 5), Proportion(5, 5))
    assert cell.judgement.interval == evidence.interval()
    assert cell.judgement.basis == Basis(targets=5, attacks=1, poisons=5, seeds=5)
    assert cell.verdict == "inconclusive"
    fields = cell.to_dict()
    interval = stats.binomtest(2, 5).proportion_ci(method="wilson")
    assert fields["measured"] == {
        **{"mean": 0.4, "std": None, "successes": 2, "n": 5},
        **{"low": interval.low, "high": interval.high},
    }
    assert fields["unit"] == "fraction"
    assert len(cell.records) == 5


def test_the_verdicts_of_counts():
    assert cell_of(trials("....."), method="none").verdict == "differs"
    assert cell_of(trials("....")).verdict == "incomplete"
    assert cell_of(trials("....")).judgement.p_value < 0.05
    assert cell_of([]).verdict == "not run"
    assert cell_of(trials("xx"), method="hint").measured is None
    control = trials("xxx", attack="noise")
    assert cell_of(control, "noise").verdict == "not published"


def test_accuracies_stand_beside_the_published_ones():
    records = [targeted_run(True, 0.93 + 1e-3 * (t % 3), trial=t) for t in range(5)]
    cell = cell_of(records, quantity="test_accuracy")
    assert isinstance(cell.measured, Summary)
    assert cell.measured.mean == pytest.approx(0.9308)
    assert cell.published.mean == pytest.approx(0.9369)
    assert cell.verdict == "differs"


def test_trials_have_poisons_of_their_own_and_all_count():
    records = trials("x" * 7)
    assert len({record.spec.poison.digest for record in records}) == 7
    assert cell_of(records).measured == Proportion(7, 7)


def test_older_recipes_of_the_attack_and_repeated_trials_do_not_count():
    new = [targeted_run(True, trial=t, attack_recipe=2) for t in (0, 1)]
    assert cell_of([*trials("..."), *new]).measured == Proportion(2, 2)
    again = targeted_run(True, trial=0, model="other", finished="2025-01-02")
    assert cell_of([*trials("..."), again]).measured == Proportion(1, 3)


@pytest.mark.parametrize(
    "stranger",
    [
        {"overrides": {"targets": "easy"}},
        {"overrides": {"target": 7}},
        {"overrides": {"norm_drift": True}},
        {"overrides": {"augment": "none"}},
        {"scenario": "transfer", "overrides": {"scenario": "transfer"}},
        {"rho": 0.02},
        {"clean": True},
        {"attack": "fc"},
        {"method": "hint"},
        {"dataset": "mnist"},
        {"labels": {"is_paper_dataset": False}},
    ],
)
def test_other_runs_stay_out_of_a_cell(stranger):
    record = targeted_run(True, trial=1, **stranger)
    assert cell_of([targeted_run(True), record]).measured == Proportion(1, 1)


def test_metapoison_is_run_without_augmentation():
    records = trials("xxx", attack="mp", overrides=PLAIN) + trials("....", attack="mp")
    assert cell_of(records, "mp").measured == Proportion(3, 3)


def test_targeted_and_untargeted_tables_do_not_see_each_others_runs():
    control = targeted_run(False, clean=True, dataset="mnist")
    (clean,) = [
        cell
        for cell in catalogue.build("2", [control], "mnist").cells
        if (cell.keys["rho"], cell.keys["method"]) == (0, "none")
    ]
    assert clean.measured is None
    assert not Cell(dataset="mnist", method="none", rho=0.0).matches(control)
    table = catalogue.build("3", [make_record(dataset="mnist"), make_record(dataset="cifar10")])
    assert {cell.keys["dataset"] for cell in table.cells} == {"cifar10"}
    assert not any("other run" in note for note in table.notes)
    sample = trials("x", dataset=TARGETED_SAMPLE, rho=0.05)
    assert {c.keys["dataset"] for c in catalogue.build("2", sample).cells} == {"cifar10", "mnist"}


def test_half_of_a_targeted_run_is_none():
    """Readers take the goal of a run with targeting, and its answer, for granted."""
    run = targeted_run(True)
    for part in (
        {"spec": {"targeting": None}},
        {"spec": {"goal": None}},
        {"metrics": {"target": None}},
        {"metrics": {"attack_success": None}},
    ):
        with pytest.raises(msgspec.ValidationError, match="all or none of targeting, goal, target"):
            changed(run, **part)


# The control and the net


def test_net_success_leaves_out_what_plain_training_does_anyway():
    """Trial 0 is a hit without poison; trials 3 and 4 have no control, or another target's."""
    controls = trials("x..", clean=True)
    controls.append(targeted_run(False, trial=3, target=7, clean=True))
    for method in ("none", "hint"):
        net = cell_of(
            [*controls, *trials("xx.xx", method=method)], "gm", method, "net_attack_success"
        )
        assert net.measured == Proportion(1, 2)
        assert net.verdict == "not published"


def test_there_is_no_net_column_without_controls():
    assert "net" not in catalogue.build("3", trials("xx.xx")).blocks[2].columns
    with_control = catalogue.build("3", trials("xx.xx") + trials("x..", clean=True))
    block = with_control.blocks[2]
    assert block.columns[3:5] == ("measured", "net")
    assert block.rows[0][3:5] == ("4/5 [37.6, 96.4]", "1/2 [9.5, 90.5]")
    assert any("Net: without targets" in note for note in with_control.notes)


def test_a_control_is_its_scenarios_whatever_attack_named_it():
    """One run serves BP and FC; that of scenario scratch does not, nor does the one for MP."""
    control = trials("...", scenario="transfer", clean=True, overrides={"scenario": "transfer"})
    records = control + trials("xxx", clean=True) + trials("xxx", clean=True, overrides=PLAIN)
    for attack in ("bp", "fc"):
        records += trials("xxx", attack=attack, scenario="transfer")
        assert cell_of(records, attack, quantity="net_attack_success").measured == Proportion(3, 3)
    table = catalogue.build("3", records)
    shown = {c.keys["scenario"]: c.measured for c in table.cells if c.keys["attack"] == "clean"}
    assert len(shown) == 3
    assert not any("clean" in command for command in missing_commands("3", records))
    assert len(missing_commands("3", records)) == 100 - 6


# The small data set


def test_the_sample_has_its_rows_and_controls_when_it_has_runs():
    assert {c.keys["dataset"] for c in catalogue.build("3", trials("x")).cells} == {"cifar10"}
    records = trials("x." * 6, dataset=TARGETED_SAMPLE, rho=0.05)
    records += trials("x" * 4, dataset=TARGETED_SAMPLE, attack="mp", rho=0.05, scenario="finetune")
    table = catalogue.build("3", records)
    assert cell_of(records, dataset=TARGETED_SAMPLE).measured == Proportion(6, 12)
    assert cell_of(records, "mp", dataset=TARGETED_SAMPLE).measured == Proportion(4, 4)
    rows = [row[0] for row in table.blocks[5].rows]
    assert rows == [
        *("GM (scratch)", "MP (finetune)", "BP (transfer)", "FC (transfer)"),
        *("Noise (scratch)", "Noise (finetune)", "Noise (transfer)"),
        *("clean (scratch)", "clean (finetune)", "clean (transfer)"),
    ]
    assert "(not the paper's data)" in table.blocks[5].title
    assert catalogue.check("3", records).missing == 100


def test_shares_are_the_data_sets_own():
    assert own_share("cifar10", "scratch") == own_share("cifar10", "transfer") == 0.01
    assert own_share(TARGETED_SAMPLE, "scratch") == own_share(TARGETED_SAMPLE, "finetune") == 0.05
    assert own_share(TARGETED_SAMPLE, "transfer") == 0.025
    assert own_share(COLOUR_PART, "scratch") == own_share(COLOUR_PART, "transfer") == 0.01


# Commands


@pytest.mark.parametrize(
    ("dataset", "presets"),
    [
        ("cifar10", ("cifar10",)),
        (COLOUR_PART, ("cifar10", COLOUR_PART)),
        (TARGETED_SAMPLE, ("mnist", "mnist-sample", TARGETED_SAMPLE)),
    ],
)
def test_a_run_of_a_cells_command_is_recorded_as_the_cells(dataset, presets):
    """The command's options, read as defend reads them, give the record that the cell wants."""
    context, data = RunContext(Store(Path("x")), Path("x"), torch.device("cpu")), data_of(presets)
    planned = catalogue.cells("3", trials("x", attack="noise"), dataset)
    assert {cell.scenario for cell in planned} >= {"scratch", "transfer"}
    for cell in planned:
        asked = request_of(command_of(cell.request(2)))
        assert (asked.dataset, asked.method, asked.trial) == (dataset, cell.method, 2)
        poison = resolve_poison(context, data, asked)
        resolved = read_settings(registry.defenses()[cell.method], data, "paper", asked.settings)
        record = targeted_run(
            False,
            dataset=dataset,
            method=cell.method,
            trial=2,
            overrides=resolved.overrides | poison.overrides,
            targeting=as_json(poison.targeting),
            poison=poison.spec and msgspec.to_builtins(poison.spec),
        )
        fitting = [c.keys for c in planned if c.matches(record)]
        assert fitting == [cell.keys]


def test_missing_commands_are_as_a_user_would_write_them():
    commands = missing_commands("3", trials("xx.xx", method="hint"))
    assert len(commands) == len(set(commands)) == 95
    start = "poisonbench defend --method hint --dataset cifar10 --attack "
    assert f"{start}bp --trial 4" in commands
    assert f"{start}mp --augment none --trial 0" in commands
    assert not any(command.startswith(f"{start}gm") for command in commands)


def test_every_way_of_training_has_its_controls():
    for dataset, count in (
        ("cifar10", 3),
        (TARGETED_SAMPLE, 3),
        (COLOUR_PART, 3),
        ("mnist-sample", 2),
    ):
        ways = {row.training for row in attack_rows(dataset)}
        assert len(ways) == count
        for attack in ("noise", "clean"):
            assert {r.training for r in control_rows(dataset) if r.attack == attack} == ways


# Claims


def judged(records, dataset="cifar10"):
    findings = catalogue.build("3", records, dataset).findings
    return {(f.claim, f.keys["attack"]): f for f in findings}


@pytest.mark.usefixtures("undeclared")
def test_the_papers_own_counts_say_what_five_targets_can():
    """In these stubs the targets that are hit are the first ones under each attack."""
    verdicts = judged(papers_runs())
    pooled = {claim: f for (claim, attack), f in verdicts.items() if attack is None}
    assert {claim: f.verdict for claim, f in pooled.items()} == {
        "HINT is hit less than W/o Defense": Verdict.INCONCLUSIVE,
        "HINT is hit less than ATDA (L2)": Verdict.INCONCLUSIVE,
        "HINT is hit less than FRIENDS": Verdict.INCONCLUSIVE,
        "HINT is hit less than EPIC": Verdict.INCONCLUSIVE,
        "HINT is hit least of all": Verdict.INCONCLUSIVE,
        "ATDA (L2) is hit most of the defenses": Verdict.INCONCLUSIVE,
    }
    friends = pooled["HINT is hit less than FRIENDS"]
    assert friends.trials == 5
    assert friends.judgement.effect == pytest.approx(6 / 20 - 3 / 20)
    assert friends.judgement.basis == Basis(targets=5, attacks=4, poisons=20, seeds=5)
    assert len(friends.records) == 40
    assert all(finding.bears_out for finding in pooled.values())
    most = pooled["ATDA (L2) is hit most of the defenses"]
    assert most.judgement.effect == pytest.approx(14 / 20 - 9 / 20)
    accuracy = {attack: f for (_, attack), f in verdicts.items() if attack is not None}
    assert {a: f.bears_out for a, f in accuracy.items()} == {
        **{"gm": False, "mp": False, "bp": True, "fc": True}
    }
    assert catalogue.check("3", papers_runs()).missing == 0


@pytest.mark.usefixtures("undeclared")
def test_mirrored_counts_reproduce_nothing():
    verdicts = [f for (_, attack), f in judged(papers_runs(turn=True)).items() if attack is None]
    assert Verdict.REPRODUCED not in {finding.verdict for finding in verdicts}
    assert verdicts[0].verdict == Verdict.REFUTED


def order(first, second, **arguments):
    claim = SuccessOrder(claim="less", first=success_cell("hint"), others=(success_cell("none"),))
    return claim.judge(trials(first, method="hint", **arguments) + trials(second, **arguments))


def test_only_trials_that_both_have_are_counted():
    finding = order("........", "xxxxx")
    assert finding.trials == 5
    # Of all signs of five targets one is as extreme.
    assert finding.judgement.p_value == pytest.approx(1 / 32)
    assert finding.judgement.effect == 1
    assert finding.verdict == "reproduced"
    assert len(finding.records) == 10
    assert order("", "").judgement.effect is None
    assert order("....", "xxxx").verdict == "incomplete"
    assert order(".....", ".....").verdict == "inconclusive"
    assert order("xxxxx", ".....").verdict == "refuted"


def success_cell(method):
    """One cell."""
    return (Cell(dataset="cifar10", method=method, rho=0.01, attacks=("gm",), scenario="scratch"),)


# Formats


@pytest.fixture(scope="module")
def whole():
    return catalogue.build("3", papers_runs() + trials("x....", clean=True))


@pytest.mark.parametrize("kind", FORMATS)
def test_table_3_is_in_every_format(kind, whole):
    text = render(whole, kind)
    if kind == "json":
        cells = json.loads(text)["cells"]
        assert sum(cell["quantity"] == "attack_success" for cell in cells) == 21
        assert sum(cell["quantity"] == "net_attack_success" for cell in cells) == 21
    elif kind == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        (row,) = [
            r
            for r in rows
            if (r["attack"], r["method"], r["quantity"]) == ("bp", "atda", "attack_success")
        ]
        assert (row["measured"], row["measured_n"], row["published"]) == ("0.8", "5", "0.8")
        assert float(row["measured_low"]) == pytest.approx(0.376, abs=1e-3)
        assert row["verdict"] == "inconclusive"
        assert (row["poisons"], row["targets"]) == ("5", "5")
    else:
        assert "4/5 [37.6, 96.4]" in text
        assert "GM (scratch)" in text
