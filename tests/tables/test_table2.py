"""Tables from synthetic run records: aggregation, verdicts, and the runs that are missing."""

import re
from statistics import mean, stdev

import pytest

from helpers.synthetic_runs import make_record, missing_commands
from poisonbench import registry
from poisonbench.core.errors import UsageError
from poisonbench.requests import command_of
from poisonbench.results.statistics import Verdict
from poisonbench.results.verdicts import Basis, Judgement
from poisonbench.tables import catalogue
from poisonbench.tables.cells import Cell, distinct_trials


def cell_of(records, dataset="mnist", rho=0.0, method="none", key="2"):
    row_keys = {"dataset": dataset, "rho": rho, "method": method}
    (measured_cell,) = [
        cell
        for cell in catalogue.build(key, records).cells
        if {name: cell.keys.get(name) for name in row_keys} == row_keys
    ]
    return measured_cell


def test_a_cell_is_the_mean_and_sample_deviation_of_its_trials():
    values = [0.981, 0.985, 0.984]
    records = [make_record(value, trial=trial) for trial, value in enumerate(values)]
    cell = cell_of(records)
    assert cell.measured.mean == pytest.approx(mean(values))
    assert cell.measured.std == pytest.approx(stdev(values))
    assert cell.measured.n == 3
    assert cell.difference == pytest.approx(mean(values) - 0.9844)
    assert set(cell.records) == {record.id for record in records}


def test_trials_are_pairs_of_seed_and_trial():
    records = [make_record(seed=seed, trial=trial) for seed in (0, 7) for trial in (0, 1)]
    assert cell_of(records).measured.n == 4


def test_a_repeated_trial_counts_once_and_the_last_finished_stays():
    old = make_record(0.5, finished="2025-01-01", config={"note": 1})
    new = make_record(0.9, finished="2025-01-02", config={"note": 2})
    for records in ([old, new], [new, old]):
        assert cell_of(records).records == (new.id,)
        assert "1 other run(s)" in catalogue.build("2", records).notes[-1]


def test_recipes_are_not_mixed():
    records = [make_record(0.5, recipe=1, trial=0), make_record(0.9, recipe=2, trial=1)]
    assert cell_of(records).records == (records[1].id,)


@pytest.mark.parametrize(
    "stranger",
    [
        {"variant": "custom"},
        {"labels": {"is_paper_dataset": False}},
        {"dataset": "folder:mnist"},
        {"method": "hint"},
        {"rho": 0.6},
        {"dataset": "cifar10"},
    ],
)
def test_other_runs_stay_out_of_a_cell(stranger):
    record = make_record(0.1, **{"trial": 1, **stranger})
    assert cell_of([make_record(), record]).measured.n == 1


@pytest.mark.parametrize(
    "attacks", [("pgd",), ("gm",), ("pgd", "dap", "durp"), ("dc", "durp", "dap", "pgd")]
)
def test_other_poisons_stay_out_of_a_cell(attacks):
    records = [make_record(rho=0.6), make_record(rho=0.6, trial=1, attacks=attacks)]
    assert cell_of(records, rho=0.6).measured.n == 1


def test_verdicts_without_poison():
    hint = [make_record(0.9887 + 1e-4 * (t - 2), method="hint", trial=t) for t in range(5)]
    none = [make_record(0.9 + 1e-4 * t, trial=t) for t in range(5)]
    assert cell_of(hint, method="hint").verdict == "equivalent"
    assert cell_of(none).verdict == "differs"
    assert cell_of(none).judgement.p_value < 0.001
    assert cell_of(none).judgement.effect == pytest.approx(0.9002 - 0.9844)
    assert cell_of(none).judgement.basis == Basis(seeds=5)
    early = Judgement(Verdict.INCOMPLETE, basis=Basis(seeds=1), least=0.001)
    assert cell_of(none[:1]).judgement == early
    assert cell_of([]).judgement == Judgement(Verdict.NOT_RUN, least=0.001)
    sample = make_record(dataset="mnist-sample")
    assert cell_of([sample], dataset="mnist-sample").verdict == "not published"


def test_the_papers_mix_is_judged():
    records = [make_record(0.5 + 0.01 * t, rho=0.6, trial=t) for t in range(5)]
    cell = cell_of(records, rho=0.6)
    assert cell.verdict == "differs"
    assert cell.published.mean == 0.9664


def test_table_2_has_the_papers_shape():
    table = catalogue.build("2", [])
    assert len(table.cells) == 60
    assert [block.title.split(":")[0] for block in table.blocks] == ["CIFAR-10"] * 3 + ["MNIST"] * 3
    heads = ("rho", "W/o Defense", "HINT", "ATDA (L2)", "FRIENDS", "EPIC")
    assert table.blocks[0].columns == heads
    assert len(table.blocks[0].rows) == 6


def test_runs_of_atdas_other_norm_have_a_column_of_their_own():
    labels = {"profile": "linf", "overrides": {}}
    other = make_record(0.91, method="atda", rho=0.6, variant="linf", labels=labels)
    table = catalogue.build("2", [make_record(0.95, method="atda", rho=0.6), other], "mnist")
    block = table.blocks[0]
    assert "ATDA (L2)" in block.columns
    assert block.columns[-1] == "ATDA (Linf)"
    (row,) = [row for row in block.rows if row[0] == "0.6"]
    assert row[block.columns.index("ATDA (L2)")] == "95.00 (1 of 5)"
    assert row[-1] == "91.00 (1 of 5)"
    commands = missing_commands("2", [other], "mnist")
    command = "--method atda --dataset mnist --rho 0.6 --profile linf --trial 1"
    assert f"poisonbench defend {command}" in commands
    config = {"norm": "linf"}
    assert registry.label_of("atda", config.get) == "ATDA (Linf)"
    assert registry.label_of("none", {}.get) == "W/o Defense"


def test_the_sample_is_shown_only_with_runs_or_on_request():
    def shown(*arguments):
        return {cell.keys["dataset"] for cell in catalogue.build("2", *arguments).cells}

    sample = make_record(dataset="mnist-sample")
    assert shown([]) == {"cifar10", "mnist"}
    assert shown([sample]) == {"cifar10", "mnist", "mnist-sample"}
    assert shown([], "mnist-sample") == {"mnist-sample"}
    assert "(not the paper's data)" in catalogue.build("2", [sample]).blocks[-1].title


def test_table_1_sets_recorded_settings_beside_the_published():
    def facts(records):
        return {
            cell.keys["quantity"]: (cell.measured, cell.published, cell.verdict)
            for cell in catalogue.build("1", records, "mnist").cells
        }

    sentences = facts([make_record(method="hint", rho=0.4)])
    assert sentences["training images"] == (59_000, 59_000, "equal")
    assert sentences["model"] == ("mnist-cnn", "cnn", "equal")
    assert sentences["epochs"] == (30, 30, "equal")
    short = {"epochs": 10}
    assert facts([make_record(training=short)])["epochs"] == (10, 30, "differs")
    both = facts([make_record(), make_record(trial=1, training=short)])
    assert both["epochs"] == ("10, 30", 30, "differs")
    assert facts([])["epochs"] == (None, 30, "not run")
    assert facts([make_record(variant="custom")])["epochs"][0] is None


# Cells and the commands that fill them


def test_missing_commands_fill_the_cells():
    commands = missing_commands("2", [], "mnist")
    assert len(commands) == len(set(commands)) == 6 * 5 * 5
    assert "poisonbench defend --method hint --dataset mnist --rho 0.6 --trial 3" in commands
    assert "poisonbench defend --method none --dataset mnist --rho 0 --trial 0" in commands
    records = []
    pattern = re.compile(r"--method (\S+) --dataset (\S+) --rho (\S+) --trial (\d+)$")
    for command in commands:
        method, dataset, rho, trial = pattern.search(command).groups()
        records.append(
            make_record(method=method, dataset=dataset, rho=float(rho), trial=int(trial))
        )
    assert missing_commands("2", records, "mnist") == []
    assert {cell.measured.n for cell in catalogue.build("2", records, "mnist").cells} == {5}


def test_missing_trials_are_those_not_done_and_no_more():
    cell = Cell(dataset="mnist", method="none", rho=0)
    records = [make_record(trial=1), make_record(trial=3), make_record(trial=0, seed=7)]
    assert cell.missing(records) == [0, 2]
    assert cell.missing([make_record(trial=t) for t in range(9)]) == []


def test_table_1_lacks_one_run_of_a_data_set_without_any():
    assert len(missing_commands("1", [])) == 2
    assert len(missing_commands("1", [make_record(method="hint", rho=1.0)])) == 1


def test_cells_with_changed_settings():
    cell = Cell(dataset="mnist", method="hint", rho=0.6, overrides={"beta": 8 / 255})
    assert command_of(cell.request(2)).endswith("--rho 0.6 --beta 8/255 --trial 2")
    assert cell.keys["beta"] == 8 / 255

    def matches(variant, **labels):
        return cell.matches(make_record(method="hint", rho=0.6, variant=variant, labels=labels))

    assert matches("custom", overrides={"beta": 8 / 255})
    assert not matches("custom", overrides={"beta": 16 / 255})
    assert not matches("custom", overrides={"beta": 8 / 255, "ratio": 0.25})
    assert not matches("custom", overrides={"beta": 8 / 255}, profile="code")
    assert not matches("paper")


@pytest.mark.parametrize(
    ("key", "dataset", "message"),
    [
        ("6", None, r"expected a table among 1 \(.*\), 2 \(.*\), got '6'"),
        ("2", "minst", "got 'minst'; did you mean 'mnist'"),
    ],
)
def test_what_is_not_there(key, dataset, message):
    with pytest.raises(UsageError, match=message):
        catalogue.build(key, [], dataset)


def test_the_results_folder_is_quoted_for_the_shell():
    request = Cell(dataset="mnist", method="none", rho=1.0).request(0)
    command = command_of(request, "--results", "my runs")
    assert command.endswith("--trial 0 --results 'my runs'")


def test_columns_of_different_poisons_are_said():
    old = [make_record(rho=rho, digest=f"old{rho}") for rho in (0.0, 0.2, 0.6)]
    new = make_record(method="hint", rho=0.6, digest="new")
    notes = catalogue.build("2", old).notes
    assert not [text for text in notes if "several poisons" in text]
    (note,) = [
        text for text in catalogue.build("2", [*old, new]).notes if "several poisons" in text
    ]
    assert "several poisons: mnist at rho 0.6 (--poison)." in note
    more = make_record(method="hint", rho=0.2, digest="new")
    (note,) = [text for text in catalogue.build("2", [*old, new, more]).notes if "several" in text]
    assert "several poisons: mnist at rho 0.2 and 1 more (--poison)." in note


def test_each_root_seed_has_its_own_poison():
    runs = [
        make_record(method=method, rho=0.6, seed=seed, digest=f"seed{seed}")
        for method in ("none", "hint")
        for seed in (0, 1)
    ]
    assert not [text for text in catalogue.build("2", runs).notes if "several poisons" in text]


def test_of_a_sample_only_what_has_runs_is_shown():
    """The paper has nothing to set beside the rest."""
    table = catalogue.build("2", [make_record(dataset="mnist-sample", rho=0.6)], "mnist-sample")
    matrix, beside = table.blocks
    assert len(matrix.rows) == 6
    assert [row[:2] for row in beside.rows] == [("0.6", "W/o Defense")]


def test_one_trial_is_not_counted_as_judged():
    outcome = catalogue.check("2", [make_record(0.9)], "mnist")
    assert (outcome.differing, outcome.compared) == (0, 0)


def test_runs_on_another_poison_are_not_averaged():
    """Trials of a root seed count when they share the poison of the run finished last."""
    old = [make_record(rho=0.6, trial=t, digest="a", finished="2026-01-01") for t in range(3)]
    new = [make_record(rho=0.6, trial=t, digest="b", finished="2026-01-02") for t in range(2)]
    assert [r.spec.poison.digest for r in distinct_trials([*new, *old])] == ["b", "b"]
    other = make_record(rho=0.6, seed=7, digest="c", finished="2025-01-01")
    assert len(distinct_trials([*new, *old, other])) == 3
