"""What a defense gains over plain training on the same poisons and trials. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from poisonbench.results.records import RunRecord
from poisonbench.tables.cells import paired
from poisonbench.tables.evidence import Sets, by_poison, distinct_targets

#: A gain under this is none to speak of.
LEAST = 0.01


@dataclass(frozen=True)
class Gain:
    """What two sides have over the same pairs of runs, each a mean.

    Attributes:
        pairs: how many.
        own: the defense's.
        base: plain training's.
    """

    pairs: Sets
    own: float
    base: float

    @property
    def points(self) -> float:
        """The difference."""
        return self.own - self.base

    @property
    def is_better(self) -> bool:
        """Whether it is one to speak of."""
        return round(self.points, 9) >= LEAST

    @property
    def pairs_text(self) -> str:
        """``3 pairs``."""
        return f"{len(self.pairs)} pair{'s' * (len(self.pairs) != 1)}"


def accuracy_of(run: RunRecord) -> float:
    """A run's test accuracy."""
    return run.metrics.test_accuracy


def gain_of(
    runs: Sequence[RunRecord],
    plain: Sequence[RunRecord],
    of: Callable[[RunRecord], float] = accuracy_of,
) -> Gain | None:
    """The gain over pairs of runs on the same poison, target and trial; null without a pair.

    Filters pair too, though without some images no batch is plain training's. A target that
    several trials have counts once.

    Args:
        runs: the defense's, one a trial.
        plain: plain training's.
        of: what is wanted much of.
    """
    pairs: Sets = paired([runs, plain], same_batch=False)
    if any(run.spec.targeting is not None for pair in pairs for run in pair):
        pairs = distinct_targets(pairs)
    if not pairs:
        return None
    own, base = levels(pairs, of)
    return Gain(pairs, own, base)


def levels(pairs: Sets, of: Callable[[RunRecord], float] = accuracy_of) -> tuple[float, float]:
    """The mean of each side of pairs; each poison counts once, as in their difference."""
    groups = by_poison(pairs)
    own, base = (fmean(fmean(of(p[side]) for p in group) for group in groups) for side in (0, 1))
    return own, base
