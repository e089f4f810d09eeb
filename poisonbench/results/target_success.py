"""Difference of attack success under two defenses, with the target as the unit. No torch here.

All attacks on one target share its victims' seeds and how easily it is mistaken, and count as one:
a target's value is the share of attacks that hit it under the first defense minus the share under
the second, in [-1, 1]. Such values can be skewed at equal rates (one attack that often hits alone,
against all that seldom hit but then together), so that neither signs nor Student's t hold 5 %.

The test of the mean is Gaffke's (Three test statistics for a nonparametric one-sided hypothesis on
the mean of a nonnegative variable, 2005): the targets and one more, with the worst value there can
be, get random weights that are uniform over all that sum to 1; the p-value is the probability that
the weighted mean is on the other side. With one attack it is McNemar's exact test. That it holds
its level is proved for two values, and conjectured for all (Learned-Miller and Thomas,
arXiv:1905.06208); ``benchmarks/level_search.py`` looks for a counterexample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from poisonbench.results.statistics import SIGNIFICANCE, Verdict
from poisonbench.results.verdicts import ClaimRule, Rule, halve

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

#: Tables from which the power is simulated where it has no closed form: its standard error is
#: under 0.6 %.
_SIMULATED_TABLES = 5000


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

        def end(side: int) -> float:
            def is_out(value: float) -> bool:
                return self._tail(side, value) < SIGNIFICANCE / 2

            return halve(-side, self.effect, is_out, 24)[0]

        return end(1), end(-1)

    def p_above(self, value: float) -> float:
        """One-sided p-value that the true difference is over a value."""
        return self._tail(1, value)

    def p_below(self, value: float) -> float:
        """One-sided p-value that the true difference is under a value."""
        return self._tail(-1, value)

    def chances(self, rule: Rule, effect: float) -> Mapping[Verdict, float]:
        """Probability of each word for a true difference.

        The second rate is the observed one, moved where it leaves no room for the difference; hits
        under the two defenses are independent. Exact where all attacks on a target go alike, else
        of simulated tables with a fixed seed.

        Raises:
            ValueError: a rule that is not for claims.
        """
        import numpy as np
        from scipy import stats

        if not isinstance(rule, ClaimRule):
            raise ValueError(f"expected a ClaimRule for success by target, got {rule}")
        second = min(max(self.second_rate, -effect, 0.0), 1.0, 1.0 - effect)
        first = second + effect
        lost, won = (1 - first) * second, first * (1 - second)
        one = np.clip([lost, 1 - lost - won, won], 0, 1)
        targets, attacks = len(self.sums), self.attacks
        if attacks == 1 or self.dependence == 1:
            counts, words = _alike(targets, rule)
            weights = stats.multinomial.pmf(counts, targets, one)
        else:
            apart = np.array([1.0])
            for _ in range(attacks):
                apart = np.convolve(apart, one)
            sums = (1 - self.dependence) * apart
            sums[::attacks] += self.dependence * one
            # The same draws for each effect, so that the power grows with it.
            draws = stats.uniform.rvs(size=(_SIMULATED_TABLES, targets), random_state=0)
            steps = np.searchsorted(sums.cumsum()[:-1], draws)
            words, weights = _words(steps / attacks - 1, rule), np.full(len(draws), 1 / len(draws))
        return {word: float(weights @ is_word) for word, is_word in words.items()}

    def _tail(self, side: int, value: float) -> float:
        rates = [[side * hits / self.attacks for hits in self.sums]]
        return float(mean_p_values(rates, side * value)[0])


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


def mean_p_values(values: ArrayLike, null: float) -> NDArray[Any]:
    """Gaffke's one-sided p-values that means are over a value, of samples from [-1, 1].

    Uniform weights that sum to 1 are independent exponentials over their sum. So the weighted mean
    is at most ``null`` where the values over it, each times an exponential, add up to no more than
    those under it: where the sum of the first ends first. Exponentials forget, so that of two that
    run the first ends first with a probability that their means alone decide.

    Args:
        values: (samples, values).
        null: what the means are held against.

    Returns:
        (samples,).
    """
    import numpy as np

    distances = np.sort(np.asarray(values, dtype=float) - null, axis=1)
    size = len(distances)
    gains = distances[:, (distances <= 0).all(0).sum() :].clip(min=0).T
    losses = -distances[:, : (distances < 0).any(0).sum()].clip(max=0).T
    losses = np.concatenate([np.full((1, size), 1 + null), losses])
    # By how many losses have ended, that the gains still running end before the others.
    chance = [np.ones(size) for _ in losses]
    for gain in gains:
        after = np.zeros(size)
        for index in reversed(range(len(losses))):
            loss = losses[index]
            first = np.divide(loss, gain + loss, out=np.ones(size), where=gain > 0)
            after = first * chance[index] + (1 - first) * after
            chance[index] = after
    return chance[0]


def _words(rates: NDArray[Any], rule: ClaimRule) -> dict[Verdict, NDArray[Any]]:
    """Which tables get a word, of each target's difference, (tables, targets)."""
    is_found = mean_p_values(rates, rule.null) < SIGNIFICANCE
    # A mean of exactly the least counts, whatever its last bit.
    reproduced = is_found & (rates.mean(1) >= rule.least - 1e-12)
    refuted = (mean_p_values(-rates, -rule.least) < SIGNIFICANCE) & ~reproduced
    inconclusive = ~(reproduced | refuted)
    return {
        Verdict.REPRODUCED: reproduced,
        Verdict.REFUTED: refuted,
        Verdict.INCONCLUSIVE: inconclusive,
    }


@lru_cache(maxsize=64)
def _alike(targets: int, rule: ClaimRule) -> tuple[NDArray[Any], dict[Verdict, NDArray[Any]]]:
    """How many targets are lost, equal and won, (tables, 3), and which such tables get a word."""
    import numpy as np

    counts = np.array(
        [(a, targets - a - b, b) for a in range(targets + 1) for b in range(targets + 1 - a)]
    )
    rates = np.array([np.repeat((-1.0, 0.0, 1.0), row) for row in counts])
    return counts, _words(rates, rule)
