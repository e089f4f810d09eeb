"""What tables judge: the planned runs, grouped by poison, as differences with their uncertainty.

Seeds that train on one poison are a sample of seeds; of several poisons these are the sample, and
each counts once, by the mean of its runs. A set holds runs that differ in what is compared alone,
such as the defense. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeAlias

from poisonbench.results.crossed import accuracy_difference
from poisonbench.results.estimates import (
    Estimate,
    mean_difference,
    paired_difference,
    unshared_errors,
)
from poisonbench.results.records import Bits, RunRecord
from poisonbench.results.statistics import summarise
from poisonbench.results.verdicts import Basis
from poisonbench.tables.cells import is_of_plan

if TYPE_CHECKING:
    from numpy.typing import NDArray

Sets: TypeAlias = Sequence[Sequence[RunRecord]]


def planned_sets(sets: Sets, planned: int) -> tuple[Sets, bool]:
    """The first sets of the plan, in order of trial, and whether there are as many as planned.

    Before that all that there are, whose difference is shown and not judged.
    """
    of_plan = [runs for runs in sets if all(map(is_of_plan, runs))][:planned]
    is_complete = len(of_plan) == planned
    return (of_plan if is_complete else sets[:planned]), is_complete


def distinct_targets(sets: Sets) -> Sets:
    """The sets without one whose target an earlier one has; those of the plan come first.

    A repeat says nothing new.
    """
    seen: set[int] = set()
    firsts = []
    for runs in sorted(sets, key=lambda runs: not all(map(is_of_plan, runs))):
        targets = {run.on_target[0].target for run in runs}
        if seen.isdisjoint(targets):
            firsts.append(runs)
        seen |= targets
    return firsts


def by_poison(sets: Sets) -> list[list[Sequence[RunRecord]]]:
    """Group sets by what their runs train on; clean runs are one group."""
    groups: dict[tuple[str | None, ...], list[Sequence[RunRecord]]] = {}
    for runs in sets:
        groups.setdefault(tuple(run.spec.poison_digest for run in runs), []).append(runs)
    return list(groups.values())


def accuracies(
    records: Sequence[RunRecord],
    of: Callable[[RunRecord], float] = lambda run: run.metrics.test_accuracy,
) -> list[float]:
    """Test accuracies of the runs, or of several poisons the means of each."""
    groups = by_poison([(run,) for run in records])
    return _sample([[of(run) for (run,) in group] for group in groups])


def basis_of(sets: Sets) -> Basis:
    """Count what sets of runs rest on."""
    runs = [run for members in sets for run in members]
    is_poisoned = any(run.spec.poison is not None for run in runs)
    on_targets = [run.spec for run in runs if run.spec.goal]
    return Basis(
        targets=len({spec.goal.target for spec in on_targets if spec.goal}) or None,
        attacks=len({tuple(spec.poison.attacks) for spec in on_targets if spec.poison}) or None,
        poisons=len(by_poison(sets)) if is_poisoned else None,
        seeds=len({(run.spec.seed, run.spec.trial) for run in runs}) or None,
    )


def accuracy_gain(pairs: Sets, least: float) -> Estimate | None:
    """Accuracy of the first run of each pair minus the second's; null for fewer than two pairs.

    Records from before there were outcomes by image get the largest variance that the choice of
    the images can have.

    Args:
        pairs: of two runs each.
        least: the smallest difference that counts, not 0.
    """
    if not pairs:
        return None
    groups = by_poison(pairs)
    images = pairs[0][0].labels.sizes.test
    outcomes = [[[run.outcomes.test for run in pair] for pair in group] for group in groups]
    kept = [bits for group in outcomes for pair in group for bits in pair]
    if all(bits is not None and bits.count == images for bits in kept):
        first, second = (_by_image(outcomes, side) for side in (0, 1))
        return accuracy_difference(first, second, least=least)
    ours, theirs = (fmean(pair[i].metrics.test_accuracy for pair in pairs) for i in (0, 1))
    return paired_difference(gains(pairs), unshared_errors(ours, theirs, images))


def gains(pairs: Sets) -> list[float]:
    """Test accuracy of the first run of each pair minus the second's; of several poisons means."""
    return _sample(
        [
            [first.metrics.test_accuracy - second.metrics.test_accuracy for first, second in group]
            for group in by_poison(pairs)
        ]
    )


def unpaired_gain(pairs: Sets) -> Estimate | None:
    """Accuracy of the first runs minus the second ones', each side with poisons of its own.

    Poisons are the sample, of clean runs the seeds; seeds of one poison cannot tell a level from
    its draw.

    Args:
        pairs: of two runs each.

    Returns:
        The difference; null where a poisoned side has fewer than two poisons.
    """
    sides = [[pair[i] for pair in pairs] for i in (0, 1)]
    for side in sides:
        if len({run.spec.poison_digest for run in side}) < 2 and any(
            run.spec.poison for run in side
        ):
            return None
    first, second = (summarise(accuracies(side)) for side in sides)
    if first is None or second is None:
        return None
    images = pairs[0][0].labels.sizes.test
    return mean_difference(first, second, unshared_errors(first.mean, second.mean, images))


def _by_image(outcomes: Sequence[Sequence[Sequence[Bits | None]]], side: int) -> NDArray[Any]:
    """Which images one side gets right: (1, seeds, images), or of several poisons their means."""
    import numpy as np

    groups = [
        np.array([bits.unpack() for pair in group if (bits := pair[side]) is not None])
        for group in outcomes
    ]
    if len(groups) == 1:
        return groups[0]
    return np.array([group.mean(0, keepdims=True) for group in groups])


def _sample(groups: Sequence[Sequence[float]]) -> list[float]:
    """The values of one group, or the means of several."""
    return list(groups[0]) if len(groups) == 1 else list(map(fmean, groups))
