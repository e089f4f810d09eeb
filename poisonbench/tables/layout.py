"""Comparisons and findings as grids of text, before any format. No torch here."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from typing import Any

from poisonbench.results.statistics import Proportion, Summary
from poisonbench.tables.comparisons import (
    Block,
    Comparison,
    Finding,
    Judged,
    Statistic,
    Unit,
    interval,
)

#: Where there is nothing to show.
DASH = "-"

#: The columns about a judged difference, besides itself and the verdict.
INTERVAL = "95 % interval"
RESTS_ON = "rests on"
DETECTABLE = "detectable with power 0.8 or more"

#: What differences are in, by the unit of the values.
_DIFFERENCES_IN: dict[Unit, str] = {"fraction": ", points", "seconds": ", s"}

#: How a unit is printed: times this, with so many decimals. Fractions are printed in percent.
_PRINTED: dict[Unit, tuple[float, int]] = {
    "fraction": (100, 2),
    "ratio": (1, 2),
    "seconds": (1, 1),
    "count": (1, 1),
    "grey levels": (1, 2),
}


def comparison_block(
    title: str,
    cells: Sequence[Comparison],
    keys: Sequence[str],
    labels: Mapping[Any, str],
    beside: Mapping[str, Sequence[Comparison]] | None = None,
) -> Block:
    """Lay cells out, one a row: measured, published, difference, verdict and what is behind it.

    Rows without values are left out, and so is what is behind verdicts where nothing was judged.

    Args:
        title: of the block.
        cells: the rows.
        keys: which of the cells' keys name a row.
        labels: how to print a key's value, where not as it is.
        beside: further measured values by column, one for each of the cells.
    """
    further = beside or {}
    is_judged = any(cell.judgement.basis.seeds for cell in cells)
    is_number = any(isinstance(cell.measured, Summary | Proportion) for cell in cells)
    names = difference_columns("diff", cells[0].unit if is_number else "count", is_judged)
    shown = [
        (index, cell)
        for index, cell in enumerate(cells)
        if cell.measured is not None or cell.published is not None
    ]
    rows = [
        (
            *(labels.get(cell.keys[key], str(cell.keys[key])) for key in keys),
            show_measured(cell),
            *(show_measured(others[index]) for others in further.values()),
            _show_value(cell.published, cell.unit),
            *show_judgement(cell, is_judged),
        )
        for index, cell in shown
    ]
    return Block(
        title=title,
        columns=(*keys, "measured", *further, "published", *names),
        rows=tuple(rows),
        keys=len(keys),
        dispensable=(*names[:2:-1], "published", *further, "measured") if is_judged else names[:1],
        cells=(*cells, *(cell for others in further.values() for cell in others)),
        judged=tuple(cell for _, cell in shown),
    )


def matrix_block(
    title: str,
    cells: Sequence[Comparison],
    row: str,
    column: str,
    labels: Mapping[Any, str],
) -> Block:
    """Lay the measured values out in the paper's shape: one key down, another across."""
    down = list(dict.fromkeys(cell.keys[row] for cell in cells))
    across = list(dict.fromkeys(cell.keys[column] for cell in cells))
    text = {(cell.keys[row], cell.keys[column]): show_measured(cell) for cell in cells}
    grid = {key: text.get(key, DASH) for key in product(down, across)}
    return Block(
        title=title,
        columns=(row, *(labels.get(key, str(key)) for key in across)),
        rows=tuple((labels.get(r, str(r)), *(grid[r, c] for c in across)) for r in down),
        keys=1,
    )


def claims_block(title: str, findings: Sequence[Finding]) -> Block:
    """Lay claims out, one a row: the trials, the effect, the verdict and what is behind it.

    Trials of which some are lacking are ``1 of 10``.
    """
    devices = {finding.keys.get("device") for finding in findings}
    hidden = {"dataset"} | ({"device"} if len(devices) == 1 else set())
    names = [name for name in findings[0].keys if name not in hidden]
    is_judged = any(finding.trials for finding in findings)
    judged = difference_columns("effect", findings[0].unit, is_judged)
    bears_out = {True: "yes", False: "no", None: DASH}
    rows = [
        (
            finding.claim,
            *(DASH if finding.keys[name] is None else str(finding.keys[name]) for name in names),
            bears_out[finding.bears_out],
            str(finding.trials)
            if finding.trials >= finding.planned
            else f"{finding.trials} of {finding.planned}",
            finding.standing.value,
            *show_judgement(finding, is_judged),
        )
        for finding in findings
    ]
    return Block(
        title=title,
        columns=("claim", *names, "paper", "trials", "standing", *judged),
        rows=tuple(rows),
        keys=1 + len(names),
        dispensable=(*judged[:2:-1], "paper", "standing", "trials") if is_judged else (),
        findings=tuple(findings),
        judged=tuple(findings),
    )


def show_measured(cell: Comparison, *, is_short: bool = False) -> str:
    """Print a measured value: ``96.87±0.02 (5)``, or ``(3 of 5)`` where trials lack, or a dash.

    A mean over poisons is ``94.50±0.71 (2 poisons, 6 runs)``: each counts once.
    Shares are ``4/5 [37.6, 96.4]``: their trials can be seen, whether some are lacking or not.

    Args:
        cell: what to show.
        is_short: a mean without its spread and trials.
    """
    if is_short and isinstance(cell.measured, Summary):
        return _show_mean(replace(cell.measured, std=None), cell.unit)
    if isinstance(cell.measured, Summary):
        is_of_poisons = cell.keys.get("quantity") == "test_accuracy" and cell.measured.n < len(
            cell.records
        )
        runs = len(cell.records) if is_of_poisons else cell.measured.n
        counts = f"{runs} of {cell.trials}" if runs < cell.trials else str(runs)
        if is_of_poisons:
            counts = f"{cell.measured.n} poisons, {counts} runs"
        return f"{_show_mean(cell.measured, cell.unit)} ({counts})"
    return _show_value(cell.measured, cell.unit)


def _show_difference(cell: Comparison) -> str:
    """Print the difference, with the runs that it is of where more are shown."""
    if cell.difference is None:
        return DASH
    if isinstance(cell.measured, int):
        return f"{cell.difference:+g}"
    runs, judged = len(cell.records), cell.judged_runs
    first = f" (first {judged} of {runs})" if judged < runs else ""
    return show_number(cell.difference, cell.unit, "+") + first


def _show_value(value: Statistic | None, unit: Unit) -> str:
    """Print mean, spread and trials, fractions in percent; other values as they are."""
    if value is None:
        return DASH
    if isinstance(value, Proportion):
        ends = ", ".join(f"{100 * end:.1f}" for end in interval(value) or ())
        return f"{value.successes}/{value.trials}" + (f" [{ends}]" if ends else "")
    if isinstance(value, Summary):
        return f"{_show_mean(value, unit)} ({value.n})"
    return str(value)


def _show_mean(summary: Summary, unit: Unit) -> str:
    spread = "" if summary.std is None else f"±{show_number(summary.std, unit)}"
    return show_number(summary.mean, unit) + spread


def show_number(number: float | None, unit: Unit, sign: str = "") -> str:
    """Print a number in its unit, fractions in percent, never as minus zero; null as a dash."""
    factor, decimals = _PRINTED[unit]
    return DASH if number is None else f"{factor * number:{sign}z.{decimals}f}"


def difference_columns(name: str, unit: Unit, is_judged: bool) -> tuple[str, ...]:
    """Head the columns of :func:`show_judgement`: the difference, and the verdict of it."""
    of = _DIFFERENCES_IN.get(unit, "")
    if not is_judged:
        return name + of, "verdict"
    return name + of, INTERVAL, "verdict", RESTS_ON, DETECTABLE + of


def show_judgement(judged: Judged, is_judged: bool) -> tuple[str, ...]:
    """Print a difference and its verdict, with what is behind it where the block has that.

    That is its interval, what it rests on, and the smallest true difference that as many runs find
    four times of five.
    """
    judgement, unit = judged.judgement, judged.unit
    difference = show_number(judgement.effect, unit, "+")
    if isinstance(judged, Comparison):
        difference = _show_difference(judged)
    if not is_judged:
        return difference, judgement.verdict.value
    ends = ", ".join(show_number(end, unit) for end in judgement.interval or ())
    counts = asdict(judgement.basis)
    basis = [f"{n:,} {name if n > 1 else name[:-1]}" for name, n in counts.items() if n]
    text = ", ".join(basis) or DASH
    return (
        difference,
        f"[{ends}]" if ends else DASH,
        judgement.verdict.value,
        text.replace("1 poison,", "this poison alone,") if counts["poisons"] == 1 else text,
        show_number(judgement.detectable, unit),
    )
