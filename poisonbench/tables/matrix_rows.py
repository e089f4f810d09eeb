"""Rows and columns of the matrix, and the worst of a column. No torch here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from poisonbench import registry
from poisonbench.results.records import RunRecord
from poisonbench.results.statistics import Proportion, Summary
from poisonbench.tables.cells import Cell, Draw, Poisons, draw_of
from poisonbench.tables.comparisons import Comparison
from poisonbench.tables.layout import DASH
from poisonbench.tables.matrix_cells import against_text
from poisonbench.tables.paper_table import Records


@dataclass(frozen=True)
class Row:
    """One row of the grid: what its runs trained on.

    Attributes:
        label: its first cell.
        rho: the share of the images that is poisoned.
        is_variant: whether the poison is adaptive, or a form of an attack.
        cells: the figures by column.
    """

    label: str
    rho: float
    is_variant: bool
    cells: Mapping[str, Comparison]


def row_of(cell: Cell) -> str:
    """The row that a cell is in."""
    name = str(cell.names["attack"])
    if cell.scenario is None:
        return name
    label = f"{registry.attacks()[name].title} ({cell.names['scenario']})"
    return label if cell.against is None else f"{label}{against_text(cell.against)}"


def column_of(cell: Cell) -> str:
    """The column that a cell is in."""
    return registry.label_of(cell.method, cell.overrides.get)


def has_trigger(cell: Cell) -> bool:
    """Whether its poison has a trigger."""
    return registry.attacks()[cell.attacks[0]].has_trigger


def rows_of(shown: Mapping[Cell, Comparison], order: Sequence[str]) -> list[Row]:
    """The rows that have runs, in order of their labels, with the figures that are known."""
    rows: dict[str, Row] = {}
    for cell, figure in shown.items():
        label = row_of(cell)
        row = rows.setdefault(label, Row(label, cell.rho, bool(cell.poison_variant), {}))
        own = {} if figure.measured is None else {column_of(cell): figure}
        rows[label] = replace(row, cells={**row.cells, **own})
    return [rows[label] for label in order if label in rows]


def common_poisons(cells: Sequence[Cell], records: Records) -> Mapping[str, Poisons]:
    """By row the poison of each draw on which most of its columns have runs.

    Of as many the one with the run finished last. Where a column has runs on several poisons of a
    draw, those on this one compare with the other columns'.
    """
    runs: dict[tuple[str, Draw], list[tuple[str, RunRecord]]] = {}
    for cell in cells:
        for run in cell.current(records):
            runs.setdefault((row_of(cell), draw_of(run)), []).append((column_of(cell), run))
    common: dict[str, dict[Draw, str | None]] = {}
    for (row, draw), in_columns in runs.items():
        on: dict[str | None, list[tuple[str, RunRecord]]] = {}
        for column, run in in_columns:
            on.setdefault(run.spec.poison_digest, []).append((column, run))
        common.setdefault(row, {})[draw] = max(on, key=lambda digest: _use(on[digest]))
    return common


def _use(runs: Sequence[tuple[str, RunRecord]]) -> tuple[int, str]:
    """In how many columns runs are, and when the last of them finished."""
    return len({column for column, _ in runs}), max(run.environment.finished for _, run in runs)


def worst_of(
    rows: Sequence[Row],
    column: str,
    badness: Callable[[Comparison], float],
    show: Callable[[Comparison], str],
) -> str:
    """The worst of a column, of which row, and of how many attacks where some have no run.

    It may be of an adaptive poison; how many attacks there are counts plain ones.

    Args:
        rows: those that it is the worst of.
        column: by its title.
        badness: larger is worse.
        show: a figure as text.
    """
    own = [row for row in rows if column in row.cells]
    if not own:
        return DASH
    worst = max(own, key=lambda row: badness(row.cells[column]))
    plain = [row for row in rows if not row.is_variant]
    ran = sum(column in row.cells for row in plain)
    of = "" if ran == len(plain) else f", {ran} of {len(plain)}"
    return f"{show(worst.cells[column])} ({worst.label}{of})"


def value_of(figure: Comparison) -> float:
    """A mean, or a share."""
    measured = figure.measured
    if isinstance(measured, Proportion):
        return measured.rate
    return measured.mean if isinstance(measured, Summary) else 0.0
