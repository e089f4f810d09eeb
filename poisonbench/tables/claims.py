"""The paper's claims as tests over paired trials. No torch here.

All defenses of a trial share initial weights, batches and poison, so their difference within a
trial is the defense's alone. "Beats" is a one-sided paired t-test against each other defense, and
the largest p-value counts: the claim says all of them, so it needs no correction for their number
(an intersection-union test). "At least as good" is the same with a margin (non-inferiority); "falls
as" and "grows with" are Page's test of a trend over ordered levels, a trial a block. A claim is
reproduced when its test finds it at the 5 % level. It is not reproduced when the test does not with
as many trials as the table wants, or finds the opposite (of one of several comparisons, with
Bonferroni's correction); with fewer there are not enough trials, and fewer than three are not
tested. Where trials are noisy a true claim may be missed. Claims on
attack success are one-sided Fisher's exact tests of counts; where these are so few that even the
paper's own rates would not pass, there are not enough trials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean
from typing import Any, Literal

from poisonbench.results.records import RunRecord
from poisonbench.results.statistics import (
    CLAIM_TRIALS,
    SIGNIFICANCE,
    Verdict,
    fisher,
    paired_over,
    rising_trend,
)
from poisonbench.tables.cells import Cell, paired
from poisonbench.tables.comparisons import Finding, Unit


@dataclass(frozen=True)
class Measure:
    """What a claim is about.

    Attributes:
        unit: of the values.
        of: a run's value.
        better: 1 where more is better, -1 where less is.
    """

    unit: Unit
    of: Callable[[RunRecord], float]
    better: int


ACCURACY = Measure("fraction", lambda record: record.metrics.test_accuracy, 1)
SECONDS = Measure("seconds", lambda record: record.cost.seconds.total, -1)


@dataclass(frozen=True, kw_only=True)
class Superiority:
    """One cell is better than each of others, or not worse by as much as a margin.

    Attributes:
        claim: in words.
        first: the cell that is said to be better.
        others: those that it is compared with.
        keys: what the claim is about.
        measure: what is compared.
        margin: how much worse still passes, in the measure's unit; 0 asks for better.
    """

    claim: str
    first: Cell
    others: tuple[Cell, ...]
    keys: Mapping[str, Any] = field(default_factory=dict)
    measure: Measure = ACCURACY
    margin: float = 0.0

    def judge(self, records: Sequence[RunRecord]) -> Finding:
        """Test the claim; its effect is the smallest mean difference, its p-value the largest."""
        better = self.measure.better
        own = self.first.select(records)
        pairs = [paired([own, other.select(records)]) for other in self.others]
        gains = [[better * (self.measure.of(a) - self.measure.of(b)) for a, b in p] for p in pairs]
        trials = min(map(len, gains))
        p_value = None
        if trials >= CLAIM_TRIALS:
            p_value = _largest(paired_over(differences, -self.margin) for differences in gains)
        test = "one-sided paired t-test"
        test += f", margin {self.margin:g}" if self.margin else ""
        return Finding(
            keys=self.keys,
            claim=self.claim,
            test=test + (f", the largest of {len(pairs)}" if len(pairs) > 1 else ""),
            verdict=_verdict(p_value, trials >= self.first.trials or self._is_refuted(gains)),
            p_value=p_value,
            trials=trials,
            difference=better * min(map(fmean, gains)) if trials else None,
            bears_out=self._bears_out(),
            records=_ids(pair for p in pairs for pair in p),
            unit=self.measure.unit,
        )

    def _is_refuted(self, gains: Sequence[Sequence[float]]) -> bool:
        """Whether the first is found worse than one of the others, by more than the margin."""
        losses = [[-gain for gain in differences] for differences in gains]
        return _any_found([paired_over(differences, self.margin) for differences in losses])

    def _bears_out(self) -> bool | None:
        printed = [cell.published for cell in (self.first, *self.others)]
        means = [self.measure.better * figure.mean for figure in printed if figure]
        if len(means) < len(printed):
            return None
        return all(means[0] + self.margin > mean for mean in means[1:])


@dataclass(frozen=True, kw_only=True)
class Trend:
    """Values rise or fall along ordered cells.

    Attributes:
        claim: in words.
        levels: the cells in order.
        direction: 1 where values rise, -1 where they fall.
        keys: what the claim is about.
        measure: what rises or falls.
        same_poison: whether the levels train on one poison; false for poison ratios.
    """

    claim: str
    levels: tuple[Cell, ...]
    direction: int
    keys: Mapping[str, Any] = field(default_factory=dict)
    measure: Measure = ACCURACY
    same_poison: bool = True

    def judge(self, records: Sequence[RunRecord]) -> Finding:
        """Test the claim; its effect is the last level's mean minus the first's."""
        groups = [cell.select(records) for cell in self.levels]
        complete = paired(groups, same_poison=self.same_poison)
        blocks = [[self.measure.of(record) for record in runs] for runs in complete]
        p_value, is_settled = None, False
        if len(blocks) >= CLAIM_TRIALS:
            p_value, opposite = (
                rising_trend([[sign * value for value in block] for block in blocks])
                for sign in (self.direction, -self.direction)
            )
            is_settled = len(blocks) >= self.levels[0].trials or (
                opposite is not None and opposite < SIGNIFICANCE
            )
        printed = [cell.published.mean for cell in self.levels if cell.published]
        is_printed = len(printed) == len(self.levels)
        return Finding(
            keys=self.keys,
            claim=self.claim,
            test="Page's trend test",
            verdict=_verdict(p_value, is_settled),
            p_value=p_value,
            trials=len(blocks),
            difference=fmean(block[-1] - block[0] for block in blocks) if blocks else None,
            bears_out=all(self.direction * (b - a) > 0 for a, b in pairwise(printed))
            if is_printed
            else None,
            records=_ids(complete),
            unit=self.measure.unit,
        )


#: (hits, trials) under one defense and under another.
Counts = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class SuccessOrder:
    """Attacks hit fewer targets, or more, under one defense than under each of others.

    Attributes:
        claim: in words.
        first: one defense's cells, one an attack, whose trials are counted together.
        others: other defenses' cells, in the same order of attacks.
        direction: -1 where the first is said to be hit less, 1 where more.
        keys: what the claim is about.
    """

    claim: str
    first: tuple[Cell, ...]
    others: tuple[tuple[Cell, ...], ...]
    direction: int = -1
    keys: Mapping[str, Any] = field(default_factory=dict)

    def judge(self, records: Sequence[RunRecord]) -> Finding:
        """Test the claim; its effect is the smallest difference of rates, its p-value the largest.

        Only trials that both defenses of a comparison have are counted.
        """
        pairs = [
            [
                pair
                for own, other in zip(self.first, cells, strict=True)
                for pair in paired([own.select(records), other.select(records)])
            ]
            for cells in self.others
        ]
        counts = [(_hits(first), _hits(second)) for first, second in (_columns(p) for p in pairs)]
        trials = min(len(p) for p in pairs)
        bears_out = self._bears_out()
        p_value = max(self._p_values(counts, self.direction)) if trials >= CLAIM_TRIALS else None
        is_settled = p_value is not None and (
            self._can_tell([len(p) for p in pairs])
            or _any_found(self._p_values(counts, -self.direction))
        )
        gaps = [(a[0] / a[1] - b[0] / b[1]) * self.direction for a, b in counts if a[1]]
        return Finding(
            keys=self.keys,
            claim=self.claim,
            test="one-sided Fisher's exact test"
            + (f", the largest of {len(pairs)}" if len(pairs) > 1 else ""),
            verdict=_verdict(p_value, is_settled),
            p_value=p_value,
            trials=trials,
            difference=self.direction * min(gaps) if trials else None,
            bears_out=bears_out,
            records=_ids(pair for p in pairs for pair in p),
        )

    def _p_values(self, counts: Sequence[Counts], direction: int) -> list[float]:
        side: Literal["less", "greater"] = "less" if direction < 0 else "greater"
        return [fisher(first, second, side) for first, second in counts]

    def _can_tell(self, trials: Sequence[int]) -> bool:
        """Whether so many trials would pass at the paper's own rates, or at 0 % against 100 %."""
        printed = self._printed() if self._bears_out() else None
        extreme = float(self.direction > 0)
        own, others = printed or (extreme, [1 - extreme] * len(trials))
        counts = [
            ((round(own * n), n), (round(rate * n), n))
            for rate, n in zip(others, trials, strict=True)
        ]
        return max(self._p_values(counts, self.direction)) < SIGNIFICANCE

    def _bears_out(self) -> bool | None:
        printed = self._printed()
        if printed is None:
            return None
        own, others = printed
        return all(self.direction * (own - rate) > 0 for rate in others)

    def _printed(self) -> tuple[float, list[float]] | None:
        """The published rates over all attacks; null where one is not published."""
        rates = []
        for cells in (self.first, *self.others):
            printed = [cell.published_success for cell in cells if cell.published_success]
            if len(printed) < len(cells):
                return None
            hits, trials = (sum(p.successes for p in printed), sum(p.trials for p in printed))
            rates.append(hits / trials)
        return rates[0], rates[1:]


Claim = Superiority | Trend | SuccessOrder


def _largest(p_values: Iterable[float | None]) -> float:
    return max(p for p in p_values if p is not None)


def _any_found(p_values: Sequence[float | None]) -> bool:
    """Whether one of several tests finds something, with Bonferroni's correction."""
    return any(p is not None and p < SIGNIFICANCE / len(p_values) for p in p_values)


def _verdict(p_value: float | None, is_settled: bool) -> Verdict:
    """The verdict; ``is_settled``: whether a test that does not find the claim tells against it."""
    if p_value is not None and p_value < SIGNIFICANCE:
        return Verdict.REPRODUCED
    return Verdict.NOT_REPRODUCED if p_value is not None and is_settled else Verdict.TOO_FEW


def _columns(pairs: Sequence[Sequence[RunRecord]]) -> tuple[list[RunRecord], list[RunRecord]]:
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _hits(records: Sequence[RunRecord]) -> tuple[int, int]:
    return sum(bool(record.metrics.attack_success) for record in records), len(records)


def _ids(sets: Iterable[Sequence[RunRecord]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(record.id for runs in sets for record in runs))
