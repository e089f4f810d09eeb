"""Statistics against numbers worked by hand, textbook values and scipy on raw samples."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from poisonbench.results.estimates import (
    difference_from_one,
    paired_difference,
    printed_difference,
)
from poisonbench.results.proportions import ShareDifference
from poisonbench.results.statistics import (
    Proportion,
    Summary,
    mean_interval,
    paired_shares,
    summarise,
    wilson,
)
from poisonbench.results.target_success import TargetDifference
from poisonbench.results.verdicts import holm

fractions = st.floats(0, 1)
samples = st.lists(fractions, min_size=2, max_size=8)


def test_summary_by_hand():
    # Deviations -3, -1, 1, 3: sum of squares 20, over n - 1 = 3.
    summary = summarise([2, 4, 6, 8])
    assert (summary.mean, summary.n) == (5, 4)
    assert summary.std == pytest.approx(math.sqrt(20 / 3))


def test_summary_of_none_and_of_one():
    assert summarise([]) is None
    assert summarise([0.5]) == Summary(0.5, None, 1)


def test_interval_by_hand():
    # t(0.975; 4) = 2.776445; half width 2.776445 * 0.02 / sqrt(5).
    low, high = mean_interval(Summary(0.9, 0.02, 5))
    assert (high - low) / 2 == pytest.approx(0.0248333, abs=1e-6)
    assert (high + low) / 2 == pytest.approx(0.9)
    assert mean_interval(Summary(0.9, None, 1)) is None


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # z = 1.959964: 0 of n has the upper end z^2 / (n + z^2).
        (0, 5, 0, 0.434482),
        (5, 5, 0.565518, 1),
        (1, 5, 0.036224, 0.624465),
        # Newcombe 1998, table I.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
    ],
)
def test_wilson_known_values(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("counts", [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts(counts):
    with pytest.raises(ValueError, match="expected at least one trial"):
        wilson(*counts)
    with pytest.raises(ValueError, match="expected at least one trial"):
        Proportion(*counts)


@settings(max_examples=50, deadline=None)
@given(samples)
def test_interval_is_scipys_and_holds_the_mean(values):
    summary = summarise(values)
    low, high = mean_interval(summary)
    assert low <= summary.mean <= high
    if summary.std > 1e-6:
        error = stats.sem(values)
        expected = stats.t.interval(0.95, len(values) - 1, summary.mean, error)
        assert (low, high) == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_is_symmetric(counts):
    successes, trials = counts
    low, high = wilson(successes, trials)
    assert 0 <= low <= successes / trials + 1e-12
    assert successes / trials - 1e-12 <= high <= 1
    mirrored = wilson(trials - successes, trials)
    assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-12)


def test_paired_shares_by_hand():
    """Agresti's example of two surveys: 794 yes twice, 150 and 86 changed, 570 no twice.

    64 / 1602 = 0.03995; its error is sqrt(237 / 1602 - 0.03995^2) / sqrt(1602) = 0.009558.
    """
    first = [True] * (794 + 150) + [False] * (86 + 570)
    second = [True] * 794 + [False] * 150 + [True] * 86 + [False] * 570
    assert paired_shares(first, second) == pytest.approx((0.02122, 0.05868), abs=1e-5)
    low, high = paired_shares(first, second)
    assert paired_shares(second, first) == pytest.approx((-high, -low))


def test_paired_shares_have_an_interval_where_all_agree_and_end_where_shares_do():
    low, high = paired_shares([True] * 50, [True] * 50)
    assert low == -high < 0
    assert paired_shares([True], [False])[1] == 1
    for wrong in ([], [True]):
        with pytest.raises(ValueError, match="expected as many items twice"):
            paired_shares(wrong, [True, True])


@pytest.mark.parametrize("gained", [0.05, 0.3])
def test_paired_shares_hold_the_true_difference_as_often_as_they_say(gained):
    """A simulation of 400 pairs of 300 items: 95 % of the intervals, within three errors."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        draw = rng.random(300)
        first, second = draw < gained, (draw >= gained) & (draw < gained + 0.1)
        low, high = paired_shares(first.tolist(), second.tolist())
        held += low <= gained - 0.1 <= high
    assert 0.917 <= held / 400 <= 0.983


def test_a_printed_mean_is_judged_by_the_widest_spread_and_planned_by_the_likeliest():
    ours, printed = Summary(0.985, 0.0004, 5), Summary(0.9844, 0.0002, 5)
    difference = printed_difference(ours, printed, 0.0001)
    assert difference.effect == pytest.approx(0.0006)
    # Divisor 4 in place of 5; half a digit more, and a mean that may be rounded by as much.
    widest = 0.00025**2 * 5 / 4 + 5 * 0.0001**2 / 12
    assert [part.variance for part in difference.parts] == pytest.approx(
        [0.0004**2 / 5, widest / 5]
    )
    likeliest = 0.0004**2 / 5 + 0.0002**2 / 4 + 0.0001**2 / 12
    assert difference.variance == pytest.approx(likeliest)
    assert printed_difference(None, printed, 0.0001) is None
    assert printed_difference(ours, Summary(0.98, None, 1), 0.0001) is None


def test_a_paired_test_is_scipys():
    gains = [0.3, -0.1, 0.4, 0.25, 0.1]
    ours = paired_difference(gains)
    above, below = (stats.ttest_1samp(gains, 0.1, alternative=a) for a in ("greater", "less"))
    assert ours.p_above(0.1) == pytest.approx(above.pvalue)
    assert ours.p_below(0.1) == pytest.approx(below.pvalue)
    two_sided = stats.ttest_1samp(gains, 0).confidence_interval()
    assert ours.interval() == pytest.approx(tuple(two_sided))


@pytest.mark.parametrize(
    ("first", "second"), [((5, 5), (2, 5)), ((4, 5), (1, 5)), ((9, 10), (3, 8)), ((1, 6), (0, 9))]
)
def test_at_no_difference_the_test_of_shares_is_barnards(first, second):
    ours = ShareDifference(Proportion(*first), Proportion(*second))
    (x, n), (y, m) = first, second
    table = [[x, y], [n - x, m - y]]
    scipys = stats.barnard_exact(table, alternative="greater", n=256).pvalue
    assert ours.p_above(0.0) == pytest.approx(scipys, rel=1e-3)


@pytest.mark.parametrize(("won", "lost", "same"), [(5, 0, 0), (4, 1, 2), (9, 3, 8), (2, 6, 1)])
def test_one_attacks_test_over_targets_is_mcnemars(won, lost, same):
    ours = TargetDifference((1,) * won + (-1,) * lost + (0,) * same, 1, 0.5)
    scipys = stats.binomtest(won, won + lost, 0.5, alternative="greater").pvalue
    assert ours.p_above(0.0) == pytest.approx(scipys)


@given(st.lists(fractions, min_size=1, max_size=6))
def test_holms_correction_is_bonferronis_in_each_part_of_the_family(p_values):
    """By the closure principle: the largest over all parts that hold the test."""
    parts = [
        part for n in range(len(p_values)) for part in combinations(range(len(p_values)), n + 1)
    ]
    for index, adjusted in enumerate(holm(p_values)):
        by_part = [len(p) * min(p_values[i] for i in p) for p in parts if index in p]
        assert adjusted == pytest.approx(min(1.0, max(by_part)))


def test_one_published_figure_is_judged_as_one_more_run():
    """Student's prediction interval, and its level where the figure is such a run."""
    ours = summarise([0.90, 0.92, 0.91, 0.93])
    difference = difference_from_one(ours, 0.95, 0.0)
    half = stats.t.ppf(0.975, 3) * ours.std * (1 + 1 / 4) ** 0.5
    low, high = difference.interval()
    assert difference.effect == pytest.approx(ours.mean - 0.95)
    assert (low, high) == pytest.approx((difference.effect - half, difference.effect + half))
    assert difference_from_one(None, 0.95, 0.0001) is None
    assert difference_from_one(summarise([0.9]), 0.95, 0.0001) is None
    random, misses = np.random.default_rng(0), 0
    for _ in range(400):
        *values, figure = random.normal(0.9, 0.01, 6)
        low, high = difference_from_one(summarise(values), figure, 0.0).interval()
        misses += not low < 0 < high
    assert 8 <= misses <= 34
