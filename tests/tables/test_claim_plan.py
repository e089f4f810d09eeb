"""How many trials declared claims are given, and what is said of them."""

import dataclasses

import numpy as np
import pytest
from msgspec.structs import replace
from scipy import stats

from helpers.synthetic_runs import changed, make_record, targeted_run
from poisonbench.core.errors import UsageError
from poisonbench.results.crossed import accuracy_difference, spread_of
from poisonbench.results.records import Bits, Outcomes
from poisonbench.results.statistics import Verdict
from poisonbench.results.verdicts import Basis, ClaimRule
from poisonbench.tables import catalogue, claim_plan, declared, table2, table3
from poisonbench.tables.cells import distinct_trials, is_of_plan
from poisonbench.tables.claim_plan import plan_claims

IMAGES = 10_000


def planned(name, table="2", records=(), **choice):
    (own,) = [p for p in plan_claims(table, records, **choice) if p.declaration.id == name]
    return own


def with_outcomes(accuracies, rho, dataset="mnist", images=IMAGES, draw_of=lambda trial: 0):
    """Runs whose right images are drawn anew for each."""
    draws = np.random.default_rng(0)
    records = []
    for method, values in accuracies.items():
        for trial, value in enumerate(values):
            right = draws.random(images) < value
            fields = {"method": method, "rho": rho, "trial": trial, "dataset": dataset}
            draw = draw_of(trial)
            record = make_record(float(right.mean()), draw=draw, digest=f"p{draw}", **fields)
            records.append(replace(record, outcomes=Outcomes(test=Bits.pack(right.tolist()))))
    return records


def test_without_runs_the_declared_number_is_planned():
    own = planned("hint-beats-defenses-mnist-0.6")
    assert (own.trials, own.needed) == (own.declaration.seeds, None)
    assert own.label.trials == own.trials
    assert own.label.digest == own.declaration.digest
    assert len(own.requests()) == 4 * own.trials
    text = "11 seed(s) as declared; by the published spread 0.29 % or more is found"
    assert text in own.in_words()
    assert own.in_words().endswith("expected is 0.29 %")


def test_a_wide_spread_calls_for_more_than_was_declared():
    noisy = {"hint": [0.95, 0.99, 0.97], "none": [0.97, 0.65, 0.8]}
    runs = with_outcomes(noisy, 1.0)
    own = planned("hint-defends-mnist-1.0", records=runs)
    # By hand: the random effects of the three pairs, and a margin as the rule.
    right = [r.outcomes.test.unpack().astype(int) for r in runs]
    spread = spread_of(np.subtract(right[:3], right[3:])[None])
    rule = ClaimRule(-0.001, -0.001)

    def power(seeds):
        estimate = spread.estimate(0, poisons=1, seeds=seeds, images=IMAGES, least=0.001)
        return estimate.chances(rule, own.declaration.expected)[Verdict.REPRODUCED]

    assert own.needed > own.declaration.seeds
    assert own.trials == own.needed
    assert power(own.needed) >= 0.8 > power(own.needed - 1)
    text = f"{own.needed} seed(s) by the spread, 5 declared; by the spread of 3 pairs of runs"
    assert text in own.in_words()


def test_a_narrow_spread_never_calls_for_fewer_than_were_declared():
    runs = with_outcomes({"hint": [0.99] * 3, "none": [0.75] * 3}, 1.0)
    own = planned("hint-defends-mnist-1.0", records=runs)
    assert own.needed < own.trials == own.declaration.seeds
    # One pair says nothing of a spread.
    single = planned("hint-defends-mnist-1.0", records=[runs[0], runs[3]])
    assert single.needed is None
    # Nor do runs without outcomes by image.
    old = [replace(record, outcomes=Outcomes()) for record in runs]
    assert planned("hint-defends-mnist-1.0", records=old).needed is None


def test_fewer_by_choice_find_less_and_say_so():
    own = planned("hint-beats-defenses-mnist-0.6", trials=3)
    assert own.trials == 3
    assert len(own.requests()) == 12
    text = "3 seed(s) by choice, of 11; by the published spread 0.68 % or more is found"
    assert text in own.in_words()
    alone = planned("hint-beats-defenses-mnist-0.6", trials=1)
    assert "nothing is found" in alone.in_words()


def test_runs_that_have_records_are_left_out():
    own = planned("hint-defends-mnist-1.0")
    runs = [make_record(0.9, method="hint", rho=1.0, trial=trial) for trial in (0, 3)]
    left = own.requests(runs)
    assert len(left) == len(own.requests()) - 2
    assert {run.trial for run in left if run.method == "hint"} == {1, 2, 4}


def test_runs_without_the_declaration_are_warned_of():
    name = "hint-defends-mnist-1.0"
    own = planned(name)
    assert own.warning is None
    runs = [make_record(0.9, method="hint", rho=1.0, trial=trial) for trial in (0, 3)]
    labels = {"claims": {name: {"digest": own.declaration.digest, "trials": 5}}}
    runs.append(make_record(0.9, method="hint", rho=1.0, trial=1, labels=labels))
    # Another claim's cell, and another digest.
    runs.append(make_record(0.9, method="epic", rho=1.0, trial=1))
    labels = {"claims": {name: {"digest": "0" * 16, "trials": 5}}}
    runs.append(make_record(0.9, method="none", rho=1.0, trial=1, labels=labels))
    warned = planned(name, records=runs)
    assert warned.warning.startswith(f"{name}: 3 run(s) in its cells were made before")
    claim = warned.claims[0]
    assert declared.judge("2", claim, runs).standing.value in warned.warning
    assert planned(name, records=runs[2:3]).warning is None


SAMPLE = "hint-defends-mnist-sample-1.0"
UNEVEN = {"hint": [0.91, 0.96, 0.9, 0.95, 0.93], "none": [0.9] * 5}


def sample_runs(accuracies=UNEVEN, draw_of=lambda trial: trial):
    return with_outcomes(accuracies, 1.0, "mnist-sample", images=1000, draw_of=draw_of)


def test_where_poisons_vary_more_seeds_have_more_poisons():
    own = planned(SAMPLE, trials=7)
    draws = [(run.trial, run.poison.trial) for run in own.requests() if run.method == "none"]
    assert draws == [(trial, trial) for trial in range(7)]
    assert "7 seed(s) on 7 poison(s) by choice, of 5" in own.in_words()
    declared_runs = planned(SAMPLE).requests()
    assert {run.poison.trial for run in declared_runs} == set(range(5))
    by_spread = planned(SAMPLE, records=sample_runs())
    assert by_spread.trials == by_spread.needed > 5
    assert {run.poison.trial for run in by_spread.requests()} == set(range(by_spread.needed))
    text = f"{by_spread.needed} seed(s) on {by_spread.needed} poison(s) by the spread, 5 declared; "
    assert f"{text}each on a poison of its own" in by_spread.in_words()
    # A report judges them all: a trial's own draw is of the plan, as is the one that it shares.
    runs = [make_record(trial=7, draw=draw, rho=1.0, dataset="mnist-sample") for draw in (7, 2, 3)]
    assert [is_of_plan(run) for run in runs] == [True, True, False]
    assert [run.spec.poison.trial for run in distinct_trials(runs)] == [7]
    on_mnist = make_record(trial=7, draw=7, rho=1.0)
    assert not is_of_plan(on_mnist)
    label = {"digest": own.declaration.digest, "trials": 7}
    accuracies = {"hint": [0.94, 0.95] * 4, "none": [0.9, 0.91] * 4}
    records = [
        changed(run, labels={"claims": {SAMPLE: label}, "sizes": {"test": 1000}})
        for run in sample_runs(accuracies)
    ]
    finding = declared.judge("2", own.claims[0], records)
    assert (finding.standing, finding.verdict) == ("declared", "reproduced")
    assert finding.judgement.basis == Basis(poisons=7, seeds=7, images=1000)


def test_the_number_of_poisons_finds_as_often_as_it_says():
    """By tables drawn from the spread that the number is planned with."""
    runs = sample_runs()
    own = planned(SAMPLE, records=runs)
    right = np.array([run.outcomes.test.unpack() for run in runs]).astype(int)
    spread = spread_of((right[:5] - right[5:])[None])
    poisons, images, tables = own.needed, 1000, 2000
    draws = np.random.default_rng(1)
    rule = ClaimRule(0.0, 0.001)
    hits = 0
    for _ in range(tables):
        shared = draws.normal(0, max(0, spread.image) ** 0.5, images)
        table = draws.normal(own.declaration.expected, spread.rest**0.5, (poisons, 1, images))
        table += shared + draws.normal(0, spread.seed**0.5, (poisons, 1, 1))
        hits += rule.verdict(accuracy_difference(table, 0 * table)) is Verdict.REPRODUCED
    assert hits / tables == pytest.approx(own.sizing.power(poisons, 0.02), abs=0.02)
    # Were the poisons what varies, as many seeds on the declared five would not do.
    varied = dataclasses.replace(spread, poison=spread.seed, seed=0.0)
    few = varied.estimate(0, poisons=5, seeds=20, images=images)
    assert few.chances(rule, 0.02)[Verdict.REPRODUCED] < 0.8


def test_seeds_that_share_poisons_tell_the_spread_of_poisons():
    alone = planned(SAMPLE, records=sample_runs(draw_of=lambda trial: 0))
    assert alone.needed is None
    assert "no spread is known" in alone.in_words()
    # Seeds that agree on each of two poisons are two samples of two, not one of four.
    twice = {"hint": [0.95, 0.91, 0.95, 0.91], "none": [0.9] * 4}
    sizing = planned(SAMPLE, records=sample_runs(twice, draw_of=lambda trial: trial % 2)).sizing
    right = np.array([run.outcomes.test.unpack() for run in sample_runs(twice)]).astype(int)
    gains = right[:4] - right[4:]
    by_hand = np.mean([spread_of(gains[None, i : i + 2]).seed for i in (0, 2)])
    assert sizing.comparisons[0].args[0].seed == pytest.approx(by_hand)


def hits(method, attack, targets):
    row = table3.find_row("cifar10", attack)
    how = {"attack": attack, "scenario": row.scenario, "overrides": row.overrides}
    how["rho"] = table3.own_share("cifar10", row.scenario)
    return [
        targeted_run(bool(success), method=method, trial=trial, **how)
        for trial, success in enumerate(targets)
    ]


def test_targets_are_planned_by_the_hits_there_are():
    # Whether attacks go alike on a target decides how many targets it takes.
    alike = [1, 1, 1, 0, 0, 0, 1, 0]
    apart = {
        "gm": alike,
        "mp": [0, 0, 1, 1, 1, 0, 0, 1],
        "bp": [1, 0, 0, 1, 0, 1, 0, 1],
        "fc": [0, 1, 0, 0, 1, 1, 1, 0],
    }
    needed = []
    for by_attack in (dict.fromkeys(apart, alike), apart):
        runs = [
            record
            for attack, targets in by_attack.items()
            for record in [*hits("epic", attack, targets), *hits("hint", attack, [0] * 8)]
        ]
        own = planned("hint-hit-less-than-epic-cifar10", "3", runs)
        assert "by the hits on 8 targets" in own.in_words()
        needed.append(own.needed)
    assert needed[0] > needed[1]


def timed(seconds, **fields):
    return [
        make_record(method=method, dataset="cifar10", rho=0.6, trial=trial, seconds=value, **fields)
        for method, values in seconds.items()
        for trial, value in enumerate(values)
    ]


def test_seconds_are_planned_as_declared_and_sized_by_the_spread_so_far():
    own = planned("hint-faster-cifar10", "5")
    assert (own.trials, own.sizing) == (5, None)
    assert "no spread is known" in own.in_words()
    assert "before two timed runs of each method on one device" in own.in_words()
    seconds = {"hint": [50.0, 52.0, 51.0], "atda": [90.0, 95.0, 91.0], "epic": [80.0, 83.0, 80.0]}
    own = planned("hint-faster-cifar10", "5", timed(seconds))
    assert (own.trials, own.needed) == (5, None)
    least = own.sizing.detectable(5)
    assert "by the spread of 3 trials on Processor A, 2 thread(s)" in own.in_words()
    assert f" {least:.1f} s or more is found four times of five" in own.in_words()
    assert own.in_words().endswith("is not declared, so that the spread plans no more")
    # The paired t-test's own power, of the comparison that spreads most, at 90 % for each of two.
    spread = np.std([40.0, 43.0, 40.0], ddof=1) / 5**0.5
    power = stats.nct.sf(stats.t.isf(0.05, 4), 4, least / spread)
    assert power == pytest.approx(0.9, abs=0.005)
    assert (
        planned("hint-faster-cifar10", "5", timed({name: [5.0] for name in seconds})).sizing is None
    )


def test_only_what_is_asked_for_is_planned():
    every = plan_claims("2", ())
    assert {own.declaration.dataset for own in every} == {"mnist", "cifar10", "mnist-sample"}
    some = plan_claims("2", (), "cifar10")
    on_cifar10 = [own for own in every if own.declaration.dataset == "cifar10"]
    assert [own.in_words() for own in on_cifar10] == [own.in_words() for own in some]
    assert plan_claims("4", ()) == []
    with pytest.raises(UsageError, match="expected a data set"):
        plan_claims("2", (), "mnis")
    with pytest.raises(UsageError, match="expected a table"):
        plan_claims("9", ())


def test_a_fall_is_a_comparison_of_each_step():
    own = planned("hint-defends-mnist-1.0").declaration
    fall = replace(own, claim="accuracy falls as rho grows: HINT", keys={"dataset": "mnist"})
    cells = catalogue.cells("2", (), "mnist")
    (claim,) = declared.claims_of(fall, table2.TABLE.claims("mnist", cells, ()))
    sizing = claim_plan.published_sizing(fall, claim)
    assert (len(sizing.comparisons), sizing.count) == (5, 5)
    assert sizing.rule == ClaimRule(0.0, own.least)
    runs = with_outcomes({"hint": [0.97, 0.98]}, 0.0) + with_outcomes({"hint": [0.9, 0.9]}, 0.2)
    measured = claim_plan.measured_sizing(fall, claim, runs)
    assert (len(measured.comparisons), measured.count) == (1, 5)
    assert measured.basis == "by the spread of 2 pairs of runs"


def test_of_too_much_noise_the_declared_number_stands():
    noisy = {"hint": [0.99, 0.2, 0.9], "none": [0.1, 0.95, 0.3]}
    own = planned("hint-defends-mnist-1.0", records=with_outcomes(noisy, 1.0))
    assert (own.trials, own.needed) == (own.declaration.seeds, None)
    assert own.sizing.power(claim_plan.MOST, own.declaration.expected) < 0.8


def test_a_power_is_never_under_zero():
    assert planned("hint-beats-defenses-mnist-0.6").sizing.power(2, 0.0) == 0.0


def test_a_difference_is_never_minus_zero():
    own = planned("hint-not-worse-than-none-cifar10-0.2")
    assert -5e-5 < own.sizing.detectable(8) < 0
    assert " 0.00 % or more is found" in own.in_words()
