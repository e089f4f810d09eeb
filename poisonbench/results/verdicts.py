"""What evidence says of a published value, or of a claim: the rules behind a verdict's word.

Evidence is a difference with its uncertainty: of means and accuracies (``estimates``, ``crossed``),
of two shares (``proportions``) or of attack success by target (``target_success``). A rule says
which word it gets and what must hold for it; ``docs/verdicts.md`` explains the words.

Every test is at 5 %: two-sided for "differs", two one-sided ones for "equivalent" (Schuirmann
1987), one-sided for a claim, which has a direction. A claim of several comparisons holds when each
of them does (an intersection-union test, Berger 1982: no correction); it is refuted when one of
them is, so that the level is divided by their number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from poisonbench.results.statistics import SIGNIFICANCE, Verdict

#: The smallest difference of accuracies that counts, unless a claim says otherwise.
LEAST_ACCURACY = 0.001

#: The smallest difference of success rates that counts, unless a claim says otherwise.
LEAST_SUCCESS = 0.1

#: The power that decides how many trials are enough.
POWER = 0.8


class Evidence(Protocol):
    """A difference of which a rule can ask what it must know."""

    @property
    def effect(self) -> float:
        """The difference that was observed."""

    @property
    def farthest(self) -> float:
        """The largest true difference there can be, with its sign; infinite where there is none."""

    def interval(self) -> tuple[float, float]:
        """The two-sided 95 % interval of the true difference."""

    def p_above(self, value: float) -> float:
        """One-sided p-value that the true difference is over a value, against at most that."""

    def p_below(self, value: float) -> float:
        """One-sided p-value that the true difference is under a value, against at least that."""

    def chances(self, rule: Rule, effect: float) -> Mapping[Verdict, float]:
        """Probability of each word of a rule for a true difference, with as many trials as here."""


@dataclass(frozen=True)
class EquivalenceRule:
    """How a measured value is held against a published one.

    It is equivalent where a difference of ``delta`` is excluded on both sides, and else differs
    where no difference at all is. Equivalence goes first: a difference that is certain but smaller
    than what counts is of no interest, and effect and interval still show it.

    Attributes:
        delta: the smallest difference that counts, over 0.
    """

    delta: float

    @property
    def counts(self) -> float:
        """The smallest difference that counts."""
        return self.delta

    @property
    def finding(self) -> tuple[Verdict, float]:
        """The word whose power is reported, and a difference that it is not for."""
        return Verdict.DIFFERS, 0.0

    def p_value(self, evidence: Evidence) -> float:
        """Two-sided, of no difference."""
        return min(1.0, 2 * min(evidence.p_above(0.0), evidence.p_below(0.0)))

    #: Of a difference, which speaks against the published value.
    p_against = p_value

    def verdict(self, evidence: Evidence) -> Verdict:
        """Differs, equivalent or inconclusive."""
        if max(evidence.p_above(-self.delta), evidence.p_below(self.delta)) < SIGNIFICANCE:
            return Verdict.EQUIVALENT
        is_different = self.p_value(evidence) < SIGNIFICANCE
        return Verdict.DIFFERS if is_different else Verdict.INCONCLUSIVE


@dataclass(frozen=True)
class ClaimRule:
    """How a claim that a difference is over a value is judged.

    It is reproduced where the difference is over ``null`` and, as observed, ``least`` or more; it
    is refuted where a difference of ``least`` is excluded. "Better" has null 0 and the smallest
    effect that counts as least; "at least as good" has minus a margin as both.

    Attributes:
        null: what the difference must be over.
        least: the smallest difference that bears the claim out, at least ``null``.
    """

    null: float = 0.0
    least: float = LEAST_ACCURACY

    def __post_init__(self) -> None:
        if self.least < self.null:
            raise ValueError(f"expected least at or over null, got {self.least} and {self.null}")

    @property
    def counts(self) -> float:
        """The smallest difference that counts; of "at least as good", the margin."""
        return abs(self.least)

    @property
    def finding(self) -> tuple[Verdict, float]:
        """The word whose power is reported, and a difference that is found in half of cases."""
        return Verdict.REPRODUCED, self.least

    def p_value(self, evidence: Evidence) -> float:
        """One-sided, of a difference that is not over ``null``."""
        return evidence.p_above(self.null)

    def p_against(self, evidence: Evidence) -> float:
        """One-sided, of a difference that is not under ``least``."""
        return evidence.p_below(self.least)

    def verdict(self, evidence: Evidence, comparisons: int = 1) -> Verdict:
        """Reproduced, refuted or inconclusive, of one of the claim's comparisons."""
        if evidence.effect >= self.least and self.p_value(evidence) < SIGNIFICANCE:
            return Verdict.REPRODUCED
        is_refuted = self.p_against(evidence) < SIGNIFICANCE / comparisons
        return Verdict.REFUTED if is_refuted else Verdict.INCONCLUSIVE


Rule = EquivalenceRule | ClaimRule


@dataclass(frozen=True)
class Basis:
    """What a verdict rests on: targets, attacks on each, draws of the poison, seeds, test images.

    Null where there are none, and of the images where they are not counted as a sample.
    """

    targets: int | None = None
    attacks: int | None = None
    poisons: int | None = None
    seeds: int | None = None
    images: int | None = None


@dataclass(frozen=True)
class Judgement:
    """A verdict with what it says and rests on; the word alone where nothing was tested.

    Attributes:
        effect: the difference; of several comparisons the one that bears a claim out least, or
            that refutes it most clearly.
        interval: its two-sided 95 % interval.
        p_value: two-sided beside a published value, one-sided for a claim, of that comparison.
        p_against: of what speaks against the paper: the same beside a published value, of a
            refutation for a claim, corrected for its comparisons.
        detectable: the true difference that as many trials find with a power of 0.8, or more where
            there are several comparisons; null where they can find none.
        is_complete: whether it is of as many trials as planned.
        least: the smallest difference that counts; of "at least as good", the margin.
    """

    verdict: Verdict
    effect: float | None = None
    interval: tuple[float, float] | None = None
    p_value: float | None = None
    p_against: float | None = None
    detectable: float | None = None
    basis: Basis = Basis()
    is_complete: bool = False
    least: float | None = None

    @property
    def p_of_word(self) -> float | None:
        """The p-value of the test that the verdict is of."""
        is_against = self.verdict in (Verdict.REFUTED, Verdict.TOO_SMALL)
        return self.p_against if is_against else self.p_value


def judge(
    comparisons: Sequence[tuple[Evidence | None, Rule]], basis: Basis, *, is_complete: bool = True
) -> Judgement:
    """Hold a value against a published one, or judge a claim, all comparisons of which must hold.

    "Falls as rho grows" is the differences of adjacent levels; "best of all" is those from each
    other method.

    Args:
        comparisons: the differences, measured minus published, or positive where they bear the
            claim out, each with its rule; null where there are too few trials.
        basis: what it rests on.
        is_complete: whether there are as many trials as planned; a look before that is no verdict.
    """
    known = [(evidence, rule) for evidence, rule in comparisons if evidence is not None]
    counts = comparisons[0][1].counts
    if not known and basis.seeds is None:
        return Judgement(Verdict.NOT_RUN, basis=basis, least=counts)
    if len(known) < len(comparisons):
        # Of what is there one comparison would be shown beside the trials of another.
        word = Verdict.INCONCLUSIVE if is_complete and not known else Verdict.INCOMPLETE
        return Judgement(word, basis=basis, least=counts)
    word = joint_word(known) if is_complete else Verdict.INCOMPLETE
    shown, rule = max(known, key=lambda one: (one[1].p_value(one[0]), -one[0].effect))
    if word in (Verdict.REFUTED, Verdict.TOO_SMALL):
        shown, rule = _refuting(known)
    # All are found with a power of 0.8 where each is missed in at most its part of the rest.
    power = 1 - (1 - POWER) / len(known)
    least = [detectable(evidence, rule, power) for evidence, rule in known]
    reachable = [difference for difference in least if difference is not None]
    return Judgement(
        verdict=word,
        effect=shown.effect,
        interval=shown.interval(),
        p_value=rule.p_value(shown),
        p_against=min(1.0, len(known) * min(rule.p_against(one) for one, rule in known)),
        detectable=max(reachable, key=abs) if len(reachable) == len(least) else None,
        basis=basis,
        is_complete=is_complete,
        least=counts,
    )


def joint_word(comparisons: Sequence[tuple[Evidence, Rule]]) -> Verdict:
    """The word of comparisons that must all hold; of a single one its own, "too small" included."""
    words = [
        rule.verdict(evidence)
        if isinstance(rule, EquivalenceRule)
        else rule.verdict(evidence, len(comparisons))
        for evidence, rule in comparisons
    ]
    if Verdict.REFUTED in words:
        shown, _ = _refuting(comparisons)
        is_gain = shown.p_above(0.0) < SIGNIFICANCE
        return Verdict.TOO_SMALL if is_gain else Verdict.REFUTED
    return words[0] if len(set(words)) == 1 else Verdict.INCONCLUSIVE


def _refuting(comparisons: Sequence[tuple[Evidence, Rule]]) -> tuple[Evidence, Rule]:
    """The comparison that speaks most clearly against a claim."""
    return min(comparisons, key=lambda one: one[1].p_against(one[0]))


def detectable(evidence: Evidence, rule: Rule, power: float = POWER) -> float | None:
    """Find the smallest true difference that as many trials would find.

    Spread and, of shares, the published one are taken to be as observed.

    Returns:
        The difference, with the sign of :attr:`Evidence.farthest`; null where even the farthest is
        found less often than the power asks for.
    """
    word, low = rule.finding

    def is_found(effect: float) -> bool:
        return evidence.chances(rule, effect)[word] >= power

    high = evidence.farthest
    if math.isinf(high):
        ends = evidence.interval()
        step = ends[1] - ends[0]
        while not is_found(low + step):
            step *= 2
        high = low + step
    elif not is_found(high):
        return None
    return halve(low, high, lambda effect: not is_found(effect), 30)[1]


def halve(
    outside: float, inside: float, is_out: Callable[[float], bool], steps: int
) -> tuple[float, float]:
    """Bring two values, one on each side of an edge, nearer to it, by halving."""
    for _ in range(steps):
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if is_out(middle) else (outside, middle)
    return outside, inside


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979) of a family of tests, in any dependence.

    Were those under 5 % taken for findings, the family would have a false one in 5 % at most.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
