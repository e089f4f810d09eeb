"""The paper's claims as comparisons of runs that differ in what is compared alone. No torch here.

All defenses of a trial share initial weights, batches and poison, so that their difference within
a trial is the defense's alone. ``docs/verdicts.md`` says how claims are judged.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import fmean
from typing import Any, Self

from poisonbench.results.estimates import paired_difference
from poisonbench.results.records import RunRecord
from poisonbench.results.target_success import TargetDifference, target_difference
from poisonbench.results.verdicts import (
    LEAST_ACCURACY,
    LEAST_SUCCESS,
    ClaimRule,
    Evidence,
    judge,
)
from poisonbench.tables.cells import Cell, paired
from poisonbench.tables.comparisons import Finding, Unit
from poisonbench.tables.evidence import (
    Sets,
    accuracy_gain,
    basis_of,
    distinct_targets,
    planned_sets,
    unpaired_gain,
)


@dataclass(frozen=True)
class Measure:
    """What a claim is about.

    Attributes:
        better: 1 where more is better, -1 where less is.
        least: the smallest difference that counts unless a claim declares another, in the unit.
        test: how differences are tested, in words; of "{sample}", poisons or seeds.
    """

    unit: Unit
    of: Callable[[RunRecord], float]
    better: int
    least: float
    test: str

    def gains(self, pairs: Sets) -> list[float]:
        """The lead of the first run of each pair."""
        return [self.better * (self.of(first) - self.of(second)) for first, second in pairs]


ACCURACY = Measure(
    "fraction",
    lambda record: record.metrics.test_accuracy,
    1,
    LEAST_ACCURACY,
    "one-sided t-test of the difference in accuracy over {sample} and test images",
)
SECONDS = Measure(
    "seconds",
    lambda record: record.cost.seconds.total,
    -1,
    1.0,
    "one-sided paired t-test of the seconds over trials",
)


@dataclass(frozen=True, kw_only=True)
class Claim(ABC):
    """One or several comparisons, each of which must hold.

    Attributes:
        claim: in words.
        trials: at how many it is judged; null for as many as its cells shall have.
        least: the smallest difference that counts; null for the usual one of what is compared.
    """

    claim: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    trials: int | None = None
    least: float | None = None

    @property
    @abstractmethod
    def cells(self) -> tuple[Cell, ...]:
        """All that are compared."""

    @property
    @abstractmethod
    def rule(self) -> ClaimRule:
        """How each comparison is judged."""

    @property
    @abstractmethod
    def published(self) -> Sequence[tuple[float, float] | None]:
        """The paper's printed figures of each comparison, null where it lacks them.

        It bears the claim out where the first is more.
        """

    @abstractmethod
    def judge(self, records: Sequence[RunRecord]) -> Finding:
        """Judge the claim by the planned trials."""

    def with_least(self, least: float) -> Self:
        """The claim, judged by another smallest difference that counts, in its unit."""
        return replace(self, least=least)

    @abstractmethod
    def _test(self, poisons: int) -> str:
        """The test in words, of a judgement that rests on so many poisons."""

    @property
    def bears_out(self) -> bool | None:
        """Whether the paper's figures bear it out; null where one is not published."""
        printed = list(filter(None, self.published))
        is_whole = len(printed) == len(self.published)
        return all(first > second for first, second in printed) if is_whole else None

    def _finding(
        self, compared: Sequence[Sets], evidence_of: Callable[[Sets], Evidence | None]
    ) -> Finding:
        """Judge comparisons, each of sets of runs in pairs, at the planned number of sets."""
        trials = self.cells[0].trials if self.trials is None else self.trials
        planned = [planned_sets(sets, trials) for sets in compared]
        fewest = min((sets for sets, _ in planned), key=len)
        pairs = [runs[i : i + 2] for runs in fewest for i in range(0, len(runs), 2)]
        ids = (run.id for sets in compared for runs in sets for run in runs)
        basis = basis_of(pairs)
        return Finding(
            keys=self.keys,
            claim=self.claim,
            test=self._test(basis.poisons or 0),
            planned=trials,
            judgement=judge(
                [(evidence_of(sets), self.rule) for sets, _ in planned],
                basis,
                is_complete=all(is_complete for _, is_complete in planned),
            ),
            trials=min(map(len, compared)),
            bears_out=self.bears_out,
            records=tuple(dict.fromkeys(ids)),
        )


@dataclass(frozen=True, kw_only=True)
class Superiority(Claim):
    """Cells are better than others, or not worse by as much as a margin.

    Attributes:
        comparisons: pairs of cells, the better one said to be first; see :func:`against` and
            :func:`steps`.
        measure: in what.
        margin: how much worse still passes, in the measure's unit; 0 asks for better.
        same_poison: whether both train on one poison; false for poison ratios, of which each has
            poisons of its own, and more than one to be judged.
        is_chain: whether only trials that all cells have are judged.
    """

    comparisons: tuple[tuple[Cell, Cell], ...]
    measure: Measure = ACCURACY
    margin: float = 0.0
    same_poison: bool = True
    is_chain: bool = False

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All that are compared."""
        return tuple(dict.fromkeys(cell for pair in self.comparisons for cell in pair))

    @property
    def rule(self) -> ClaimRule:
        """Better by what counts, or not worse by the margin."""
        if self.margin:
            return ClaimRule(-self.margin, -self.margin)
        return ClaimRule(0.0, self.least or self.measure.least)

    @property
    def published(self) -> Sequence[tuple[float, float] | None]:
        """The means, with their sign where less is better; the margin is added to the first."""
        better = self.measure.better
        return [
            (better * first.published.mean + self.margin, better * second.published.mean)
            if first.published and second.published
            else None
            for first, second in self.comparisons
        ]

    def with_least(self, least: float) -> Self:
        """The claim, judged by another smallest difference; of "at least as good", the margin."""
        return replace(self, margin=least) if self.margin else super().with_least(least)

    def judge(self, records: Sequence[RunRecord]) -> Finding:
        """Judge the claim by the planned trials."""
        runs = {cell: cell.select(records) for cell in self.cells}
        if self.is_chain:
            whole = paired(list(runs.values()), same_poison=self.same_poison)
            runs = {cell: [trial[i] for trial in whole] for i, cell in enumerate(runs)}
        pairs = [
            paired([runs[first], runs[second]], same_poison=self.same_poison)
            for first, second in self.comparisons
        ]
        finding = self._finding(pairs, self._evidence)
        judgement = finding.judgement
        if self.measure is ACCURACY and finding.trials:
            images = pairs[0][0][0].labels.sizes.test
            judgement = replace(judgement, basis=replace(judgement.basis, images=images))
        if judgement.effect is None and finding.trials:
            # One trial has a difference, and no interval.
            effect = min(fmean(self.measure.gains(sets)) for sets in pairs)
            judgement = replace(judgement, effect=effect)
        return replace(finding, judgement=judgement, unit=self.measure.unit)

    def _test(self, poisons: int) -> str:
        test = self.measure.test.format(sample="poisons" if poisons > 1 else "seeds")
        if not self.same_poison:
            test = "one-sided t-test of two mean accuracies over the poisons of each level"
        test = f"at each step a {test}" if self.is_chain else test
        test += f", which may be under 0 by {self.margin:g}" if self.margin else ""
        return test + (", on this poison alone" if poisons == 1 else "")

    def _evidence(self, pairs: Sets) -> Evidence | None:
        if not self.same_poison:
            return unpaired_gain(pairs)
        if self.measure is ACCURACY:
            return accuracy_gain(pairs, abs(self.rule.least))
        return paired_difference(self.measure.gains(pairs))


def against(first: Cell, others: Sequence[Cell]) -> tuple[tuple[Cell, Cell], ...]:
    """A cell said to be better than each of others."""
    return tuple((first, other) for other in others)


def steps(levels: Sequence[Cell]) -> tuple[tuple[Cell, Cell], ...]:
    """Adjacent cells of a row in which values get worse at each step."""
    return tuple(pairwise(levels))


@dataclass(frozen=True, kw_only=True)
class SuccessOrder(Claim):
    """Attacks hit fewer targets, or more, under one defense than under each of others.

    Attributes:
        first: one defense's cells, one an attack.
        others: other defenses' cells, in the same order of attacks.
        direction: -1 where the first is said to be hit less, 1 where more.
    """

    first: tuple[Cell, ...]
    others: tuple[tuple[Cell, ...], ...]
    direction: int = -1

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All that are compared."""
        return tuple(cell for column in (self.first, *self.others) for cell in column)

    @property
    def rule(self) -> ClaimRule:
        """More, or less, by what counts."""
        return ClaimRule(0.0, self.least or LEAST_SUCCESS)

    @property
    def published(self) -> Sequence[tuple[float, float] | None]:
        """The rates over all attacks, with their sign where less is claimed."""
        rates = []
        for cells in (self.first, *self.others):
            printed = [cell.published_success for cell in cells if cell.published_success]
            hits = sum(p.successes for p in printed) / max(1, sum(p.trials for p in printed))
            rates.append(self.direction * hits if len(printed) == len(cells) else None)
        own = rates[0]
        return [None if own is None or rate is None else (own, rate) for rate in rates[1:]]

    def judge(self, records: Sequence[RunRecord]) -> Finding:
        """Judge the claim by the planned number of targets, each of which counts once."""
        return self._finding(self.by_target(records), self.evidence)

    def _test(self, poisons: int) -> str:
        if len(self.first) > 1:
            return "one-sided test of the mean over targets (Gaffke's)"
        return "one-sided McNemar's exact test over targets"

    def by_target(self, records: Sequence[RunRecord]) -> list[Sets]:
        """The trials of each comparison that both defenses have under all attacks.

        A trial's target may differ by attack, as easy targets do by how the victim is trained; no
        two trials share one. Its runs are in pairs by attack, the first of each under this defense.
        """
        return [distinct_targets(self._trials(cells, records)) for cells in self.others]

    def repeats(self, records: Sequence[RunRecord]) -> int:
        """How many trials count for nothing, because an earlier one has a target of theirs."""
        every = [self._trials(cells, records) for cells in self.others]
        return max(len(sets) - len(distinct_targets(sets)) for sets in every)

    def evidence(self, targets: Sets) -> TargetDifference | None:
        """The difference of success rates, positive where it bears the claim out."""
        rows = [[bool(run.metrics.attack_success) for run in runs] for runs in targets]
        own, other = ([row[side::2] for row in rows] for side in (0, 1))
        return target_difference(*((other, own) if self.direction < 0 else (own, other)))

    def _trials(self, cells: Sequence[Cell], records: Sequence[RunRecord]) -> Sets:
        by_attack = []
        for own, other in zip(self.first, cells, strict=True):
            pairs = paired([own.select(records), other.select(records)])
            by_attack.append({_trial_of(first): (first, second) for first, second in pairs})
        shared = set.intersection(*map(set, by_attack))
        return [[run for pairs in by_attack for run in pairs[key]] for key in sorted(shared)]


def _trial_of(run: RunRecord) -> tuple[int, int]:
    return run.spec.seed, run.spec.trial
