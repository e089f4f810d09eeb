"""Difference of two independent shares, by exact tests. No torch here.

The test of a difference d orders all tables of counts by Farrington and Manning's score statistic
(Statistics in Medicine 9, 1990) and takes the largest probability, over the share that is not
known, of a table at least as extreme (Chan, Statistics in Medicine 17, 1998). Its level holds for
any number of trials. At d = 0 it is Barnard's test, which finds more than Fisher's; the interval is
of all d that neither side's test at 2.5 % rejects (Chan and Zhang, Biometrics 55, 1999).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from poisonbench.results.statistics import SIGNIFICANCE, Proportion, Verdict
from poisonbench.results.verdicts import EquivalenceRule, Rule, halve

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Values of the unknown share that are looked at.
_GRID = 401


@dataclass(frozen=True)
class ShareDifference:
    """Difference of two shares of independent trials.

    Attributes:
        first: successes of ours.
        second: of the published one.
    """

    first: Proportion
    second: Proportion

    @property
    def effect(self) -> float:
        """First rate minus second."""
        return self.first.rate - self.second.rate

    @property
    def farthest(self) -> float:
        """The distance to the end that is farther from the second rate."""
        return 1 - self.second.rate if self.second.rate <= 0.5 else -self.second.rate

    def interval(self) -> tuple[float, float]:
        """Chan and Zhang's exact 95 % interval."""
        return self._end(-1.0, self.p_above), self._end(1.0, self.p_below)

    def p_above(self, value: float) -> float:
        """One-sided p-value that the true difference is over a value."""
        return _p_value(self.first, self.second, value)

    def p_below(self, value: float) -> float:
        """One-sided p-value that the true difference is under a value."""
        return _p_value(self.second, self.first, -value)

    def chances(self, rule: Rule, effect: float) -> Mapping[Verdict, float]:
        """Probability of each word where the second rate is the true one and the first is off it.

        Raises:
            ValueError: a rule for claims.
        """
        from scipy import stats

        if not isinstance(rule, EquivalenceRule):
            raise ValueError(f"expected a EquivalenceRule for two shares, got {rule}")
        n, m = self.first.trials, self.second.trials
        rate = min(1.0, max(0.0, self.second.rate + effect))
        ours = stats.binom.pmf(range(n + 1), n, rate)
        theirs = stats.binom.pmf(range(m + 1), m, self.second.rate)
        equivalent, differs = _words(n, m, rule.delta)
        words = {
            Verdict.DIFFERS: float(ours @ differs @ theirs),
            Verdict.EQUIVALENT: float(ours @ equivalent @ theirs),
        }
        return {**words, Verdict.INCONCLUSIVE: 1 - sum(words.values())}

    def _end(self, outside: float, p_value: Callable[[float], float]) -> float:
        """The value between the effect and one outside where a p-value passes 2.5 %."""
        if p_value(outside) >= SIGNIFICANCE / 2:
            return outside
        return halve(outside, self.effect, lambda value: p_value(value) < SIGNIFICANCE / 2, 24)[0]


@lru_cache(maxsize=64)
def _words(n: int, m: int, delta: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Which tables, (n + 1, m + 1) bool, are equivalent, and which differ."""
    import numpy as np

    over, under = _p_values(n, m, -delta), _p_values(m, n, -delta).T
    equivalent = np.maximum(over, under) < SIGNIFICANCE
    both = 2 * np.minimum(_p_values(n, m, 0.0), _p_values(m, n, 0.0).T)
    return equivalent, (both < SIGNIFICANCE) & ~equivalent


def _p_value(first: Proportion, second: Proportion, difference: float) -> float:
    """One-sided p-value that the first share is over the second by a difference."""
    n, m = first.trials, second.trials
    statistic = _score(n, m, difference)
    is_extreme = statistic >= statistic[first.successes, second.successes]
    ours, theirs = _probabilities(n, m, difference)
    return min(1.0, float(((ours @ is_extreme) * theirs).sum(1).max()))


def _p_values(n: int, m: int, difference: float) -> NDArray[Any]:
    """:func:`_p_value` of all tables, (n + 1, m + 1), by the successes of first and second."""
    import numpy as np

    statistic = _score(n, m, difference).ravel()
    order = np.argsort(-statistic, kind="stable")
    last_of_ties = np.searchsorted(-statistic[order], -statistic, side="right") - 1
    largest = np.zeros(len(order))
    for ours, theirs in zip(*_probabilities(n, m, difference), strict=True):
        np.maximum(largest, np.outer(ours, theirs).ravel()[order].cumsum(), out=largest)
    return np.asarray(np.minimum(largest, 1.0)[last_of_ties].reshape(n + 1, m + 1))


def _probabilities(n: int, m: int, difference: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Probabilities of the first and second successes, (grid, trials + 1), by unknown share."""
    import numpy as np
    from scipy import stats

    share = np.linspace(max(0.0, -difference), min(1.0, 1 - difference), _GRID)[:, None]
    first = stats.binom.pmf(np.arange(n + 1), n, np.clip(share + difference, 0, 1))
    return first, stats.binom.pmf(np.arange(m + 1), m, share)


def _score(n: int, m: int, difference: float) -> NDArray[Any]:
    """Farrington and Manning's statistic of all tables, (n + 1, m + 1).

    The shares of greatest likelihood that differ by ``difference`` solve a cubic equation, whose
    coefficients and root are those of their appendix.
    """
    import numpy as np

    x, y = np.arange(n + 1)[:, None] / n, np.arange(m + 1)[None, :] / m
    ratio = m / n
    a = 1 + ratio
    b = -(1 + ratio + x + ratio * y + difference * (ratio + 2))
    c = difference**2 + difference * (2 * x + ratio + 1) + x + ratio * y
    d = -x * difference * (1 + difference)
    v = (b / (3 * a)) ** 3 - b * c / (6 * a**2) + d / (2 * a)
    u = np.where(v < 0, -1.0, 1.0) * np.sqrt(np.maximum((b / (3 * a)) ** 2 - c / (3 * a), 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        angle = (np.pi + np.arccos(np.clip(np.nan_to_num(v / u**3), -1, 1))) / 3
    first = np.clip(2 * u * np.cos(angle) - b / (3 * a), max(0, difference), min(1, 1 + difference))
    second = np.clip(first - difference, 0, 1)
    error = np.sqrt(first * (1 - first) / n + second * (1 - second) / m)
    distance = x - y - difference
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(np.abs(distance) < 1e-12, 0.0, distance / error)
    # What rounding alone tells apart is a tie.
    return np.asarray(np.round(statistic, 9))
