"""How many trials declared claims are given, and what is said of them."""

import numpy as np
import pytest
from msgspec.structs import replace

from helpers.synthetic_runs import make_record, targeted_run
from poisonbench.core.errors import UsageError
from poisonbench.results.crossed import spread_of
from poisonbench.results.records import Bits, Outcomes
from poisonbench.results.statistics import Verdict
from poisonbench.results.verdicts import ClaimRule
from poisonbench.tables import catalogue, claim_plan, declared, table2, table3
from poisonbench.tables.claim_plan import plan_claims

IMAGES = 10_000


def planned(name, table="2", records=(), **choice):
    (own,) = [p for p in plan_claims(table, records, **choice) if p.declaration.id == name]
    return own


def with_outcomes(accuracies, rho, dataset="mnist"):
    """Runs whose right images are drawn anew for each."""
    draws = np.random.default_rng(0)
    records = []
    for method, values in accuracies.items():
        for trial, value in enumerate(values):
            right = draws.random(IMAGES) < value
            fields = {"method": method, "rho": rho, "trial": trial, "dataset": dataset}
            record = make_record(float(right.mean()), **fields)
            records.append(replace(record, outcomes=Outcomes(test=Bits.pack(right.tolist()))))
    return records


def test_without_runs_the_declared_number_is_planned():
    own = planned("hint-beats-defenses-mnist-0.6")
    assert (own.trials, own.needed) == (own.declaration.seeds, None)
    assert own.label.trials == own.trials
    assert own.label.digest == own.declaration.digest
    assert len(own.requests()) == 4 * own.trials
    assert "10 seed(s) as declared; by the published spread 0.27 %" in own.in_words()
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
    assert "3 seed(s) by choice, of 10; by the published spread 0.60 % is found" in own.in_words()
    alone = planned("hint-beats-defenses-mnist-0.6", trials=1)
    assert "nothing is found" in alone.in_words()


def test_runs_that_have_records_are_left_out():
    own = planned("hint-defends-mnist-1.0")
    runs = [make_record(0.9, method="hint", rho=1.0, trial=trial) for trial in (0, 3)]
    left = own.requests(runs)
    assert len(left) == len(own.requests()) - 2
    assert {run.trial for run in left if run.method == "hint"} == {1, 2, 4}


def test_seeds_share_out_the_draws_of_the_poison():
    own = planned("hint-defends-mnist-sample-1.0", trials=7)
    draws = [(run.trial, run.poison.trial) for run in own.requests() if run.method == "none"]
    assert draws == [(trial, trial % 5) for trial in range(7)]
    assert "7 seed(s) on 5 poisons by choice" in own.in_words()
    # More seeds than poisons are no larger sample of poisons.
    runs = with_outcomes({"hint": [0.9, 0.95], "none": [0.8, 0.7]}, 1.0, "mnist-sample")
    sizing = planned("hint-defends-mnist-sample-1.0", records=runs).sizing
    assert sizing.detectable(5) == sizing.detectable(50) < sizing.detectable(4)


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


def test_seconds_are_planned_as_declared():
    own = planned("hint-faster-cifar10", "5")
    assert (own.trials, own.sizing) == (5, None)
    assert "no spread is known" in own.in_words()


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
