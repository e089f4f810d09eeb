"""Statistics against numbers worked by hand, textbook values and scipy on raw samples."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from poisonbench.results.statistics import (
    Summary,
    Verdict,
    fisher,
    mean_interval,
    of_one_spread,
    paired_over,
    rising_trend,
    summarise,
    verdict,
    welch,
    wilson,
)

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


def test_welch_by_hand():
    # Means 1 apart, equal n = 5 and std = 1: t = sqrt(2.5), 8 degrees of freedom.
    expected = 2 * stats.t.sf(math.sqrt(2.5), 8)
    assert welch(Summary(1, 1, 5), Summary(0, 1, 5)) == pytest.approx(expected)


def test_verdict_against_the_paper():
    published = Summary(0.9687, 0.0002, 5)
    assert verdict(Summary(0.9688, 0.0003, 5), published)[0] is Verdict.AGREES
    assert verdict(Summary(0.9787, 0.0003, 5), published)[0] is Verdict.DIFFERS
    # t = 0.001 / (0.0002 sqrt(6 / 5)), four degrees of freedom: the published spread alone.
    said, p_value = verdict(Summary(0.9697, None, 1), published)
    assert said is Verdict.TOO_FEW
    assert p_value == pytest.approx(2 * stats.t.sf(0.001 / (0.0002 * math.sqrt(1.2)), 4))
    for spread, n in ((None, 1), (0.0, 5)):
        lone = verdict(Summary(0.9697, None, 1), Summary(0.9687, spread, n))
        assert lone == (Verdict.TOO_FEW, None)
    assert verdict(None, published) == (Verdict.TOO_FEW, None)


def test_no_spread_on_either_side():
    same = summarise([0.97] * 3)
    assert same.std == 0
    assert welch(same, Summary(0.97, 0, 5)) == 1
    assert welch(same, Summary(0.96, 0, 5)) == 0
    assert 0 < welch(same, Summary(0.96, 0.01, 5)) < 1


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


def test_fisher_known_values():
    # The tea taster: 3 of 4 against 1 of 4.
    assert fisher((3, 4), (1, 4)) == pytest.approx(34 / 70)
    # Only the two extreme tables of 252 are as unlikely.
    assert fisher((0, 5), (5, 5)) == pytest.approx(2 / 252)


def test_paired_over_by_hand():
    # Mean 3, standard deviation 1, n = 4: t = 6 with 3 degrees of freedom.
    differences = [2, 3, 3 + math.sqrt(1.5), 4 - math.sqrt(1.5)]
    summary = summarise(differences)
    t = (summary.mean - 1) / (summary.std / 2)
    assert paired_over(differences, 1) == pytest.approx(stats.t.sf(t, 3))
    # 1, 2, 3 over 0: t = 2 / (1 / sqrt(3)) = 3.4641; the tail of two degrees of freedom is
    # (1 - t / sqrt(t^2 + 2)) / 2.
    t = 2 * math.sqrt(3)
    assert paired_over([1, 2, 3]) == pytest.approx((1 - t / math.sqrt(t * t + 2)) / 2)


def test_one_value_against_a_group_is_the_t_test_of_two_groups():
    group = [0.90, 0.93, 0.91, 0.96]
    expected = stats.ttest_ind([0.99], group, equal_var=True).pvalue
    assert of_one_spread(0.99, summarise(group)) == pytest.approx(expected)


def test_paired_over_of_few_and_of_no_spread():
    """Three trials that gain one test image each are no proof: all signs agree by chance in 1/8."""
    assert paired_over([]) is None
    assert paired_over([1.0]) is None
    assert paired_over([0.1] * 3) == 1 / 8
    assert paired_over([0.1] * 5) == 1 / 32
    assert paired_over([0.0] * 3) == 1
    assert paired_over([0.0] * 3, -0.001) == 1 / 8
    assert paired_over([-0.001] * 3, -0.001) == 1


@settings(max_examples=50, deadline=None)
@given(samples, st.floats(-0.1, 0.1))
def test_paired_over_and_its_mirror_make_one(differences, margin):
    p_value = paired_over(differences, margin)
    mirrored = paired_over([-d for d in differences], -margin)
    if summarise(differences).std > 1e-6:
        assert p_value + mirrored == pytest.approx(1)
    assert p_value <= paired_over(differences, margin + 0.01) + 1e-9


def test_page_by_hand():
    # Of the 3!^2 pairs of orders one has both rising, and 4 more the next largest statistic.
    assert rising_trend([[1, 2, 3], [5, 6, 7]]) == pytest.approx(1 / 36)
    assert rising_trend([[1, 2, 3], [5, 7, 6]]) == pytest.approx(5 / 36)
    assert rising_trend([[3, 2, 1], [7, 6, 5]]) == 1
    assert rising_trend([[1, 2, 3]]) is None
    assert rising_trend([[1, 2], [1, 2]]) is None


@pytest.mark.parametrize("counts", [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts(counts):
    with pytest.raises(ValueError, match="expected at least one trial"):
        wilson(*counts)
    with pytest.raises(ValueError, match="expected at least one trial"):
        fisher(counts, (1, 2))


@settings(max_examples=50, deadline=None)
@given(samples, samples)
def test_welch_is_scipys_on_raw_samples(first, second):
    a, b = summarise(first), summarise(second)
    p_value = welch(a, b)
    assert 0 <= p_value <= 1
    assert p_value == pytest.approx(welch(b, a))
    if min(a.std, b.std) > 1e-6:
        expected = stats.ttest_ind(first, second, equal_var=False).pvalue
        assert p_value == pytest.approx(expected, abs=1e-9)


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
