"""The statistics of the tables: means, intervals and tests, with scipy behind them.

Accuracies are fractions of 1. Tests against published values are two-sided; those of claims, which
have a direction, are one-sided. scipy is imported where it is used, so that the command line starts
fast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean, stdev
from typing import Literal

#: Below this p-value a measured mean is said to differ from the published one.
SIGNIFICANCE = 0.05

#: A claim is tested on this many trials or more.
CLAIM_TRIALS = 3

#: Standard errors below this are rounding of the arithmetic: one image of a million is 1e-6.
_NO_SPREAD = 1e-12


class Verdict(StrEnum):
    """The outcome of comparing a cell with the published value, or of testing a claim."""

    AGREES = "agrees"
    DIFFERS = "differs"
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"
    TOO_FEW = "not enough trials"
    UNPUBLISHED = "not published"
    NOT_TESTED = "not tested"
    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    REFUTED = "refuted"


@dataclass(frozen=True)
class Summary:
    """Mean, sample standard deviation and number of values.

    Attributes:
        mean: arithmetic mean.
        std: standard deviation with divisor n - 1; null for one value, which has no spread.
        n: number of values.
    """

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Proportion:
    """Successes among trials.

    Attributes:
        successes: how many.
        trials: of how many.
        is_independent: whether one trial says nothing of the others; else there is no interval.

    Raises:
        ValueError: counts out of range.
    """

    successes: int
    trials: int
    is_independent: bool = True

    def __post_init__(self) -> None:
        _check_counts(self.successes, self.trials)

    @property
    def rate(self) -> float:
        """Successes as a share of the trials."""
        return self.successes / self.trials


def summarise(values: Sequence[float]) -> Summary | None:
    """Mean and sample standard deviation; null of no values at all."""
    if not values:
        return None
    return Summary(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def mean_interval(summary: Summary) -> tuple[float, float] | None:
    """Student's t interval of the mean, of 95 %; null for fewer than two values.

    Args:
        summary: of the values.

    Returns:
        The two ends, in the unit of the values; not clipped to any range.
    """
    if summary.std is None or summary.n < 2:
        return None
    from scipy import stats

    half = float(stats.t.ppf(0.975, summary.n - 1))
    half *= summary.std / math.sqrt(summary.n)
    return summary.mean - half, summary.mean + half


def welch(first: Summary, second: Summary) -> float | None:
    """p-value of Welch's t-test that two means are equal; null where one has fewer than two values.

    Where neither has any spread there is nothing to divide by: equal means give 1, others 0.
    """
    if first.std is None or second.std is None or first.n < 2 or second.n < 2:
        return None
    error = math.hypot(first.std / math.sqrt(first.n), second.std / math.sqrt(second.n))
    if error < _NO_SPREAD:
        return 1.0 if math.isclose(first.mean, second.mean, abs_tol=1e-9) else 0.0
    from scipy import stats

    test = stats.ttest_ind_from_stats(
        first.mean, first.std, first.n, second.mean, second.std, second.n, equal_var=False
    )
    return float(test.pvalue)


def of_one_spread(value: float, others: Summary) -> float | None:
    """p-value of Student's t-test that one value comes from where others do, with their spread.

    It is the t-test of two groups, one of them of a single value, and as much the question whether
    the value lies in the others' prediction interval. Were its own spread wider than theirs, it
    would be called different too often. Null where the others have no spread.
    """
    if others.std is None or others.n < 2 or others.std < _NO_SPREAD:
        return None
    from scipy import stats

    distance = abs(value - others.mean) / (others.std * math.sqrt(1 + 1 / others.n))
    return float(2 * stats.t.sf(distance, others.n - 1))


def verdict(measured: Summary | None, published: Summary) -> tuple[Verdict, float | None]:
    """Compare a measured mean with a published one: the verdict and the p-value.

    Welch's test. "agrees" means that it found no difference at the 5 % level, not that there is
    none. One trial, which has no spread of its own, is not enough, and has the p-value of
    :func:`of_one_spread` to read beside it.
    """
    if measured is not None and measured.n == 1:
        return Verdict.TOO_FEW, of_one_spread(measured.mean, published)
    p_value = welch(measured, published) if measured is not None else None
    if p_value is None:
        return Verdict.TOO_FEW, None
    return (Verdict.DIFFERS if p_value < SIGNIFICANCE else Verdict.AGREES), p_value


def success_verdict(
    measured: Proportion | None, published: Proportion
) -> tuple[Verdict, float | None]:
    """Compare a measured share with a published one: the verdict and Fisher's exact p-value.

    Fewer than three trials are not tested.
    """
    if measured is None or measured.trials < CLAIM_TRIALS:
        return Verdict.TOO_FEW, None
    p_value = fisher((measured.successes, measured.trials), (published.successes, published.trials))
    return (Verdict.DIFFERS if p_value < SIGNIFICANCE else Verdict.AGREES), p_value


def paired_over(differences: Sequence[float], margin: float = 0.0) -> float | None:
    """p-value of the one-sided paired t-test that a mean difference is over a margin.

    The null hypothesis is that it is at most the margin. A negative margin makes this the test of
    non-inferiority. Differences without any spread (a few trials that differ by as many test
    images) would have a p-value of 0 by it; the sign test stands in.

    Args:
        differences: one a pair.
        margin: in their unit.

    Returns:
        The p-value; null for fewer than two differences.
    """
    summary = summarise(differences)
    if summary is None or summary.std is None:
        return None
    if summary.std < _NO_SPREAD:
        return float(0.5**summary.n) if summary.mean > margin + 1e-9 else 1.0
    from scipy import stats

    return float(stats.ttest_1samp(differences, margin, alternative="greater").pvalue)


def rising_trend(blocks: Sequence[Sequence[float]]) -> float | None:
    """p-value of Page's test that values rise along ordered levels.

    The null hypothesis is no trend: within a block every order of the values is as likely. Ties
    share their mean rank.

    Args:
        blocks: one a trial, each with one value a level in the order of the levels.

    Returns:
        The p-value; null for fewer than two blocks or three levels.
    """
    if len(blocks) < 2 or len(blocks[0]) < 3:
        return None
    from scipy import stats

    return float(stats.page_trend_test(blocks).pvalue)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion, of 95 %.

    Args:
        successes: 0 to ``trials``.
        trials: at least 1.

    Raises:
        ValueError: counts out of range.
    """
    _check_counts(successes, trials)
    from scipy import stats

    interval = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def fisher(
    first: tuple[int, int],
    second: tuple[int, int],
    alternative: Literal["two-sided", "less", "greater"] = "two-sided",
) -> float:
    """p-value of Fisher's exact test that two proportions, each (successes, trials), are equal.

    Args:
        first: one.
        second: the other.
        alternative: what the test looks for: any difference, or a first that is less or greater.

    Raises:
        ValueError: counts out of range.
    """
    _check_counts(*first)
    _check_counts(*second)
    from scipy import stats

    table = [[successes, trials - successes] for successes, trials in (first, second)]
    return float(stats.fisher_exact(table, alternative=alternative).pvalue)


def _check_counts(successes: int, trials: int) -> None:
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(
            f"expected at least one trial and successes in 0..trials, got {successes} of {trials}"
        )
