"""Table IV's settings and its claims."""

from itertools import product

import pytest

from helpers.synthetic_runs import hint_run, missing_commands, verdicts_of, with_outcomes
from poisonbench.results import published
from poisonbench.tables import catalogue


def sensitivity_runs(dataset="mnist"):
    """Five trials of every cell of Table IV at the paper's means; the default row's runs once."""
    methods = {}
    betas = {0.031: 8 / 255, 0.125: 32 / 255, 0.251: 64 / 255}
    for row, trial in product(published.table4(), range(5)):
        if row.dataset != dataset:
            continue
        is_default = row.value in (0.5, 0.062)
        changed = (
            {}
            if is_default
            else {"parameter": row.parameter, "value": betas.get(row.value, row.value)}
        )
        right = [True] * round(100 * row.mean)
        record = hint_run(dataset=dataset, trial=trial, **changed)
        methods[record.id] = with_outcomes(record, right + [False] * (10_000 - len(right)))
    return list(methods.values())


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_table_4_from_the_papers_means(dataset):
    records = sensitivity_runs(dataset)
    assert len(records) == 7 * 5
    table = catalogue.build("4", records, dataset)
    assert len(table.cells) == 8
    for shown in table.cells:
        assert shown.measured.n == 5
        assert shown.measured.mean == pytest.approx(shown.published.mean, abs=2e-5)
    assert [finding.verdict for finding in table.findings] == ["reproduced"] * 2
    assert all(finding.bears_out for finding in table.findings)
    assert catalogue.check("4", records, dataset).missing == 0
    by_value = {(c.keys["parameter"], c.keys["value"]): c.records for c in table.cells}
    assert by_value["ratio", 0.5] == by_value["beta", 0.062]
    assert len(set(by_value.values())) == 7


def test_table_4_turns_with_its_data():
    """The accuracies of r = 0.25 and 1.0 change places, and so do those of two betas."""
    swap = {0.25: 1.0, 1.0: 0.25, 0.75: 0.75}
    means = {r.value: r.mean / 100 for r in published.table4() if r.dataset == "mnist"}
    records = [hint_run(means[0.5], trial=t) for t in range(5)]
    records += [
        hint_run(means[swap[r]] + 1e-5 * t, parameter="ratio", value=r, trial=t)
        for r, t in product(swap, range(5))
    ]
    records += [
        hint_run(means[0.5] + 0.01 + 1e-5 * t, parameter="beta", value=k / 255, trial=t)
        for k, t in product((8, 32, 64), range(5))
    ]
    findings = catalogue.build("4", records, "mnist").findings
    assert verdicts_of(*findings) == ["refuted"] * 2


def test_table_4_says_where_trials_are_lacking_and_what_fills_them():
    records = [hint_run(parameter="beta", value=8 / 255, trial=t) for t in (0, 2)]
    table = catalogue.build("4", records, "mnist")
    (row,) = [row for row in table.blocks[1].rows if row[0].startswith("8/255")]
    assert "(2 of 5)" in row[1]
    commands = [c for c in missing_commands("4", records, "mnist") if "8/255" in c]
    start = "poisonbench defend --method hint --dataset mnist --rho 0.6 --beta 8/255 --trial "
    assert commands == [start + str(trial) for trial in (1, 3, 4)]


def test_settings_of_table_4_are_the_published_values_and_hints_own():
    from poisonbench.defenses.hint import Config
    from poisonbench.tables.table4 import DEFAULTS, PARAMETERS

    printed = {(row.parameter, row.value) for row in published.table4()}
    assert {(name, value) for name, values in PARAMETERS.items() for value in values} == printed
    for name, values in PARAMETERS.items():
        for value, setting in values.items():
            assert setting == pytest.approx(value, rel=0.02)
        assert values[DEFAULTS[name]] == getattr(Config(), name)
