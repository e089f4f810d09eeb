"""What a verdict must not say, from stub records: each case is one that plainer tests get wrong."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from helpers.claimed_runs import IMAGES, accuracy_claim, cell, gain_runs
from helpers.synthetic_runs import changed, make_record, targeted_run
from poisonbench.results import published
from poisonbench.results.estimates import Estimate, Part
from poisonbench.results.statistics import Proportion, Summary
from poisonbench.results.verdicts import Basis, ClaimRule, judge
from poisonbench.tables import catalogue, declared
from poisonbench.tables.cells import TRIALS, Cell
from poisonbench.tables.claims import SECONDS, SuccessOrder, Superiority, against, steps
from poisonbench.tables.layout import comparison_block, show_measured
from poisonbench.tables.measured import compare_accuracy, compare_success

ATTACKS = ("gm", "mp", "bp", "fc")


def success_claim(attacks=ATTACKS, direction=-1):
    columns = [
        tuple(
            Cell(dataset="cifar10", method=method, rho=0.01, attacks=(name,), scenario="scratch")
            for name in attacks
        )
        for method in ("hint", "none")
    ]
    return SuccessOrder(claim="less", first=columns[0], others=(columns[1],), direction=direction)


def success_runs(targets, attacks=ATTACKS):
    """Without a defense each attack hits each trial's target, and none under HINT."""
    return [
        targeted_run(method == "none", attack=attack, method=method, trial=trial, target=target)
        for trial, target in enumerate(targets)
        for attack, method in product(attacks, ("hint", "none"))
    ]


# Targets


def test_one_target_under_four_attacks_is_one_target():
    finding = success_claim().judge(success_runs([7] * TRIALS))
    assert finding.verdict == "incomplete"
    assert finding.judgement.basis.targets == 1
    assert (finding.judgement.basis.poisons, finding.trials) == (4, 1)
    assert not finding.judgement.is_complete


def test_five_targets_under_four_attacks_are_five():
    finding = success_claim().judge(success_runs(range(TRIALS)))
    assert finding.verdict == "reproduced"
    assert finding.judgement.basis.targets == TRIALS
    # One attack is McNemar's test, which several do not pass sooner.
    alone = success_claim(("gm",)).judge(success_runs(range(TRIALS), ("gm",)))
    assert alone.judgement.p_value == 1 / 32
    assert 1 / 32 <= finding.judgement.p_value < 0.05


def test_an_attack_without_runs_leaves_nothing_to_judge():
    finding = success_claim().judge(success_runs(range(TRIALS), ATTACKS[:3]))
    assert (finding.verdict, finding.trials) == ("not run", 0)


def test_five_of_five_beside_a_published_two_of_five_are_inconclusive():
    runs = [targeted_run(True, trial=trial) for trial in range(TRIALS)]
    judged = compare_success({}, runs, Proportion(2, 5), trials=TRIALS).judgement
    assert judged.verdict == "inconclusive"
    assert judged.effect == pytest.approx(0.6)
    assert judged.detectable is None
    again = [targeted_run(True, trial=trial, target=7) for trial in range(TRIALS)]
    assert compare_success({}, again, Proportion(2, 5), trials=TRIALS).judgement.effect == 0.6
    repeated = compare_success({}, again, Proportion(2, 5), trials=TRIALS)
    assert repeated.judgement.basis == Basis(targets=1, attacks=1, poisons=1, seeds=1)
    assert not repeated.judgement.is_complete
    assert show_measured(repeated) == "5/5"
    assert repeated.to_dict()["measured"]["low"] is None


def test_a_repeated_target_does_not_take_the_place_of_another():
    targets = (7, 7, 8, 9, 10, 11)
    runs = [targeted_run(True, trial=trial, target=t) for trial, t in enumerate(targets)]
    shown = compare_success({}, runs, Proportion(0, 5), trials=TRIALS)
    assert (shown.judgement.is_complete, shown.judgement.basis.targets) == (True, 5)
    claim = success_claim().judge(success_runs(targets))
    assert (claim.verdict, claim.trials) == ("reproduced", 5)


# Test images


@pytest.mark.parametrize(
    ("gains", "word", "effect"),
    [
        ((1, 1, 2), "refuted", 0.00013),
        ((5, 5, 5), "inconclusive", 0.0005),
        ((8, 8, 9), "inconclusive", 0.00083),
        ((40, 45, 50), "reproduced", 0.0045),
    ],
)
def test_gains_of_a_few_images_are_chance_among_images(gains, word, effect):
    """The paired t-test over trials has p = 0.029 for the first, and none for the second."""
    finding = accuracy_claim(3).judge(gain_runs(gains))
    assert finding.verdict == word
    # Beside the word stands the p-value of its own test.
    p_of_word = finding.judgement.p_of_word
    assert p_of_word in (finding.judgement.p_value, finding.judgement.p_against)
    assert (p_of_word < 0.05) == (word != "inconclusive")
    assert finding.judgement.effect == pytest.approx(effect, rel=0.03)
    assert finding.judgement.basis == Basis(poisons=1, seeds=3, images=IMAGES)


@pytest.mark.parametrize(
    ("gains", "word"),
    [((8, 8, 9), "inconclusive"), ((8,) * 8, "inconclusive"), ((11, 12, 13), "reproduced")],
)
def test_a_gain_under_what_counts_is_not_reproduced_however_certain(gains, word):
    """A gain of 0.1 % counts, ten images; no image is right under the worse method alone."""
    finding = accuracy_claim(len(gains)).judge(gain_runs(gains, apart=0))
    assert finding.judgement.p_value < 0.05
    assert finding.verdict == word


def test_a_method_without_runs_leaves_no_other_ones_interval_beside_its_trials():
    hint, none, epic = (cell(name, trials=3) for name in ("hint", "none", "epic"))
    claim = Superiority(claim="best", comparisons=against(hint, [none, epic]))
    finding = claim.judge(gain_runs((40, 45, 50)))
    assert finding.trials == 0
    assert (finding.judgement.effect, finding.judgement.interval) == (None, None)


def test_what_was_not_found_is_not_refuted_and_says_what_could_have_been():
    rng = np.random.default_rng(0)
    finding = accuracy_claim().judge(gain_runs(rng.integers(-60, 60, TRIALS) + 10))
    assert finding.verdict == "inconclusive"
    assert finding.judgement.detectable > 0.003
    low, high = finding.judgement.interval
    assert low < 0 < high


# The planned number


def test_a_claim_is_judged_at_the_planned_number_alone():
    gains = (40, 45, 50, 42, 48, -500, -500)
    claim = accuracy_claim()
    assert [claim.judge(gain_runs(gains[:n])).verdict.value for n in (3, 4, 5, 7)] == [
        "incomplete",
        "incomplete",
        "reproduced",
        "reproduced",
    ]
    early, late = claim.judge(gain_runs(gains[:4])), claim.judge(gain_runs(gains))
    assert early.judgement.effect == pytest.approx(0.004425)
    assert late.judgement.basis.seeds == 5
    assert late.judgement.effect == pytest.approx(0.0045)
    assert late.trials == 7


def test_a_cell_is_judged_by_the_first_planned_trials():
    values = [0.9, 0.901, 0.899, 0.9, 0.9, 0.5, 0.5]
    runs = [make_record(value, trial=trial) for trial, value in enumerate(values)]
    shown = compare_accuracy({}, runs, Summary(0.8, 0.001, 5), trials=5)
    assert shown.measured.n == 7
    assert shown.judgement.effect == pytest.approx(0.1)
    assert shown.verdict == "differs"
    early = compare_accuracy({}, runs[:4], Summary(0.8, 0.001, 5), trials=5)
    assert early.verdict == "incomplete"
    assert early.judgement.interval is not None


def test_two_trials_that_spread_do_not_agree():
    runs = [make_record(value, trial=trial) for trial, value in enumerate((0.98988, 0.99412))]
    for planned in (2, 5):
        judged = compare_accuracy({}, runs, Summary(0.9844, 0.0002, 5), trials=planned).judgement
        assert judged.verdict == ("inconclusive" if planned == 2 else "incomplete")
        assert judged.effect == pytest.approx(0.0076)
        assert judged.interval == pytest.approx((-0.0194, 0.0346), abs=2e-4)
        assert judged.basis == Basis(seeds=2)
        assert judged.detectable == pytest.approx(0.035, abs=1e-3)


# Steps


@pytest.mark.parametrize(
    ("levels", "word"),
    [
        ((0.95, 0.93, 0.90, 0.85), "reproduced"),
        ((0.95, 0.95, 0.95, 0.80), "inconclusive"),
        ((0.95, 0.97, 0.90, 0.80), "refuted"),
    ],
)
def test_falls_means_at_each_step(levels, word):
    """Page's test finds a trend in all three."""
    rhos = (0.2, 0.4, 0.6, 0.8)
    claim = Superiority(
        claim="falls",
        comparisons=steps([cell("none", rho=rho) for rho in rhos]),
        is_chain=True,
        same_poison=False,
    )
    runs = list(product(zip(rhos, levels, strict=True), range(TRIALS)))
    records = [
        make_record(level, rho=rho, seed=trial, digest=f"p{rho}{trial}")
        for (rho, level), trial in runs
    ]
    assert claim.judge(records).verdict == word
    # Of one poison a level nothing tells the level from the draw, however many seeds agree.
    nested = [
        make_record(level, rho=rho, trial=trial, digest=f"p{rho}") for (rho, level), trial in runs
    ]
    finding = claim.judge(nested)
    assert (finding.verdict, finding.judgement.interval) == ("inconclusive", None)
    assert finding.judgement.effect is not None
    assert finding.judgement.basis == Basis(poisons=1, seeds=TRIALS, images=IMAGES)


# Poisons


# --check


def test_sixty_cells_that_equal_the_published_ones_do_not_fail_by_chance():
    rng = np.random.default_rng(0)
    records = [
        make_record(
            row.mean / 100 + value,
            dataset=row.dataset,
            method=row.method,
            rho=row.rho,
            trial=trial,
            digest=f"p{row.dataset}{row.rho}",
        )
        for row in published.table2()
        # The published mean is off the true one too.
        for off in [rng.normal(0, row.std / 100 / TRIALS**0.5)]
        for trial, value in enumerate(rng.normal(off, row.std / 100, TRIALS).tolist())
    ]
    words = [shown.verdict.value for shown in catalogue.build("2", records).cells]
    assert len(words) == 60
    assert words.count("differs") >= 1
    outcome = catalogue.check("2", records)
    assert (outcome.compared, outcome.differing, outcome.missing) == (60, 0, 0)
    # One that does differ is found among them.
    lower = [
        make_record(r.metrics.test_accuracy - 0.05, trial=r.spec.trial, digest="p")
        if (r.spec.dataset.name, r.spec.rho, r.spec.method) == ("mnist", 0, "none")
        else r
        for r in records
    ]
    assert catalogue.check("2", lower).differing == 1


def test_a_declared_claim_stands_alone(monkeypatch):
    """Between 5 % and its share of 5 % the claim is refuted; declared late it is one of three."""
    claim = "HINT is at least as good as none"
    own = declared.Declaration(
        **{"id": "a", "table": "2", "claim": claim, "keys": {"dataset": "mnist", "rho": 0.6}},
        **{"test": "accuracy under two methods", "least": 0.001, "seeds": 5, "source": ""},
    )
    monkeypatch.setattr(declared, "shipped", lambda: (own,))
    loss = [-0.024, 0.0, -0.012, -0.005, -0.02]
    records = [
        make_record(0.9664 + value, method=method, trial=trial, rho=0.6)
        for method, values in (("none", [2e-4, 0.0, 0.0, -1e-4, -1e-4]), ("hint", loss))
        for trial, value in enumerate(values)
    ]
    (finding,) = [
        f for f in catalogue.build("2", records, "mnist").findings if f.trials and f.claim == claim
    ]
    assert (finding.claim, finding.verdict) == (claim, "refuted")
    assert 0.05 / 3 < finding.judgement.p_against < 0.05
    assert catalogue.check("2", records, "mnist").refuted == 0
    labels = {"claims": {"a": {"digest": own.digest, "trials": 5}}}
    planned = [changed(record, labels=labels) for record in records]
    assert catalogue.check("2", planned, "mnist").refuted == 1


# What a row shows


def test_a_rows_difference_is_the_judged_one():
    """Of ten runs the first five are judged; the mean of all ten lies outside the interval."""
    values = [0.9, 0.901, 0.899, 0.9, 0.9, *[0.5] * 5]
    cells = [
        compare_accuracy({}, runs, Summary(0.8, 0.001, 5), trials=5)
        for number in (2, 4, 5, 10)
        for runs in [[make_record(value, trial=t) for t, value in enumerate(values[:number])]]
    ]
    hits = [targeted_run(trial < TRIALS, trial=trial, target=trial) for trial in range(10)]
    cells.append(compare_success({}, hits, Proportion(2, 5), trials=TRIALS))
    for shown in cells:
        low, high = shown.judgement.interval
        assert low <= shown.difference <= high
        assert shown.to_dict()["difference"] == shown.to_dict()["effect"]
    rows = comparison_block("", [replace(cell, keys={"n": 1}) for cell in cells], ["n"], {}).rows
    firsts = [row[3] for row in rows]
    assert firsts[2:] == ["+10.00", "+10.00 (first 5 of 10)", "+60.00 (first 5 of 10)"]


def test_the_page_says_what_effects_of_claims_of_no_worse_mean():
    page = " ".join(Path("docs/verdicts.md").read_text(encoding="utf-8").split())
    assert "positive where the first is better" in page
    assert "*At least as good* asks for more than -0.1 points" in page


@pytest.mark.parametrize(
    ("gains", "word"),
    [
        ((0.4, 0.5, 0.6, 0.45, 0.55), "too small"),
        ((-0.1, 0.1, 0.0, -0.05, 0.05), "refuted"),
        ((0.1, 1.2, -0.3, 0.9, 0.6), "inconclusive"),
        ((1.4, 1.5, 1.6, 1.45, 1.55), "reproduced"),
    ],
)
def test_a_certain_gain_of_less_than_a_second_is_too_small(gains, word):
    hint, none = cell("hint"), cell("none")
    claim = Superiority(claim="c", comparisons=against(hint, [none]), measure=SECONDS)
    runs = [
        make_record(method=method, rho=0.6, trial=trial, seconds=10.0 + sign * gain)
        for trial, gain in enumerate(gains)
        for method, sign in (("hint", 0), ("none", 1))
    ]
    finding = claim.judge(runs)
    assert finding.verdict == word
    assert finding.judgement.effect == pytest.approx(np.mean(gains))
    assert stats.ttest_1samp(gains, 0, alternative="greater").pvalue == pytest.approx(
        finding.judgement.p_value
    )


def test_of_several_comparisons_the_refuting_one_is_shown():
    def word(*effects, spread=2e-5, complete=True):
        known = [(Estimate(e, (Part(spread**2, 100.0),), spread**2), ClaimRule()) for e in effects]
        return judge(known, Basis(seeds=5), is_complete=complete)

    assert word(0.0009).verdict == "too small"
    assert word(0.0).verdict == "refuted"
    assert word(0.0009, -0.003).effect == -0.003
    assert word(0.0009, -0.003).verdict == "refuted"
    assert word(0.0009, complete=False).verdict == "incomplete"
    assert judge([(None, ClaimRule())], Basis(), is_complete=False).verdict == "not run"
