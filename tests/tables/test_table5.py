"""Table V from synthetic times: ratios, devices that are never mixed, runs that cannot be timed."""

import json
from itertools import product

import pytest

from helpers.synthetic_runs import hint_run, make_record, missing_commands
from poisonbench.results import published
from poisonbench.tables import catalogue
from poisonbench.tables.cells import device_of, is_timed
from poisonbench.tables.render import FORMATS, render

OTHER = {"processor": "Processor B"}


def timed(seconds, method="none", *, ratio=None, trial=0, dataset="cifar10", **arguments):
    if method == "hint":
        changed = {} if ratio in (None, 0.5) else {"parameter": "ratio", "value": ratio}
        return hint_run(dataset=dataset, seconds=seconds, trial=trial, **changed, **arguments)
    return make_record(
        method=method, rho=0.6, dataset=dataset, seconds=seconds, trial=trial, **arguments
    )


def papers_runs(scale=1.0, **arguments):
    return [
        timed(
            scale * (row.seconds + trial * (len(row.method) + 4 * (row.ratio or 0)) % 3),
            row.method,
            ratio=row.ratio,
            trial=trial,
            **arguments,
        )
        for row, trial in product(published.table5(), range(5))
    ]


def ratios(records, dataset="cifar10"):
    return {
        (cell.keys["device"], cell.keys["method"], cell.keys["r"]): cell
        for cell in catalogue.build("5", records, dataset).cells
        if cell.keys["quantity"] == "time_ratio"
    }


def ratio_of(records, method="atda", r=None):
    (ratio,) = [cell for (_, *key), cell in ratios(records).items() if key == [method, r]]
    return ratio


def test_a_ratio_is_over_plain_training_of_its_trial_by_hand():
    records = [timed(s, trial=t) for t, s in enumerate((100, 200, 400))]
    records += [timed(s, "atda", trial=t) for t, s in enumerate((300, 400, 1600))]
    cell = ratio_of(records)
    # 3, 2, 4.
    assert (cell.measured.mean, cell.measured.std, cell.measured.n) == (3, 1, 3)
    assert cell.published.mean == pytest.approx(5760 / 1600)
    assert cell.difference == pytest.approx(3 - 3.6)
    assert cell.verdict == "not tested"
    (row,) = [r for r in catalogue.build("5", records, "cifar10").blocks[0].rows if "ATDA" in r[0]]
    assert row[2:4] == ("3.00±1.00 (3 of 5)", "3.60 (1)")


def test_the_papers_times_give_its_ratios_and_its_claims():
    records = papers_runs()
    by_row = ratios(records)
    assert len(by_row) == 7
    for (_, method, r), cell in by_row.items():
        assert cell.measured.n == 5
        assert cell.measured.mean == pytest.approx(cell.published.mean, rel=0.01), (method, r)
    table = catalogue.build("5", records, "cifar10")
    assert [finding.verdict for finding in table.findings] == ["reproduced"] * 2
    assert all(finding.bears_out and finding.unit == "seconds" for finding in table.findings)
    assert table.findings[0].judgement.effect == pytest.approx(3147 - 2427, abs=3)
    assert catalogue.check("5", records).missing == 0


def test_claims_turn_with_the_times():
    longest = 10_000
    records = [
        timed(
            longest - row.seconds + trial * (row.ratio or 0),
            row.method,
            ratio=row.ratio,
            trial=trial,
        )
        for row, trial in product(published.table5(), range(5))
    ]
    findings = catalogue.build("5", records, "cifar10").findings
    assert [finding.verdict for finding in findings] == ["refuted"] * 2
    assert catalogue.check("5", records).refuted == 2


@pytest.mark.parametrize(
    "environment",
    [
        OTHER,
        {"device": "NVIDIA A", "cuda": "13.0"},
        {"threads": 8},
        {"precision": "float32"},
        {"torch": "2.12"},
    ],
)
def test_different_devices_are_never_divided_by_one_another(environment):
    records = [timed(100 + t, trial=t) for t in range(5)]
    records += [timed(5 + t, "atda", trial=t, environment=environment) for t in range(5)]
    atda_cells = [cell for (_, method, _), cell in ratios(records).items() if method == "atda"]
    assert [cell.measured for cell in atda_cells] == [None, None]
    seconds = [
        cell
        for cell in catalogue.build("5", records, "cifar10").cells
        if cell.keys["quantity"] == "total_seconds" and cell.measured
    ]
    assert [cell.measured.mean for cell in seconds] in ([102, 7], [7, 102])
    assert all(cell.difference is None for cell in seconds)


def test_each_device_has_its_own_ratios():
    """The same trials cannot be on two devices under one root seed, so the seeds differ."""
    records = papers_runs() + papers_runs(0.01, seed=1, environment=OTHER)
    by_row = ratios(records)
    assert len({device for device, *_ in by_row}) == 2
    by_device = {device: cell for (device, method, _), cell in by_row.items() if method == "atda"}
    means = [cell.measured.mean for cell in by_device.values()]
    assert means == [pytest.approx(3.6, rel=0.01)] * 2
    shown = {id for cell in by_device.values() for id in cell.records}
    for device, cell in by_device.items():
        used = {r.id: r for r in records}
        assert {device_of(used[id]) for id in cell.records} == {device}
    assert len(shown) == 10
    table = catalogue.build("5", records, "cifar10")
    assert len(table.findings) == 4
    (claims,) = [block for block in table.blocks if block.findings]
    assert "device" in claims.columns
    assert len(set(claims.rows)) == 4
    (claims,) = [block for block in catalogue.build("5", papers_runs()).blocks if block.findings]
    assert "device" not in claims.columns
    titles = [block.title for block in table.blocks if "ratio" in block.title]
    assert [title.partition(" on ")[2] for title in titles] == sorted(by_device)


@pytest.mark.parametrize(
    "spoilt",
    [
        {"interruptions": 1},
        {"session": 60.0},
        {"environment": {"processor": ""}},
    ],
)
def test_runs_of_several_sessions_or_of_no_device_are_not_timed(spoilt):
    """Killed and continued shows as a session shorter than the total."""
    records = [timed(100, trial=t) for t in range(3)] + [
        timed(300, "atda", trial=t) for t in (0, 1)
    ]
    bad = timed(900, "atda", trial=2, **spoilt)
    assert is_timed(records[0])
    assert not is_timed(bad)
    cell = ratio_of([*records, bad])
    assert (cell.measured.mean, cell.measured.n) == (3, 2)
    assert "1 run(s) are not timed" in " ".join(catalogue.build("5", [*records, bad]).notes)
    commands = [c for c in missing_commands("5", [*records, bad]) if "atda" in c]
    assert [command.split()[-1] for command in commands] == ["3", "4", "5"]


def test_a_run_without_costs_is_not_timed():
    assert not is_timed(make_record(rho=0.6))
    assert ratio_of([make_record(rho=0.6, dataset="cifar10")]).measured is None


def test_other_data_sets_are_shown_with_runs_and_are_not_the_papers():
    records = [timed(100, dataset="mnist-sample"), timed(150, "hint", dataset="mnist-sample")]
    table = catalogue.build("5", records)
    shown = {cell.keys["dataset"] for cell in table.cells}
    assert shown == {"cifar10", "mnist-sample"}
    by_row = ratios(records, "mnist-sample")
    (cell,) = [cell for cell in by_row.values() if cell.measured]
    assert (cell.measured.mean, cell.verdict) == (1.5, "not published")
    assert all(cell.published is None for cell in by_row.values())
    assert "Not in the paper's table: mnist." in " ".join(
        catalogue.build("5", [timed(9, dataset="mnist")]).notes
    )


def test_phases_are_shown_in_seconds():
    (row,) = [
        row
        for row in catalogue.build("5", [timed(100), timed(300, "epic")], "cifar10").blocks[1].rows
        if row[0] == "EPIC"
    ]
    assert row == ("EPIC", "-", "300.0 (1 of 5)", "3147", "150.0", "150.0", "0.0", "0.0")


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format(kind):
    for records in (papers_runs(), []):
        text = render(catalogue.build("5", records, "cifar10"), kind)
        assert text.endswith("\n")
        assert "NaN" not in text
    if kind == "json":
        document = json.loads(render(catalogue.build("5", papers_runs()), kind))
        assert {cell["unit"] for cell in document["cells"]} == {"ratio", "seconds"}
        assert {claim["verdict"] for claim in document["claims"]} == {"reproduced"}
