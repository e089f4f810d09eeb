"""The paper's claims as comparisons of runs that differ in what is compared alone. No torch here.

All defenses of a trial share initial weights, batches and poison, so that their difference within
a trial is the defense's alone. ``docs/verdicts.md`` says how claims are judged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import fmean
from typing import Any, TypeAlias

from poisonbench.results.estimates import paired_difference
from poisonbench.results.records import RunRecord
from poisonbench.results.sign_permutation import TargetDifference, target_difference
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
        least: the smallest difference that counts, in the unit.
        test: how differences are tested, in words; of "{sample}", poisons or seeds.
    """

    unit: Unit
    of: Callable[[RunRecord], float]
    better: int
    least: float
    test: str

    def gains(self, pairs: Sets) -> list[float]:
        """By how much the first run of each pair is better."""
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
class Superiority:
    """One cell is better than each of others, or not worse by as much as a margin.

    Attributes:
        claim: in words.
        margin: how much worse still passes, in the measure's unit; 0 asks for better.
    """

    claim: str
    first: Cell
    others: tuple[Cell, ...]
    keys: Mapping[str, Any] = field(default_factory=dict)
    measure: Measure = ACCURACY
    margin: float = 0.0

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All that are compared."""
        return self.first, *self.others

    def wanting(self, trials: int) -> Superiority:
        """The same claim, judged at so many trials."""
        return replace(self, first=replace(self.first, trials=trials))

    def judge(self, records: Sequence[RunRecord]) -> Finding:
        """Judge the claim by the planned trials."""
        own = self.first.select(records)
        pairs = [paired([own, other.select(records)]) for other in self.others]
        if self.margin:
            test = f"{self.measure.test}, which may be under 0 by {self.margin:g}"
            return _compared(self, pairs, ClaimRule(-self.margin, -self.margin), test)
        return _compared(self, pairs, ClaimRule(0.0, self.measure.least), self.measure.test)

    @property
    def bears_out(self) -> bool | None:
        """Whether the paper's means bear it out; null where one is not published."""
        means = [self.measure.better * cell.published.mean for cell in self.cells if cell.published]
        if len(means) < len(self.cells):
            return None
        return all(means[0] + self.margin > mean for mean in means[1:])


@dataclass(frozen=True, kw_only=True)
class Trend:
    """Values rise or fall at each step along ordered cells.

    Attributes:
        claim: in words.
        direction: 1 where values rise, -1 where they fall.
        same_poison: whether the levels train on one poison; false for poison ratios, of which
            each has poisons of its own, and more than one to be judged.
    """

    claim: str
    levels: tuple[Cell, ...]
    direction: int
    keys: Mapping[str, Any] = field(default_factory=dict)
    measure: Measure = ACCURACY
    same_poison: bool = True

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All that are compared."""
        return self.levels

    def wanting(self, trials: int) -> Trend:
        """The same claim, judged at so many trials."""
        first, *others = self.levels
        return replace(self, levels=(replace(first, trials=trials), *others))

    def judge(self, records: Sequence[RunRecord]) -> Finding:
        """Judge the claim by the planned trials that all levels have."""
        groups = [cell.select(records) for cell in self.levels]
        sets = paired(groups, same_poison=self.same_poison)
        # Each step's better level goes first.
        order = 1 if self.direction * self.measure.better < 0 else -1
        steps = [[runs[i : i + 2][::order] for runs in sets] for i in range(len(groups) - 1)]
        rule = ClaimRule(0.0, self.measure.least)
        test = "one-sided t-test of two mean accuracies over the poisons of each level"
        test = self.measure.test if self.same_poison else test
        return _compared(self, steps, rule, f"at each step a {test}")

    @property
    def bears_out(self) -> bool | None:
        """Whether the paper's means bear it out; null where one is not published."""
        printed = [cell.published.mean for cell in self.levels if cell.published]
        if len(printed) < len(self.levels):
            return None
        return all(self.direction * (b - a) > 0 for a, b in pairwise(printed))


@dataclass(frozen=True, kw_only=True)
class SuccessOrder:
    """Attacks hit fewer targets, or more, under one defense than under each of others.

    Attributes:
        claim: in words.
        first: one defense's cells, one an attack.
        others: other defenses' cells, in the same order of attacks.
        direction: -1 where the first is said to be hit less, 1 where more.
    """

    claim: str
    first: tuple[Cell, ...]
    others: tuple[tuple[Cell, ...], ...]
    direction: int = -1
    keys: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All that are compared."""
        return tuple(cell for column in (self.first, *self.others) for cell in column)

    def wanting(self, trials: int) -> SuccessOrder:
        """The same claim, judged at so many trials."""
        return replace(self, first=tuple(replace(cell, trials=trials) for cell in self.first))

    def judge(self, records: Sequence[RunRecord]) -> Finding:
        """Judge the claim by the planned number of targets, each of which counts once.

        Only trials that both defenses of a comparison have under all attacks are counted.
        """
        trials = [distinct_targets(self._trials(cells, records)) for cells in self.others]
        rule = ClaimRule(0.0, LEAST_SUCCESS)
        test = "one-sided McNemar's exact test over targets"
        if len(self.first) > 1:
            test = "one-sided permutation of signs by target, and a t-test of the mean over targets"
        return _finding(self, trials, rule, self._evidence, test)

    @property
    def bears_out(self) -> bool | None:
        """Whether the paper's rates over all attacks bear it out; null where one is missing."""
        rates = []
        for cells in (self.first, *self.others):
            printed = [cell.published_success for cell in cells if cell.published_success]
            if len(printed) < len(cells):
                return None
            rates.append(sum(p.successes for p in printed) / sum(p.trials for p in printed))
        return all(self.direction * (rates[0] - rate) > 0 for rate in rates[1:])

    def _trials(self, cells: Sequence[Cell], records: Sequence[RunRecord]) -> Sets:
        """The runs of a trial, by attack under this defense and then under the other."""
        by_attack = []
        for own, other in zip(self.first, cells, strict=True):
            pairs = paired([own.select(records), other.select(records)])
            by_attack.append(
                {
                    (run.spec.seed, run.spec.trial, _target(run)): (run, other)
                    for run, other in pairs
                }
            )
        shared = set.intersection(*map(set, by_attack))
        return [[run for pairs in by_attack for run in pairs[key]] for key in sorted(shared)]

    def _evidence(self, trials: Sets) -> TargetDifference | None:
        rows = [[bool(run.metrics.attack_success) for run in runs] for runs in trials]
        own, other = ([row[side::2] for row in rows] for side in (0, 1))
        return target_difference(*((other, own) if self.direction < 0 else (own, other)))


Claim: TypeAlias = Superiority | Trend | SuccessOrder


def _compared(
    claim: Superiority | Trend, pairs: Sequence[Sets], rule: ClaimRule, test: str
) -> Finding:
    """Judge comparisons of runs in pairs, the first of which is said to be better."""
    measure = claim.measure

    def evidence_of(sets: Sets) -> Evidence | None:
        if isinstance(claim, Trend) and not claim.same_poison:
            return unpaired_gain(sets)
        if measure is ACCURACY:
            return accuracy_gain(sets, abs(rule.least))
        return paired_difference(measure.gains(sets))

    finding = _finding(claim, pairs, rule, evidence_of, test)
    judgement = finding.judgement
    if measure is ACCURACY and finding.trials:
        images = pairs[0][0][0].labels.sizes.test
        judgement = replace(judgement, basis=replace(judgement.basis, images=images))
    if judgement.effect is None and finding.trials:
        # One trial has a difference, and no interval.
        effect = min(fmean(measure.gains(sets)) for sets in pairs)
        judgement = replace(judgement, effect=effect)
    poisons = judgement.basis.poisons or 0
    test = test.format(sample="poisons" if poisons > 1 else "seeds")
    test += ", on this poison alone" if poisons == 1 else ""
    return replace(finding, judgement=judgement, unit=measure.unit, test=test)


def _finding(
    claim: Claim,
    compared: Sequence[Sets],
    rule: ClaimRule,
    evidence_of: Callable[[Sets], Evidence | None],
    test: str,
) -> Finding:
    """Judge comparisons, each of sets of runs in pairs, at the planned number of sets."""
    planned = [planned_sets(sets, claim.cells[0].trials) for sets in compared]
    fewest = min((sets for sets, _ in planned), key=len)
    pairs = [runs[i : i + 2] for runs in fewest for i in range(0, len(runs), 2)]
    return Finding(
        keys=claim.keys,
        claim=claim.claim,
        test=test,
        judgement=judge(
            [(evidence_of(sets), rule) for sets, _ in planned],
            basis_of(pairs),
            is_complete=all(is_complete for _, is_complete in planned),
        ),
        trials=min(map(len, compared)),
        planned=claim.cells[0].trials,
        bears_out=claim.bears_out,
        records=tuple(dict.fromkeys(run.id for sets in compared for runs in sets for run in runs)),
    )


def _target(record: RunRecord) -> int:
    return record.on_target[0].target
