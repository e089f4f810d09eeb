"""Cells from run records: what was measured, and what a test says of it beside the paper's value.

No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from poisonbench.results.estimates import as_printed, mean_difference
from poisonbench.results.proportions import ShareDifference
from poisonbench.results.records import RunRecord
from poisonbench.results.statistics import Proportion, Summary, Verdict, summarise
from poisonbench.results.verdicts import (
    LEAST_ACCURACY,
    LEAST_SUCCESS,
    EquivalenceRule,
    Judgement,
    judge_equivalence,
)
from poisonbench.tables.comparisons import Comparison, Unit
from poisonbench.tables.evidence import accuracies, basis_of, planned_sets

#: The last printed place of the papers' accuracies.
_DIGIT = 1e-4


def compare_accuracy(
    keys: Mapping[str, Any],
    records: Sequence[RunRecord],
    published: Summary | None,
    *,
    trials: int,
) -> Comparison:
    """Average the test accuracies of one cell and set them beside the published ones.

    Args:
        keys: what the cell is about.
        records: of this cell and no other, one for each (seed, trial).
        published: as fractions; null where the paper has no value.
        trials: how many the cell shall have.
    """
    return Comparison(
        keys={**keys, "quantity": "test_accuracy"},
        measured=summarise(accuracies(records)),
        published=published,
        trials=trials,
        judgement=Judgement(Verdict.UNPUBLISHED)
        if published is None
        else _judge_accuracy(records, published, trials),
        records=tuple(run.id for run in records),
    )


def _judge_accuracy(records: Sequence[RunRecord], published: Summary, trials: int) -> Judgement:
    sets, is_complete = planned_sets([(run,) for run in records], trials)
    measured = summarise(accuracies([run for (run,) in sets]))
    return judge_equivalence(
        mean_difference(measured, as_printed(published, _DIGIT)),
        EquivalenceRule(LEAST_ACCURACY),
        basis_of(sets),
        is_complete=is_complete,
    )


def compare_success(
    keys: Mapping[str, Any],
    records: Sequence[RunRecord],
    published: Proportion | None,
    *,
    trials: int,
    planned: int | None = None,
) -> Comparison:
    """Count the targets of one cell that were hit, and set the share beside the published one.

    Args:
        keys: what the cell is about, the quantity included.
        records: of this cell and no other, one for each (seed, trial), of targeted attacks.
        published: null where the paper has no value.
        trials: how many the cell shall have.
        planned: at how many it is judged, where not at these.
    """
    return Comparison(
        keys=keys,
        measured=_share(records),
        published=published,
        trials=trials,
        judgement=Judgement(Verdict.UNPUBLISHED)
        if published is None
        else _judge_success(records, published, trials if planned is None else planned),
        records=tuple(record.id for record in records),
    )


def _judge_success(records: Sequence[RunRecord], published: Proportion, planned: int) -> Judgement:
    sets, is_complete = planned_sets([(run,) for run in records], planned)
    # A target that several trials have counts once.
    targets = {run.on_target[0].target: run for (run,) in reversed(sets)}
    measured = _share(list(targets.values()))
    return judge_equivalence(
        None if measured is None else ShareDifference(measured, published),
        EquivalenceRule(LEAST_SUCCESS),
        basis_of(sets),
        is_complete=is_complete,
    )


def _share(records: Sequence[RunRecord]) -> Proportion | None:
    hits = [bool(record.metrics.attack_success) for record in records]
    return Proportion(sum(hits), len(hits)) if hits else None


def compare_time(
    keys: Mapping[str, Any],
    values: Mapping[str, float],
    published: float | None,
    *,
    trials: int,
    unit: Unit,
) -> Comparison:
    """Average seconds, or ratios of them, and set them beside the published one, untested.

    The published time is one run without a spread, on a device that nobody else has.

    Args:
        keys: what the cell is about.
        values: one a run, by record id; all of one device.
        published: null where the paper has none.
        trials: how many the cell shall have.
        unit: of the values.
    """
    return Comparison(
        keys=keys,
        measured=summarise(list(values.values())),
        published=None if published is None else Summary(published, None, 1),
        trials=trials,
        judgement=Judgement(Verdict.UNPUBLISHED if published is None else Verdict.NOT_TESTED),
        records=tuple(values),
        unit=unit,
    )


def compare_fact(
    keys: Mapping[str, Any],
    values: Mapping[str, int | str],
    published: int | str | None,
    *,
    aliases: Mapping[Any, int | str],
) -> Comparison:
    """Set a setting that runs recorded beside the published one.

    Args:
        keys: what the cell is about.
        values: the setting by record id.
        published: as printed; null where the paper does not say.
        aliases: our names by the paper's.
    """
    distinct = sorted(set(values.values()), key=str)
    measured = distinct[0] if len(distinct) == 1 else ", ".join(map(str, distinct)) or None
    if published is None:
        word = Verdict.UNPUBLISHED
    elif measured is None:
        word = Verdict.INCONCLUSIVE
    else:
        is_same = measured == aliases.get(published, published)
        word = Verdict.EQUAL if is_same else Verdict.DIFFERS
    return Comparison(
        keys=keys,
        measured=measured,
        published=published,
        trials=1,
        judgement=Judgement(word),
        records=tuple(values),
    )
