"""Cells from run records: what was measured, and what a test says of it beside the paper's value.

Each function takes what the cell is about, its runs (one for each seed and trial) or their values
by record id, the published value, null where the paper has none, and how many trials the cell
shall have. No torch here.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from poisonbench.results.estimates import difference_from_one, printed_difference
from poisonbench.results.proportions import ShareDifference
from poisonbench.results.records import RunRecord
from poisonbench.results.statistics import Proportion, Summary, Verdict, summarise
from poisonbench.results.verdicts import (
    LEAST_ACCURACY,
    LEAST_SUCCESS,
    EquivalenceRule,
    Judgement,
    judge,
)
from poisonbench.tables.comparisons import Comparison, Unit
from poisonbench.tables.evidence import accuracies, basis_of, distinct_targets, planned_sets

#: The last printed place of the papers' accuracies.
PRINTED_DIGIT = 1e-4

_MEANS_TEST = "t-tests of the difference of two means over seeds"
_ONE_TEST = "t-tests of the difference of a mean over seeds from one more run"
_SHARES_TEST = "exact unconditional tests of the difference of two shares over targets"


def compare_accuracy(
    keys: Mapping[str, Any],
    records: Sequence[RunRecord],
    published: Summary | None,
    *,
    trials: int,
) -> Comparison:
    """Average the test accuracies of one cell and set them beside the published ones.

    A published figure without a spread is taken for one run that spreads as ours do.
    """
    judgement = Judgement(Verdict.UNPUBLISHED)
    if published is not None:
        sets, is_complete = planned_sets([(run,) for run in records], trials)
        judged = summarise(accuracies([run for (run,) in sets]))
        difference = (
            difference_from_one(judged, published.mean, PRINTED_DIGIT)
            if published.std is None
            else printed_difference(judged, published, PRINTED_DIGIT)
        )
        rule = EquivalenceRule(LEAST_ACCURACY)
        judgement = judge([(difference, rule)], basis_of(sets), is_complete=is_complete)
    return Comparison(
        keys={**keys, "quantity": "test_accuracy"},
        measured=summarise(accuracies(records)),
        published=published,
        test=None if published is None else _ONE_TEST if published.std is None else _MEANS_TEST,
        trials=trials,
        judgement=judgement,
        records=tuple(run.id for run in records),
    )


def average_diagnostic(
    keys: Mapping[str, Any], records: Sequence[RunRecord], name: str
) -> Comparison | None:
    """Average an accuracy that stands beside the test accuracies; null where no run has it.

    It is judged by nothing.

    Args:
        keys: what the cell is about.
        records: its runs.
        name: the metric: ``batch_statistics_accuracy``, of the same weights by batch norm's
            statistics of each test batch, or ``peak_accuracy``, which runs that recalibrate batch
            norm do not have: they do so after the last epoch, and not the peak's weights.
    """
    if name == "peak_accuracy":
        records = [run for run in records if not run.spec.training.recalibrate]
    values = {
        run.id: value for run in records if isinstance(value := getattr(run.metrics, name), float)
    }
    return _average({**keys, "quantity": name}, records, values, "fraction")


def average_noise(keys: Mapping[str, Any], records: Sequence[RunRecord]) -> Comparison | None:
    """Average the size of the noise that a defense adds, in grey levels; null where no run has it.

    A run's is the mean absolute change of a pixel in its first round: HINT's over the images that
    it selects, FRIENDS' friendly noise over all.
    """
    levels = {
        run.id: 255 * note["mean_abs_noise"]
        for run in records
        for note in reversed(run.notes)  # Backwards: the first round is what stays.
        if "mean_abs_noise" in note
    }
    return _average({**keys, "quantity": "mean_abs_noise"}, records, levels, "grey levels")


def _average(
    keys: Mapping[str, Any], records: Sequence[RunRecord], values: Mapping[str, float], unit: Unit
) -> Comparison | None:
    """Average what some of the runs have, by record id, judged by nothing; null for no run."""
    if not values:
        return None
    known = [run for run in records if run.id in values]
    return Comparison(
        keys=keys,
        measured=summarise(accuracies(known, lambda run: values[run.id])),
        published=None,
        trials=0,
        judgement=Judgement(Verdict.UNPUBLISHED),
        records=tuple(values),
        unit=unit,
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

    It is judged at as many targets as it shall have trials, or at the number ``planned``; a target
    that several trials have counts once.
    """
    judgement = Judgement(Verdict.UNPUBLISHED)
    if published is not None:
        sets, is_complete = planned_sets(
            distinct_targets([(run,) for run in records]), trials if planned is None else planned
        )
        judged = share_hit([run for (run,) in sets])
        difference = None if judged is None else ShareDifference(judged, published)
        rule = EquivalenceRule(LEAST_SUCCESS)
        judgement = judge([(difference, rule)], basis_of(sets), is_complete=is_complete)
    return Comparison(
        keys=keys,
        measured=share_hit(records),
        published=published,
        test=_SHARES_TEST if published else None,
        trials=trials,
        judgement=judgement,
        records=tuple(record.id for record in records),
    )


def share_hit(records: Collection[RunRecord]) -> Proportion | None:
    """Targets hit of the runs', without an interval where one repeats; null without any."""
    if not records:
        return None
    hits = sum(bool(record.metrics.attack_success) for record in records)
    targets = [record.on_target[0].target for record in records]
    return Proportion(hits, len(records), is_independent=len(set(targets)) == len(targets))


def average_trigger_success(
    keys: Mapping[str, Any], records: Sequence[RunRecord]
) -> Comparison | None:
    """Attack success rate of one cell's runs on a trigger; null where some run has none.

    One run's is a share of its triggered test images; of several, which share these images, it is
    the mean over runs.
    """
    answers = [run.metrics.trigger for run in records]
    known = [answer for answer in answers if answer is not None]
    if not known or len(known) < len(answers):
        return None
    one = Proportion(known[0].successes, known[0].count)
    measured = one if len(known) == 1 else summarise([answer.rate for answer in known])
    return Comparison(
        keys={**keys, "quantity": "attack_success_rate"},
        measured=measured,
        published=None,
        trials=0,
        judgement=Judgement(Verdict.UNPUBLISHED),
        records=tuple(run.id for run in records),
    )


def compare_time(
    keys: Mapping[str, Any],
    values: Mapping[str, float],
    published: float | None,
    *,
    trials: int,
    unit: Unit,
) -> Comparison:
    """Average seconds of one device, or ratios of them, and set them beside the published one.

    Untested: the published time is one run without a spread, on a device that nobody else has.
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
    """Set a setting that runs recorded beside the published one; aliases are our names for it."""
    distinct = sorted(set(values.values()), key=str)
    measured = distinct[0] if len(distinct) == 1 else ", ".join(map(str, distinct)) or None
    if published is None:
        word = Verdict.UNPUBLISHED
    elif measured is None:
        word = Verdict.NOT_RUN
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
