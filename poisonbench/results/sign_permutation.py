"""Difference of attack success under two defenses, with the target as the unit. No torch here.

All attacks on one target share its victims' seeds and how easily it is mistaken, and count as one.
Were the defenses alike, they could change places on any target: each target's hits under the first
minus those under the second would have either sign equally often. The test is Fisher's permutation
test: the share of all assignments of signs whose sum is as large as the observed one, or larger.
Sums are whole numbers, so that their distribution is exact for any number of targets. With one
attack it is McNemar's exact test, and equal rates are all that it takes.

With several attacks equal rates are not enough: an attack that seldom hits but then with all others
against one that often hits alone gives sums that are skewed, mostly +1 and now and then -4. So a
one-sided test of the mean, Student's t with four targets in favour of each defense added, must
agree: the p-value is the larger of the two.

Where the true difference is not 0 signs tell nothing, and Student's t over the targets'
differences takes its place. Few targets that agree would have no spread: their variance has one
target in favour of each defense added to it (as Bonett and Price do for McNemar's table,
Statistics in Medicine 31, 2012), and is at least what a true difference of that size must have.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from poisonbench.results.statistics import SIGNIFICANCE, Verdict
from poisonbench.results.verdicts import Rule, halve

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Targets in favour of each defense that are added to the variance: of an interval, and of the test
#: of no difference under several attacks. The fewest that keep the skewed sums of
#: ``benchmarks/verdicts.py`` near 5 %; with one, 11 % of them pass.
_ADDED, _ADDED_AT_ZERO = 1, 4

#: Simulated tables where the power has no closed form: its standard error is under 0.7 %.
_TABLES = 5000


@dataclass(frozen=True)
class TargetDifference:
    """Difference of success rates over targets.

    Attributes:
        sums: for each target, hits under the first defense minus hits under the second.
        attacks: on each target; at least one.
        dependence: the share of targets on which all attacks are taken to go alike, the rest going
            independently; for :meth:`chances` alone. At 1, the most cautious, several attacks find
            no more than one.
    """

    sums: tuple[int, ...]
    attacks: int
    second_rate: float
    dependence: float = 1.0

    @property
    def effect(self) -> float:
        """Mean over targets of the difference of success rates."""
        return sum(self.sums) / (self.attacks * len(self.sums))

    @property
    def farthest(self) -> float:
        """All hit under the first and none under the second."""
        return 1.0

    @property
    def observed_dependence(self) -> float:
        """The dependence that the targets' differences show, in [0, 1]; 1 where they show none.

        Attacks that go alike on a share of the targets make the variance of a target's sum
        1 + (attacks - 1) * share times what it is of independent ones.
        """
        if self.attacks == 1 or len(self.sums) < 2:
            return 1.0
        mean = sum(self.sums) / len(self.sums)
        variance = sum((d - mean) ** 2 for d in self.sums) / (len(self.sums) - 1)
        first = self.second_rate + self.effect
        one = first * (1 - first) + self.second_rate * (1 - self.second_rate)
        if one <= 0:
            return 1.0
        share = (variance / (self.attacks * one) - 1) / (self.attacks - 1)
        return min(1.0, max(0.0, share))

    def interval(self) -> tuple[float, float]:
        """The 95 % interval: what neither side's test at 2.5 % rejects, within [-1, 1]."""
        return self._end(1), self._end(-1)

    def p_above(self, value: float) -> float:
        """One-sided p-value that the true difference is over a value."""
        return self._at_zero(1) if value == 0 else self._tail(1, value)

    def p_below(self, value: float) -> float:
        """One-sided p-value that the true difference is under a value."""
        return self._at_zero(-1) if value == 0 else self._tail(-1, value)

    def chances(self, rule: Rule, effect: float) -> Mapping[Verdict, float]:
        """Probability of each word for a true difference.

        The second rate is the observed one, moved where it leaves no room for the difference; hits
        under the two defenses are independent. Exact where all attacks on a target go alike, else
        of simulated tables with a fixed seed.
        """
        words: dict[Verdict, float] = defaultdict(float)
        for counts, probability in self._tables(effect):
            words[_word(counts, self.attacks, rule)] += probability
        return words

    def _at_zero(self, sign: int) -> float:
        exact = self._permuted(sign)
        if self.attacks == 1:
            return exact
        return max(exact, self._tail(sign, 0.0, _ADDED_AT_ZERO))

    def _permuted(self, sign: int) -> float:
        magnitudes = Counter(map(abs, self.sums))
        upper = _upper_tails(tuple(sorted(magnitudes.items())))
        return float(upper[sign * sum(self.sums) + len(upper) // 2])

    def _tail(self, sign: int, value: float, added: int = _ADDED) -> float:
        from scipy.special import stdtr

        variance, flip = self._variance(added), self._flip
        least = flip * abs(value) - value**2
        error = math.sqrt(max(variance, least) / len(self.sums))
        return float(stdtr(max(1, len(self.sums) - 1), -sign * (self.effect - value) / error))

    def _end(self, sign: int) -> float:
        """The interval's lower end (sign 1) or upper (-1)."""

        def is_out(value: float) -> bool:
            return self._tail(sign, value) < SIGNIFICANCE / 2

        outside = -float(sign)
        return halve(outside, self.effect, is_out, 40)[0] if is_out(outside) else outside

    def _variance(self, added: int) -> float:
        """Of a target's difference, with so many targets in favour of each defense added."""
        square, _, total = self._moments
        targets = len(self.sums) + 2 * added
        return (square + 2 * added) / targets - (total / targets) ** 2

    @property
    def _flip(self) -> float:
        """Mean square of a target's difference over its mean magnitude."""
        square, magnitude, _ = self._moments
        return square / magnitude if magnitude else 1.0

    @cached_property
    def _moments(self) -> tuple[float, float, float]:
        """Sums over targets of the difference's square, its magnitude and itself."""
        rates = [d / self.attacks for d in self.sums]
        return math.fsum(r * r for r in rates), math.fsum(map(abs, rates)), math.fsum(rates)

    def _tables(self, effect: float) -> Iterable[tuple[tuple[int, ...], float]]:
        """How many targets have each sum, from all lost to all won, and how probable that is."""
        import numpy as np
        from scipy import stats

        second = min(max(self.second_rate, -effect, 0.0), 1.0, 1.0 - effect)
        first = second + effect
        lost, won = (1 - first) * second, first * (1 - second)
        one = np.clip([lost, 1 - lost - won, won], 0, 1)
        targets, attacks = len(self.sums), self.attacks
        if attacks == 1 or self.dependence == 1:
            rows = [
                (a, targets - a - b, b) for a in range(targets + 1) for b in range(targets + 1 - a)
            ]
            gap = (0,) * (attacks - 1)
            counts = [(a, *gap, even, *gap, b) for a, even, b in rows]
            return zip(counts, stats.multinomial.pmf(rows, targets, one).tolist(), strict=True)
        apart = np.array([1.0])
        for _ in range(attacks):
            apart = np.convolve(apart, one)
        chance = (1 - self.dependence) * apart
        chance[::attacks] += self.dependence * one
        drawn = stats.multinomial.rvs(targets, chance / chance.sum(), _TABLES, random_state=0)
        tables = Counter(map(tuple, drawn.tolist()))
        return ((counts, number / _TABLES) for counts, number in tables.items())


def target_difference(
    first: Sequence[Sequence[bool]], second: Sequence[Sequence[bool]], dependence: float = 1.0
) -> TargetDifference | None:
    """Difference of success rates from the hits of the same attacks on the same targets.

    Args:
        first: hits under the first defense: a row a target, a column an attack.
        second: under the second, in the same order.
        dependence: see :class:`TargetDifference`.

    Returns:
        First minus second; null for fewer than two targets.

    Raises:
        ValueError: rows that are not of one length, or not of the same.
    """
    lengths = {len(row) for row in (*first, *second)}
    if len(first) != len(second) or len(lengths) > 1 or 0 in lengths:
        raise ValueError(
            "expected the same attacks on the same targets under both defenses, got "
            f"{len(first)} and {len(second)} targets with {sorted(lengths)} attacks"
        )
    if len(first) < 2:
        return None
    sums = tuple(sum(ours) - sum(theirs) for ours, theirs in zip(first, second, strict=True))
    attacks = lengths.pop()
    return TargetDifference(
        sums, attacks, sum(map(sum, second)) / (attacks * len(sums)), dependence
    )


@lru_cache(maxsize=100_000)
def _word(counts: tuple[int, ...], attacks: int, rule: Rule) -> Verdict:
    """The word of a table that has so many targets with each sum."""
    values = range(-attacks, attacks + 1)
    sums = tuple(d for d, count in zip(values, counts, strict=True) for _ in range(count))
    return rule.verdict(TargetDifference(sums, attacks, 0.0))


@lru_cache(maxsize=4096)
def _upper_tails(magnitudes: tuple[tuple[int, int], ...]) -> NDArray[Any]:
    """P(sum with random signs is s or more), for s from -total to total; (size, count) pairs."""
    import numpy as np
    from scipy import stats

    chance = np.array([1.0])
    for size, count in magnitudes:
        spaced = np.zeros(2 * size * count + 1)
        spaced[:: max(1, 2 * size)] = (
            stats.binom.pmf(np.arange(count + 1), count, 0.5) if size else 1
        )
        chance = np.convolve(chance, spaced)
    return np.asarray(np.minimum(1.0, chance[::-1].cumsum()[::-1]))
