"""Means, shares and their intervals, and the words of verdicts.

scipy is imported where it is used, so that the command line starts fast.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean, stdev

#: The level of every test.
SIGNIFICANCE = 0.05


class Verdict(StrEnum):
    """What a cell or a claim comes to; ``docs/verdicts.md`` explains the words of tests."""

    DIFFERS = "differs"
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"
    REPRODUCED = "reproduced"
    REFUTED = "refuted"
    #: Refuted by a gain that is certain, and smaller than what counts.
    TOO_SMALL = "too small"
    #: Before the planned number of runs.
    NOT_RUN = "not run"
    INCOMPLETE = "incomplete"
    #: Of what is compared without a test: a setting, or a figure that no test fits.
    EQUAL = "equal"
    UNPUBLISHED = "not published"
    NOT_TESTED = "not tested"


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
        if self.trials < 1 or not 0 <= self.successes <= self.trials:
            raise ValueError(
                "expected at least one trial and successes in 0..trials, got "
                f"{self.successes} of {self.trials}"
            )

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
    """Student's t interval of the mean, of 95 %, not clipped; null for fewer than two values."""
    if summary.std is None or summary.n < 2:
        return None
    from scipy import stats

    half = float(stats.t.ppf(0.975, summary.n - 1)) * (summary.std / math.sqrt(summary.n))
    return summary.mean - half, summary.mean + half


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion, of 95 %; a ValueError for impossible counts."""
    share = Proportion(successes, trials)
    from scipy import stats

    interval = stats.binomtest(share.successes, share.trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def paired_shares(first: Sequence[bool], second: Sequence[bool]) -> tuple[float, float]:
    """Agresti and Min's interval, of 95 %, of the difference of two shares of the same items.

    It is Wald's with half an item more in each cell of the table of agreement (Statistics in
    Medicine 24, 2005).

    Args:
        first: which items are in the first share.
        second: in the same order which are in the second.

    Raises:
        ValueError: none, or different numbers of items.
    """
    if not first or len(first) != len(second):
        raise ValueError(f"expected as many items twice, got {len(first)} and {len(second)}")
    from scipy import stats

    items = len(first) + 2
    gained, lost = (
        0.5 + sum(a and not b for a, b in zip(one, other, strict=True))
        for one, other in ((first, second), (second, first))
    )
    difference = (gained - lost) / items
    error = math.sqrt((gained + lost) / items - difference**2) / math.sqrt(items)
    half = float(stats.norm.ppf(0.975)) * error
    return max(-1.0, difference - half), min(1.0, difference + half)
