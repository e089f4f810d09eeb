"""The paper's claims from synthetic runs: verdicts, pairing, and where they are shown."""

import csv
import io
import json
import math
from itertools import product
from types import SimpleNamespace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from helpers.synthetic_runs import (
    hint_run,
    make_record,
    missing_commands,
    request_of,
)
from poisonbench import registry
from poisonbench.requests import command_of
from poisonbench.results import published
from poisonbench.tables import catalogue, table2
from poisonbench.tables.cells import Cell, paired
from poisonbench.tables.claims import Superiority, Trend
from poisonbench.tables.render import FORMATS, render

NAMES = ("none", "hint", "atda", "friends", "epic")
RHO = 0.6


def cell(method, rho=RHO, dataset="mnist-sample"):
    return Cell(dataset=dataset, method=method, rho=rho)


def runs(method, values, rho=RHO, **arguments):
    arguments = {"dataset": "mnist-sample"} | arguments
    return [
        make_record(value, method=method, rho=rho, trial=trial, **arguments)
        for trial, value in enumerate(values)
    ]


def beats(others=("atda",), margin=0.0):
    others = tuple(map(cell, others))
    return Superiority(claim="HINT beats", first=cell("hint"), others=others, margin=margin)


def falls(rhos=(0.2, 0.4, 0.6)):
    levels = tuple(cell("hint", rho) for rho in rhos)
    return Trend(claim="falls", levels=levels, direction=-1, same_poison=False)


def test_a_paired_claim_by_hand():
    found = beats().judge(runs("hint", [0.91, 0.92, 0.93]) + runs("atda", [0.90] * 3))
    # Differences 0.01, 0.02, 0.03: t = 2 sqrt(3) with two degrees of freedom.
    assert found.p_value == pytest.approx(stats.t.sf(2 * math.sqrt(3), 2))
    assert found.verdict == "reproduced"
    assert found.difference == pytest.approx(0.02)
    assert found.trials == 3
    assert len(found.records) == 6
    assert found.bears_out is None


def test_pairing_sees_what_means_hide():
    """A small gain in every trial, far below the spread between trials."""
    base = [0.90, 0.95, 0.80, 0.85]
    gain = [0.001, 0.0011, 0.0009, 0.001]
    records = runs("atda", base) + runs("hint", [b + g for b, g in zip(base, gain, strict=True)])
    assert beats().judge(records).verdict == "reproduced"


def test_of_several_comparisons_the_weakest_decides():
    hint = [0.91, 0.92, 0.93, 0.94]
    records = runs("hint", hint) + runs("atda", [0.90] * 4) + runs("epic", [0.895] * 4)
    both = beats(("atda", "epic")).judge(records)
    alone = [beats((name,)).judge(records).p_value for name in ("atda", "epic")]
    assert both.p_value == pytest.approx(max(alone))
    assert both.difference == pytest.approx(0.025)
    worse = records + runs("friends", [0.95] * 4)
    assert beats(("atda", "epic", "friends")).judge(worse).verdict == "not reproduced"


def test_a_loss_to_one_of_several_is_corrected_for_their_number():
    """Differences -0.01, -0.02, -0.03 have p = 0.037: a loss to one rival, not to one of three."""
    records = runs("hint", [0.89, 0.88, 0.87]) + runs("atda", [0.90] * 3)
    for name in ("epic", "friends"):
        records += runs(name, [0.88, 0.885, 0.875])
    assert beats(("atda",)).judge(records).verdict == "not reproduced"
    assert beats(("atda", "epic", "friends")).judge(records).verdict == "not enough trials"


def test_at_least_as_good_passes_equals_and_small_losses_but_no_large_ones():
    def said(loss):
        hint = [0.9 - loss, 0.9 - loss + 2e-4, 0.9 - loss - 2e-4]
        records = runs("hint", hint) + runs("none", [0.9] * 3)
        return [beats(("none",), m).judge(records).verdict for m in (0, table2.MARGIN)]

    assert said(-0.001) == ["reproduced", "reproduced"]
    assert said(0.0) == ["not enough trials", "reproduced"]
    assert said(0.003) == ["not reproduced", "not reproduced"]


def test_the_margin_is_below_every_gain_that_the_paper_prints():
    at = {(row.dataset, row.rho, row.method): row.mean for row in published.table2()}
    gains = [at[d, r, "hint"] - at[d, r, "none"] for d, r, m in at if m == "hint"]
    assert 100 * table2.MARGIN < min(gain for gain in gains if gain > 0)


@pytest.mark.parametrize("trials", [0, 1, 2])
def test_two_trials_or_fewer_are_not_tested(trials):
    records = runs("hint", [0.95, 0.96][:trials]) + runs("atda", [0.9, 0.9][:trials])
    found = beats().judge(records)
    assert (found.verdict, found.p_value) == ("not enough trials", None)
    assert found.trials == trials
    assert (found.difference is None) == (trials == 0)
    records = [r for rho in (0.2, 0.4, 0.6) for r in runs("hint", [1 - rho] * trials, rho)]
    assert falls().judge(records).verdict == "not enough trials"


def test_every_other_defense_must_have_its_trials():
    records = runs("hint", [0.95, 0.96, 0.97]) + runs("atda", [0.9] * 3)
    assert beats(("atda", "epic")).judge(records).verdict == "not enough trials"


def test_a_trend_by_hand():
    def judged(*values):
        records = [
            r for rho, v in zip((0.2, 0.4, 0.6), values, strict=True) for r in runs("hint", v, rho)
        ]
        return falls().judge(records)

    down = judged([0.95, 0.96, 0.97], [0.9, 0.91, 0.92], [0.8, 0.81, 0.85])
    # All three trials in the one order of six: (1/6)^3.
    assert down.p_value == pytest.approx(1 / 216)
    assert down.verdict == "reproduced"
    assert down.difference == pytest.approx(-0.14)
    up = judged([0.8, 0.81, 0.85], [0.9, 0.91, 0.92], [0.95, 0.96, 0.97])
    assert (up.verdict, up.p_value) == ("not reproduced", 1)


@pytest.mark.parametrize(("trials", "verdict"), [(4, "not enough trials"), (5, "not reproduced")])
def test_what_shows_nothing_tells_against_a_claim_only_with_all_its_trials(trials, verdict):
    hint = [0.90, 0.91, 0.92, 0.93, 0.94][:trials]
    found = beats().judge(runs("hint", hint) + runs("atda", hint[::-1]))
    assert found.verdict == verdict
    assert found.p_value == pytest.approx(0.5)
    levels = [run for rho in (0.2, 0.4, 0.6) for run in runs("hint", [0.9] * trials, rho)]
    assert falls().judge(levels).verdict == verdict


@settings(max_examples=30, deadline=None)
@given(
    base=st.lists(st.floats(0.2, 0.8), min_size=3, max_size=5),
    gain=st.floats(0.01, 0.1),
    noise=st.lists(st.floats(-0.001, 0.001), min_size=5, max_size=5),
)
def test_reversed_data_turn_the_verdict(base, gain, noise):
    assume(max(noise[: len(base)]) - min(noise[: len(base)]) > 1e-6)
    better = [b + gain + n for b, n in zip(base, noise, strict=False)]
    there = beats().judge(runs("hint", better) + runs("atda", base))
    back = beats().judge(runs("hint", base) + runs("atda", better))
    assert (there.verdict, back.verdict) == ("reproduced", "not reproduced")
    assert there.difference == pytest.approx(-back.difference)
    assert there.p_value + back.p_value == pytest.approx(1)
    levels = [[b - k * gain for b in base] for k in range(3)]

    def trend(order):
        pairs = zip((0.2, 0.4, 0.6), order, strict=True)
        return falls().judge([r for rho, values in pairs for r in runs("hint", values, rho)])

    assert trend(levels).verdict == "reproduced"
    assert trend(levels[::-1]).verdict == "not reproduced"


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 7},
        {"digest": "another poison"},
        {"weights": "other weights"},
        {"loop": 2},
    ],
)
def test_runs_that_differ_in_more_than_the_defense_are_no_pair(other):
    hint = runs("hint", [0.95, 0.96, 0.97])
    assert len(paired([hint, runs("atda", [0.9] * 3)])) == 3
    assert paired([hint, runs("atda", [0.9] * 3, **other)]) == []


def test_pairs_are_of_one_trial_whatever_the_order():
    hint, atda = runs("hint", [0.9] * 4), runs("atda", [0.9] * 3)
    pairs = paired([hint, atda[::-1]])
    assert [(a.spec.trial, b.spec.trial) for a, b in pairs] == [(0, 0), (1, 1), (2, 2)]
    assert paired([]) == []


def test_poison_ratios_pair_over_their_poisons():
    groups = [runs("hint", [0.9] * 3, rho, digest=str(rho)) for rho in (0.2, 0.4)]
    assert paired(groups) == []
    assert len(paired(groups, same_poison=False)) == 3


# In the tables


def papers_runs(dataset="mnist", turn=1):
    """Five trials of every cell of Table II around the paper's means, or around their mirror."""
    rows = [row for row in published.table2() if row.dataset == dataset]
    return [
        make_record(
            0.5 + turn * (row.mean / 100 - 0.5) + 1e-4 * ((trial * (len(row.method) + 1)) % 5 - 2),
            dataset=dataset,
            method=row.method,
            rho=row.rho,
            trial=trial,
            digest=f"p{row.rho}",
        )
        for row, trial in product(rows, range(5))
    ]


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_the_papers_own_means_reproduce_what_they_bear_out(dataset):
    table = catalogue.build("2", papers_runs(dataset), dataset)
    assert len(table.findings) == 6 * 2 + 5
    for finding in table.findings:
        if finding.bears_out:
            assert finding.verdict == "reproduced", finding
    doubted = {(f.claim, f.keys["rho"]) for f in table.findings if not f.bears_out}
    trend = "accuracy falls as rho grows: "
    assert doubted == (
        {
            ("HINT is at least as good as none", 0.0),
            *((trend + name, None) for name in ("ATDA (L2)", "FRIENDS", "EPIC")),
        }
        if dataset == "cifar10"
        else set()
    )
    outcome = catalogue.check("2", papers_runs(dataset), dataset)
    assert (outcome.not_reproduced, outcome.judged) == (0, 17 - len(doubted))
    assert outcome.missing == 0


def test_mirrored_means_reproduce_nothing():
    table = catalogue.build("2", papers_runs(turn=-1), "mnist")
    assert {finding.verdict for finding in table.findings} == {"not reproduced"}
    assert catalogue.check("2", papers_runs(turn=-1), "mnist").not_reproduced == 17


def test_the_samples_claims_are_shown_and_do_not_count_unless_asked_for():
    records = runs("hint", [0.8, 0.81, 0.82]) + runs("none", [0.9] * 3)
    shown = [f for f in catalogue.build("2", records).findings if f.p_value is not None]
    assert [(f.keys["dataset"], f.verdict) for f in shown] == [("mnist-sample", "not reproduced")]
    assert catalogue.check("2", records).judged == 0
    assert catalogue.check("2", records, "mnist-sample").not_reproduced == 1


def sensitivity_runs(dataset="mnist"):
    """Five trials of every cell of Table IV at the paper's means; the default row's runs once."""
    made = {}
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
        noise = 1e-5 * ((trial + len(made)) % 3)
        record = hint_run(row.mean / 100 + noise, dataset=dataset, trial=trial, **changed)
        made[record.id] = record
    return list(made.values())


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
    found = catalogue.build("4", records, "mnist").findings
    assert [finding.verdict for finding in found] == ["not reproduced"] * 2


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
    from poisonbench.tables.table4 import DEFAULTS, SETTINGS

    printed = {(row.parameter, row.value) for row in published.table4()}
    assert {(name, value) for name, values in SETTINGS.items() for value in values} == printed
    for name, values in SETTINGS.items():
        for value, setting in values.items():
            assert setting == pytest.approx(value, rel=0.02)
        assert values[DEFAULTS[name]] == getattr(Config(), name)


@pytest.mark.parametrize("presets", [("mnist",), ("cifar10",), ("mnist", "mnist-sample")])
def test_a_run_of_a_cells_command_is_recorded_as_the_cells(presets):
    """The command's options, read as defend reads them, give the labels that the cell wants."""
    from poisonbench.runs.method_settings import read_settings

    for key, table in product("45", [presets[-1]]):
        for wanted in catalogue.cells(key, (), table):
            given = request_of(command_of(wanted.request(0))).settings
            entry = registry.find("a defense", registry.defenses(), wanted.method)
            made = read_settings(
                entry, SimpleNamespace(presets=presets, network=""), "paper", given
            )
            record = make_record(
                dataset=wanted.dataset,
                method=wanted.method,
                rho=wanted.rho,
                variant="custom" if made.overrides else "paper",
                labels={"profile": "paper", "overrides": made.overrides},
            )
            fitting = [c.keys for c in catalogue.cells(key, (), table) if c.matches(record)]
            assert wanted.keys in fitting
            assert len(fitting) == 1 + (key == "4" and not wanted.overrides)


def test_another_attacks_cell_names_it_in_its_command():
    one = Cell(dataset="mnist", method="none", rho=1.0, attacks=("pgd",))
    assert "--attack pgd --rho 1 " in command_of(one.request(0))
    assert one.matches(make_record(rho=1.0, attacks=("pgd",)))
    assert not one.matches(make_record(rho=1.0))


@pytest.mark.parametrize("kind", FORMATS)
def test_claims_are_in_every_format(kind):
    records = [
        make_record(value + 1e-4 * trial * (method == "hint"), method=method, rho=0.4, trial=trial)
        for method, value in (("hint", 0.98), ("none", 0.97))
        for trial in range(4)
    ]
    text = render(catalogue.build("2", records, "mnist"), kind)
    assert "HINT is at least as good as none" in text
    assert "reproduced" in text
    if kind == "json":
        found = [c for c in json.loads(text)["claims"] if c["p_value"] is not None]
        (claim,) = found
        assert claim["verdict"] == "reproduced"
        assert claim["rho"] == 0.4
        assert claim["p_value"] < 0.001
        assert claim["test"] == "one-sided paired t-test, margin 0.001"
        assert claim["difference"] == pytest.approx(0.01015)
        assert len(claim["records"]) == 8
    if kind == "csv":
        rows = [row for row in csv.DictReader(io.StringIO(text)) if row["claim"]]
        assert len(rows) == 17
        (row,) = [row for row in rows if row["p_value"]]
        assert (row["verdict"], row["measured"]) == ("reproduced", "")
    if kind == "html":
        assert '<td class="reproduced">reproduced (p&lt;0.001)</td>' in text
