"""The tables' model: measured values beside published ones, before any format. No torch here.

A :class:`Table` holds blocks of text for people, and comparisons and findings for programs.
Accuracies are fractions in these and percent in the text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from poisonbench.results.records import RunRecord
from poisonbench.results.statistics import (
    Proportion,
    Summary,
    Verdict,
    mean_interval,
    success_verdict,
    summarise,
    verdict,
    wilson,
)

#: What a cell holds: a mean with its spread, successes of trials, a whole number or a name.
Statistic = Summary | Proportion | int | str

Published = TypeVar("Published", Summary, Proportion, float)

#: What means are in.
Unit = Literal["fraction", "ratio", "seconds", "count"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One cell of a table.

    Attributes:
        keys: what the cell is about, e.g. dataset, rho, method and the quantity measured.
        measured: from run records; null without any.
        published: the paper's value; null where it has none.
        trials: how many the cell shall have.
        verdict: what the comparison says.
        p_value: of the test behind the verdict, and of one trial to be read beside it; null where
            none was made.
        records: ids of the run records averaged.
        unit: of means.
    """

    keys: Mapping[str, Any]
    measured: Statistic | None
    published: Statistic | None
    trials: int
    verdict: Verdict
    p_value: float | None = None
    records: tuple[str, ...] = ()
    unit: Unit = "fraction"

    @property
    def difference(self) -> float | None:
        """Measured minus published, in the values' own unit; null where one is no number.

        Null for seconds as well: the published ones are another device's.
        """
        if self.unit == "seconds":
            return None
        measured, published = _number(self.measured), _number(self.published)
        if measured is None or published is None:
            return None
        return round(measured - published, 10)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: keys, fractions, record ids."""
        measured = _as_json(self.measured)
        if isinstance(self.measured, Summary | Proportion):
            measured["low"], measured["high"] = interval(self.measured) or (None, None)
        has_unit = isinstance(self.measured or self.published, Summary | Proportion)
        return {
            **self.keys,
            "measured": measured,
            "published": _as_json(self.published),
            "difference": self.difference,
            "unit": self.unit if has_unit else None,
            "p_value": self.p_value,
            "verdict": self.verdict.value,
            "wanted": self.trials,
            "records": list(self.records),
        }


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The outcome of testing one claim of the paper.

    Attributes:
        keys: what the claim is about, e.g. dataset and rho.
        claim: in words.
        test: the statistical test.
        verdict: reproduced, not reproduced, or not enough trials.
        p_value: of the test; null where none was made.
        trials: complete sets of runs that share trial, poison, initial weights and batches.
        difference: the effect, in ``unit``; null without trials.
        bears_out: whether the paper's own means bear the claim out; null where it printed none.
        records: ids of the run records tested.
        unit: of the difference.
    """

    keys: Mapping[str, Any]
    claim: str
    test: str
    verdict: Verdict
    p_value: float | None
    trials: int
    difference: float | None
    bears_out: bool | None
    records: tuple[str, ...]
    unit: Unit = "fraction"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            **self.keys,
            "claim": self.claim,
            "test": self.test,
            "verdict": self.verdict.value,
            "p_value": self.p_value,
            "trials": self.trials,
            "difference": None if self.difference is None else round(self.difference, 10),
            "unit": self.unit,
            "published_means_bear_it_out": self.bears_out,
            "records": list(self.records),
        }


@dataclass(frozen=True, kw_only=True)
class Block:
    """A titled grid of text.

    Attributes:
        title: of the grid.
        columns: headings.
        rows: one text a column.
        keys: how many leading columns name the row.
        cells: the comparisons that the grid shows; empty when another block shows them already.
        findings: the claims that the grid shows.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    keys: int
    cells: tuple[Comparison, ...] = ()
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Table:
    """A whole table: blocks and what the reader must know about them."""

    key: str
    title: str
    blocks: tuple[Block, ...]
    notes: tuple[str, ...] = ()

    @property
    def filled_blocks(self) -> tuple[Block, ...]:
        """The blocks that have rows to print."""
        return tuple(block for block in self.blocks if block.rows)

    @property
    def cells(self) -> tuple[Comparison, ...]:
        """Every comparison of every block."""
        return tuple(cell for block in self.blocks for cell in block.cells)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Every claim of every block."""
        return tuple(finding for block in self.blocks for finding in block.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "table": self.key,
            "title": self.title,
            "cells": [cell.to_dict() for cell in self.cells],
            "claims": [finding.to_dict() for finding in self.findings],
            "notes": list(self.notes),
        }


def distinct_trials(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records of one cell that may be averaged together: one for each (seed, trial).

    Only the newest training loop, recipe of the method and recipe of a targeted attack count; of
    the runs on one draw of the poison those on the poison of the run finished last (all untargeted
    runs of a root seed share a draw, a targeted poison is the trial's own); of a trial that was
    repeated, the run finished last (so a result does not depend on the order of reading).
    """
    newest = max((_version(record) for record in records), default=None)
    current = [record for record in records if _version(record) == newest]
    current.sort(key=lambda record: (record.environment.finished, record.id))
    poisons = {_draw(record): record.spec.poison_digest for record in current}
    by_trial: dict[tuple[int, int], RunRecord] = {}
    for record in current:
        if record.spec.poison_digest == poisons[_draw(record)]:
            by_trial[record.spec.seed, record.spec.trial] = record
    return [by_trial[key] for key in sorted(by_trial)]


def _version(record: RunRecord) -> tuple[int, int, int]:
    """The numbers of loop, method and targeted attack; digests tell untargeted poisons apart."""
    spec, origin = record.spec, record.labels.poison
    pools = origin.pools.values() if spec.targeting is not None and origin is not None else ()
    return spec.loop, spec.recipe_number, max((pool.recipe_number for pool in pools), default=0)


def _draw(record: RunRecord) -> tuple[int, int | None]:
    return record.spec.seed, None if record.spec.targeting is None else record.spec.trial


def _held_against(
    published: Published | None, test: Callable[[Published], tuple[Verdict, float | None]]
) -> tuple[Verdict, float | None]:
    """Test against a published value where there is one: the verdict and its p-value."""
    return (Verdict.UNPUBLISHED, None) if published is None else test(published)


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
        records: of this cell and no other.
        published: as fractions; null where the paper has no value.
        trials: how many the cell shall have.
    """
    runs = distinct_trials(records)
    measured = summarise([run.metrics.test_accuracy for run in runs])
    outcome, p_value = _held_against(published, lambda value: verdict(measured, value))
    return Comparison(
        keys={**keys, "quantity": "test_accuracy"},
        measured=measured,
        published=published,
        trials=trials,
        verdict=outcome,
        p_value=p_value,
        records=tuple(run.id for run in runs),
    )


def compare_success(
    keys: Mapping[str, Any],
    records: Sequence[RunRecord],
    published: Proportion | None,
    *,
    trials: int,
) -> Comparison:
    """Count the targets of one cell that were hit, and set the share beside the published one.

    Args:
        keys: what the cell is about, the quantity included.
        records: of this cell and no other, one for each (seed, trial), of targeted attacks.
        published: null where the paper has no value.
        trials: how many the cell shall have.
    """
    hits = [bool(record.metrics.attack_success) for record in records]
    measured = Proportion(sum(hits), len(hits)) if hits else None
    outcome, p_value = _held_against(published, lambda value: success_verdict(measured, value))
    return Comparison(
        keys=keys,
        measured=measured,
        published=published,
        trials=trials,
        verdict=outcome,
        p_value=p_value,
        records=tuple(record.id for record in records),
    )


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
    measured = summarise(list(values.values()))
    untested = Verdict.NOT_TESTED if measured else Verdict.TOO_FEW
    outcome, _ = _held_against(published, lambda _: (untested, None))
    return Comparison(
        keys=keys,
        measured=measured,
        published=None if published is None else Summary(published, None, 1),
        trials=trials,
        verdict=outcome,
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
        outcome = Verdict.UNPUBLISHED
    elif measured is None:
        outcome = Verdict.TOO_FEW
    else:
        same = measured == aliases.get(published, published)
        outcome = Verdict.AGREES if same else Verdict.DIFFERS
    return Comparison(
        keys=keys,
        measured=measured,
        published=published,
        trials=1,
        verdict=outcome,
        records=tuple(values),
    )


def interval(value: Summary | Proportion) -> tuple[float, float] | None:
    """The 95 % interval: Student's t of a mean, Wilson's of independent trials; null if none."""
    if isinstance(value, Proportion):
        return wilson(value.successes, value.trials) if value.is_independent else None
    return mean_interval(value)


def _number(value: Statistic | None) -> float | None:
    if isinstance(value, Proportion):
        return value.rate
    if isinstance(value, Summary):
        return value.mean
    return value if isinstance(value, int) else None


def _as_json(value: Statistic | None) -> Any:
    """A value as JSON, rounded to the tenth decimal, which is far below one image."""
    if isinstance(value, Proportion):
        counts = {"successes": value.successes, "n": value.trials}
        return {"mean": round(value.rate, 10), "std": None, **counts}
    if isinstance(value, Summary):
        std = None if value.std is None else round(value.std, 10)
        return {"mean": round(value.mean, 10), "std": std, "n": value.n}
    return value
