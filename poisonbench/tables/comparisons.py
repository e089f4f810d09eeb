"""The tables' model: measured values beside published ones, before any format. No torch here.

A :class:`Table` holds blocks of text for people, and comparisons and findings for programs.
Accuracies are fractions in these and percent in the text.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Literal

from poisonbench.results.statistics import Proportion, Summary, Verdict, mean_interval, wilson
from poisonbench.results.verdicts import POWER, Judgement

#: What a cell holds: a mean with its spread, successes of trials, a whole number or a name.
Statistic = Summary | Proportion | int | str

#: What means are in.
Unit = Literal["fraction", "ratio", "seconds", "count", "grey levels"]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a table says with a verdict.

    Attributes:
        keys: what it is about, e.g. dataset, rho, method and the quantity measured.
        trials: of a cell how many it shall have; of a claim the complete sets of runs that share
            trial, poison, initial weights and batches.
        records: ids of the run records behind it.
        unit: of means and of the effect.
    """

    keys: Mapping[str, Any]
    judgement: Judgement
    trials: int
    records: tuple[str, ...] = ()
    unit: Unit = "fraction"

    @property
    def verdict(self) -> Verdict:
        """The word."""
        return self.judgement.verdict


@dataclass(frozen=True, kw_only=True)
class Comparison(Judged):
    """One cell of a table, measured and published; null where there is none.

    Attributes:
        test: that of the difference, in words; null where there is none.
        over_images: the 95 % interval over test images of what a single run or pair of runs shows:
            other images might say so much, and of other trainings it says nothing. Null where the
            cell's interval is over runs.
    """

    measured: Statistic | None
    published: Statistic | None
    test: str | None = None
    over_images: tuple[float, float] | None = None

    @property
    def ends(self) -> tuple[float, float] | None:
        """The 95 % interval of what was measured: Student's over runs, Wilson's over trials.

        Of a single run or pair over its test images, where that is known. Null where there is none.
        """
        if self.over_images is not None:
            return self.over_images
        if isinstance(self.measured, Summary | Proportion):
            return interval(self.measured)
        return None

    @property
    def difference(self) -> float | None:
        """Measured minus published, in the values' own unit; null where one is no number.

        Where a difference was judged it is that one, of the planned runs: interval and verdict
        are its own. Null for seconds: the published ones are another device's.
        """
        if self.unit == "seconds":
            return None
        if self.judgement.effect is not None:
            return _rounded(self.judgement.effect)
        measured, published = _number(self.measured), _number(self.published)
        if measured is None or published is None:
            return None
        return _rounded(measured - published)

    @property
    def judged_runs(self) -> int:
        """How many of the runs the difference is of; there may be more than planned."""
        return self.judgement.basis.seeds or len(self.records)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: keys, fractions, record ids."""
        measured = _as_json(self.measured)
        if isinstance(self.measured, Summary | Proportion):
            measured["low"], measured["high"] = self.ends or (None, None)
        has_unit = isinstance(self.measured or self.published, Summary | Proportion)
        return {
            **self.keys,
            "measured": measured,
            "published": _as_json(self.published),
            "difference": self.difference,
            "unit": self.unit if has_unit else None,
            "test": self.test,
            "p_differs_two_sided": _rounded(self.judgement.p_value),
            **_judgement_as_json(self.judgement),
            "wanted": self.trials,
            "records": list(self.records),
        }


class Standing(StrEnum):
    """Whether a claim was declared in ``claims.toml``, and whether before its first run."""

    DECLARED = "declared"
    DECLARED_LATE = "declared after its first run"
    FEWER = "fewer than declared"
    EXPLORATORY = "exploratory"


@dataclass(frozen=True, kw_only=True)
class Finding(Judged):
    """The outcome of judging one claim of the paper, with an effect over 0 where it is borne out.

    Attributes:
        claim: in words, as is the test.
        planned: the trials that it is judged at.
        bears_out: whether the paper's own means bear the claim out; null where it printed none.
    """

    claim: str
    test: str
    planned: int
    bears_out: bool | None
    standing: Standing = Standing.EXPLORATORY

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            **self.keys,
            "claim": self.claim,
            "standing": self.standing.value,
            "test": self.test,
            "p_reproduced_one_sided": _rounded(self.judgement.p_value),
            "p_refuted_one_sided": _rounded(self.judgement.p_against),
            **_judgement_as_json(self.judgement),
            "trials": self.trials,
            "wanted": self.planned,
            "unit": self.unit,
            "published_means_bear_it_out": self.bears_out,
            "records": list(self.records),
        }


@dataclass(frozen=True, kw_only=True)
class Block:
    """A titled grid of text.

    Attributes:
        keys: how many leading columns name the row.
        dispensable: columns that a terminal too narrow for all leaves out, the first one first.
        cells: the comparisons that the grid shows; empty when another block shows them already.
        findings: the claims that the grid shows.
        judged: what each row is about; empty where a row is not one figure or claim.
        strong: numbers of the rows that stand out.
        summaries: how many of the last rows are of all above them, and so not of the key columns.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    keys: int
    dispensable: tuple[str, ...] = ()
    cells: tuple[Comparison, ...] = ()
    findings: tuple[Finding, ...] = ()
    judged: tuple[Comparison | Finding, ...] = ()
    strong: frozenset[int] = frozenset()
    summaries: int = 0


@dataclass(frozen=True, kw_only=True)
class Table:
    """A whole table: blocks and what the reader must know about them.

    Attributes:
        reading: of the mix; null where the runs are on something else.
    """

    key: str
    title: str
    blocks: tuple[Block, ...]
    notes: tuple[str, ...] = ()
    reading: str | None = None

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
            "reading": self.reading,
            "cells": [cell.to_dict() for cell in self.cells],
            "claims": [finding.to_dict() for finding in self.findings],
            "notes": list(self.notes),
        }


def interval(value: Summary | Proportion) -> tuple[float, float] | None:
    """The 95 % interval: Student's t of a mean, Wilson's of independent trials; null if none."""
    if isinstance(value, Proportion):
        return wilson(value.successes, value.trials) if value.is_independent else None
    return mean_interval(value)


def _judgement_as_json(judgement: Judgement) -> dict[str, Any]:
    low, high = judgement.interval or (None, None)
    numbers = {
        "effect": judgement.effect,
        "effect_low": low,
        "effect_high": high,
        "detectable": judgement.detectable,
        "detectable_power_at_least": None if judgement.detectable is None else POWER,
        "least": judgement.least,
    }
    word = {"verdict": judgement.verdict.value, "complete": judgement.is_complete}
    rounded = {name: _rounded(number) for name, number in numbers.items()}
    return {**word, **rounded, **asdict(judgement.basis)}


def _rounded(number: float | None) -> float | None:
    """A number to the tenth decimal, which is far below one image; never minus zero."""
    return None if number is None else round(number, 10) + 0.0


def _number(value: Statistic | None) -> float | None:
    if isinstance(value, Proportion):
        return value.rate
    if isinstance(value, Summary):
        return value.mean
    return value if isinstance(value, int) else None


def _as_json(value: Statistic | None) -> Any:
    if isinstance(value, Proportion):
        counts = {"successes": value.successes, "n": value.trials}
        return {"mean": _rounded(value.rate), "std": None, **counts}
    if isinstance(value, Summary):
        return {"mean": _rounded(value.mean), "std": _rounded(value.std), "n": value.n}
    return value
