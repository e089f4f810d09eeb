"""The tables' model: measured figures beside published ones, before any format. No torch here.

A :class:`Table` holds blocks of text for people and comparisons for programs. Accuracies are
fractions in the comparisons and percent in the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from poisonbench.results.records import RunRecord
from poisonbench.results.statistics import (
    Summary,
    Verdict,
    mean_interval,
    summarise,
    verdict,
)

#: Where there is nothing to show.
DASH = "-"

#: A mean with its spread, a whole number or a name.
Figure = Summary | int | str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One cell of a table.

    Attributes:
        keys: what the cell is about, e.g. dataset, rho, method and the quantity measured.
        measured: from run records; null without any.
        published: the paper's figure; null where it has none.
        wanted: trials asked for.
        verdict: what the comparison says.
        p_value: of the test behind the verdict; null where none was made.
        records: ids of the run records averaged.
    """

    keys: Mapping[str, Any]
    measured: Figure | None
    published: Figure | None
    wanted: int
    verdict: Verdict
    p_value: float | None = None
    records: tuple[str, ...] = ()

    @property
    def difference(self) -> float | None:
        """Measured minus published, in the figures' own unit; null where one is no number."""
        pair = [f.mean if isinstance(f, Summary) else f for f in (self.measured, self.published)]
        if not all(isinstance(value, int | float) for value in pair):
            return None
        measured, published = pair
        return round(measured - published, 10)  # type: ignore[operator]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: keys, fractions, record ids."""
        measured = _plain(self.measured)
        if isinstance(self.measured, Summary):
            interval = mean_interval(self.measured)
            measured["low"], measured["high"] = interval or (None, None)
        return {
            **self.keys,
            "measured": measured,
            "published": _plain(self.published),
            "difference": self.difference,
            "p_value": self.p_value,
            "verdict": self.verdict.value,
            "wanted": self.wanted,
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
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    keys: int
    cells: tuple[Comparison, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Table:
    """A whole table: blocks and what the reader must know about them."""

    key: str
    title: str
    blocks: tuple[Block, ...]
    notes: tuple[str, ...] = ()

    @property
    def cells(self) -> tuple[Comparison, ...]:
        """Every comparison of every block."""
        return tuple(cell for block in self.blocks for cell in block.cells)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "table": self.key,
            "title": self.title,
            "cells": [cell.to_dict() for cell in self.cells],
            "notes": list(self.notes),
        }


def distinct_trials(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records of one cell that may be averaged together: one for each (seed, trial).

    Only the newest training loop and recipe of the method count; of a root seed's runs those on the
    poison of the run finished last; of a trial that was repeated, the run finished last (so a
    result does not depend on the order of reading).
    """
    newest = max((_version(record) for record in records), default=None)
    current = [record for record in records if _version(record) == newest]
    current.sort(key=lambda record: (str(record.environment.get("finished", "")), record.id))
    poisons = {record.spec["seed"]: _poison_digest(record) for record in current}
    chosen: dict[tuple[int, int], RunRecord] = {}
    for record in current:
        if _poison_digest(record) == poisons[record.spec["seed"]]:
            chosen[record.spec["seed"], record.spec["trial"]] = record
    return [chosen[key] for key in sorted(chosen)]


def _version(record: RunRecord) -> tuple[int, int]:
    return record.spec.get("loop", 0), record.spec.get("recipe_number", 0)


def _poison_digest(record: RunRecord) -> str | None:
    poison = record.spec.get("poison")
    return poison.get("digest") if isinstance(poison, Mapping) else None


def compare_accuracy(
    keys: Mapping[str, Any],
    records: Sequence[RunRecord],
    published: Summary | None,
    *,
    wanted: int,
    built: bool = True,
) -> Comparison:
    """Average the test accuracies of one cell and set them beside the published ones.

    Args:
        keys: what the cell is about.
        records: of this cell and no other.
        published: as fractions; null where the paper has no figure.
        wanted: trials asked for.
        built: whether the method exists here.
    """
    chosen = distinct_trials(records)
    measured = summarise([record.metrics["test_accuracy"] for record in chosen])
    p_value = None
    if not built:
        said = Verdict.NOT_BUILT
    elif published is None:
        said = Verdict.UNPUBLISHED
    else:
        said, p_value = verdict(measured, published)
    return Comparison(
        keys={**keys, "quantity": "test_accuracy"},
        measured=measured,
        published=published,
        wanted=wanted,
        verdict=said,
        p_value=p_value,
        records=tuple(record.id for record in chosen),
    )


def compare_fact(
    keys: Mapping[str, Any],
    values: Mapping[str, int | str | None],
    published: int | str | None,
    *,
    aliases: Mapping[Any, int | str],
) -> Comparison:
    """Set a setting that runs recorded beside the published one.

    Args:
        keys: what the cell is about.
        values: the setting by record id; null where a record does not say.
        published: as printed; null where the paper does not say.
        aliases: our names by the paper's.
    """
    known = {run: value for run, value in values.items() if value is not None}
    distinct = sorted(set(known.values()), key=str)
    measured = distinct[0] if len(distinct) == 1 else ", ".join(map(str, distinct)) or None
    if published is None:
        said = Verdict.UNPUBLISHED
    elif measured is None:
        said = Verdict.TOO_FEW
    else:
        same = measured == aliases.get(published, published)
        said = Verdict.AGREES if same else Verdict.DIFFERS
    return Comparison(
        keys=keys,
        measured=measured,
        published=published,
        wanted=1,
        verdict=said,
        records=tuple(known),
    )


def comparison_block(
    title: str,
    cells: Sequence[Comparison],
    keys: Sequence[str],
    labels: Mapping[Any, str],
) -> Block:
    """Measured, published, difference and verdict, one cell a row.

    Args:
        title: of the block.
        cells: the rows.
        keys: which of the cells' keys name a row.
        labels: how to print a key's value, where not as it is.
    """
    columns = (*keys, "measured", "published", "diff", "verdict")
    rows = [
        (
            *(labels.get(cell.keys[key], str(cell.keys[key])) for key in keys),
            show_measured(cell),
            show_figure(cell.published),
            _show_difference(cell),
            _show_verdict(cell),
        )
        for cell in cells
    ]
    return Block(title=title, columns=columns, rows=tuple(rows), keys=len(keys), cells=tuple(cells))


def matrix_block(
    title: str,
    cells: Sequence[Comparison],
    row: str,
    column: str,
    labels: Mapping[Any, str],
) -> Block:
    """The measured figures alone, in the paper's shape: one key down, another across."""
    down = list(dict.fromkeys(cell.keys[row] for cell in cells))
    across = list(dict.fromkeys(cell.keys[column] for cell in cells))
    text = {(cell.keys[row], cell.keys[column]): show_measured(cell) for cell in cells}
    shown = {key: text.get(key, DASH) for key in product(down, across)}
    return Block(
        title=title,
        columns=(row, *(labels.get(key, str(key)) for key in across)),
        rows=tuple((labels.get(r, str(r)), *(shown[r, c] for c in across)) for r in down),
        keys=1,
    )


def show_measured(cell: Comparison) -> str:
    """``96.87±0.02 (5)``, or ``(3 of 5)`` when trials are lacking, or a dash."""
    if isinstance(cell.measured, Summary) and cell.measured.n < cell.wanted:
        return f"{_show_mean(cell.measured)} ({cell.measured.n} of {cell.wanted})"
    return show_figure(cell.measured)


def show_figure(figure: Figure | None) -> str:
    """Percent with two decimals, spread and number of trials; other figures as they are."""
    if figure is None:
        return DASH
    if isinstance(figure, Summary):
        return f"{_show_mean(figure)} ({figure.n})"
    return str(figure)


def _show_mean(summary: Summary) -> str:
    spread = "" if summary.std is None else f"±{100 * summary.std:.2f}"
    return f"{100 * summary.mean:.2f}{spread}"


def _show_difference(cell: Comparison) -> str:
    if cell.difference is None:
        return DASH
    if isinstance(cell.measured, Summary):
        return f"{100 * cell.difference:+.2f}"
    return f"{cell.difference:+g}"


def _show_verdict(cell: Comparison) -> str:
    if cell.p_value is None:
        return cell.verdict.value
    p_value = f"p={cell.p_value:.3f}" if cell.p_value >= 0.001 else "p<0.001"
    return f"{cell.verdict.value} ({p_value})"


def _plain(figure: Figure | None) -> Any:
    """Without the noise of binary arithmetic; the tenth decimal is far below one image."""
    if isinstance(figure, Summary):
        std = None if figure.std is None else round(figure.std, 10)
        return {"mean": round(figure.mean, 10), "std": std, "n": figure.n}
    return figure
