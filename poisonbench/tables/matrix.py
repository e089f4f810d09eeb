"""The matrix: every attack against every defense on one data set. Nothing of it is published.

Each untargeted attack poisons alone, and in the mix; targeted attacks stand in a grid of their own,
of targets hit. The grid ends with what one chooses a defense by: its worst case, what it loses on
clean data, and its seconds. No torch here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

from poisonbench import registry
from poisonbench.results.records import RunRecord
from poisonbench.results.statistics import Proportion, Summary
from poisonbench.tables.cells import (
    SAMPLE_DATASET,
    TARGETED_SAMPLE,
    Cell,
    device_of,
    is_run_on,
    is_timed,
)
from poisonbench.tables.comparisons import Block, Comparison, interval
from poisonbench.tables.layout import DASH, show_number
from poisonbench.tables.measured import average_diagnostic, compare_accuracy, compare_success
from poisonbench.tables.paper_table import PaperTable, Records, dataset_title, method_labels
from poisonbench.tables.table3 import find_row, make_cell

#: Poisoned shares of the training images; the worst case is of the first.
RHOS = (1.0, 0.6)

#: Trials of each cell, of which there are many.
TRIALS = 3

#: The row without poison.
CLEAN = "clean"

#: Averages the runs of one cell, given its keys.
Metric = Callable[[Mapping[str, Any], Sequence[RunRecord]], Comparison]


def last_accuracy(keys: Mapping[str, Any], runs: Sequence[RunRecord]) -> Comparison:
    """Test accuracy of the weights after the last epoch, the rule of all tables."""
    return compare_accuracy(keys, runs, None, trials=TRIALS)


def diagnostic(name: str, keys: Mapping[str, Any], runs: Sequence[RunRecord]) -> Comparison:
    """An accuracy of the runs that have it beside the test accuracy."""
    return average_diagnostic(keys, runs, name) or last_accuracy(keys, ())


@dataclass(frozen=True)
class _Row:
    """One row of the grid: what its runs trained on."""

    label: str
    rho: float
    cells: Mapping[str, Comparison]


def _cells(dataset: str, methods: Sequence[str], records: Records) -> list[Cell]:
    """The cells of all attacks and of the defenses that are told nothing, in their order."""
    attacks, defenses = registry.attacks(), registry.defenses()
    alone = [
        (name,) for name, entry in attacks.items() if not (entry.scenario or entry.has_trigger)
    ]
    poisons = [(1.0, names) for names in (*alone, registry.MIX)]
    poisons += [(rho, names) for rho in RHOS[1:] for _, names in poisons]
    targeted = [name for name, entry in attacks.items() if entry.scenario]
    # Each sample is for one kind of attacks.
    poisons = [] if dataset == TARGETED_SAMPLE else [(0.0, registry.MIX), *poisons]
    targeted = [] if dataset == SAMPLE_DATASET else targeted
    columns = dict.fromkeys(["none", *defenses])
    return [
        cell
        for method in columns
        if not defenses[method].oracle
        for cell in (
            *(untargeted_cell(dataset, method, rho, names) for rho, names in poisons),
            *(make_cell(dataset, find_row(dataset, name), method) for name in targeted),
        )
    ]


def untargeted_cell(dataset: str, method: str, rho: float, attacks: tuple[str, ...]) -> Cell:
    """The runs under a defense on poison of attacks in a share rho, 0 for clean data."""
    label = "mix" if attacks == registry.MIX else registry.attacks()[attacks[0]].title
    label += f", rho {rho:g}" if rho not in (0, RHOS[0]) else ""
    names = {"attack": CLEAN if rho == 0 else label}
    return Cell(
        dataset=dataset, method=method, rho=rho, names=names, attacks=attacks, trials=TRIALS
    )


def _blocks(metric: Metric, dataset: str, cells: Sequence[Cell], records: Records) -> list[Block]:
    runs = {cell: cell.select(records) for cell in cells}
    used = [cell for cell in cells if runs[cell]]
    title = dataset_title(dataset)
    blocks = []
    if untargeted := [cell for cell in used if cell.scenario is None]:
        shown = {cell: metric(cell.keys, runs[cell]) for cell in untargeted}
        blocks.append(_grid(f"{title}: test accuracy, %", shown, records))
    if targeted := [cell for cell in used if cell.scenario is not None]:
        shown = {
            cell: compare_success(
                {**cell.keys, "quantity": "attack_success"}, runs[cell], None, trials=cell.trials
            )
            for cell in targeted
        }
        blocks.append(_grid(f"{title}: targets hit", shown, ()))
    return blocks


def _grid(title: str, shown: Mapping[Cell, Comparison], records: Records) -> Block:
    """One row an attack, one column a defense that has runs, and the rows to choose by."""
    labels = method_labels()
    columns = dict.fromkeys(cell.method for cell in shown)
    rows: dict[str, _Row] = {}
    for cell, figure in shown.items():
        label = str(cell.names["attack"])
        if cell.scenario is not None:
            label = f"{registry.attacks()[label].title} ({cell.names['scenario']})"
        row = rows.setdefault(label, _Row(label, cell.rho, {}))
        rows[label] = replace(row, cells={**row.cells, cell.method: figure})
    ordered = sorted(rows.values(), key=lambda row: -1 if row.rho == 0 else -row.rho)
    lines = [(row.label, *(_text(row.cells.get(method)) for method in columns)) for row in ordered]
    ends = _ends(ordered, list(columns), shown, records) if records else []
    return Block(
        title=title,
        columns=("trained on", *(labels.get(method, method) for method in columns)),
        rows=(*lines, *ends),
        keys=1,
        cells=tuple(shown.values()),
        strong=frozenset(range(len(lines), len(lines) + 1)) if ends else frozenset(),
    )


def _text(figure: Comparison | None) -> str:
    """``73.54 [61.2, 85.9] (5)``: mean, interval, trials; or targets hit of trials."""
    if figure is None or not isinstance(figure.measured, Summary | Proportion):
        return DASH
    ends = interval(figure.measured)
    shown = "" if ends is None else " [{:.1f}, {:.1f}]".format(*(100 * _share(x) for x in ends))
    if isinstance(figure.measured, Proportion):
        return f"{figure.measured.successes}/{figure.measured.trials}{shown}"
    return f"{show_number(figure.measured.mean, 'fraction')}{shown} ({len(figure.records)})"


def _share(value: float) -> float:
    """An end of a mean's interval, which knows nothing of where shares end."""
    return min(1.0, max(0.0, value))


def _ends(
    rows: Sequence[_Row],
    methods: Sequence[str],
    shown: Mapping[Cell, Comparison],
    records: Records,
) -> list[tuple[str, ...]]:
    """The rows below: of each defense the worst case, the loss on clean data, seconds."""
    clean = next((row.cells for row in rows if row.rho == 0), {})
    plain = clean.get("none")
    worst, lost, seconds = ["worst at rho 1"], ["lost on clean data, points"], ["seconds a run"]
    attacked = [row for row in rows if row.rho == RHOS[0]]
    for method in methods:
        own = [(_mean(row.cells[method]), row.label) for row in attacked if method in row.cells]
        low, label = min(own, default=(0.0, ""))
        of = "" if len(own) == len(attacked) else f", {len(own)} of {len(attacked)}"
        worst.append(f"{show_number(low, 'fraction')} ({label}{of})" if own else DASH)
        both = plain is not None and method in clean
        difference = _mean(plain) - _mean(clean[method]) if plain is not None and both else None
        lost.append(show_number(difference, "fraction"))
        ids = {name for cell, fig in shown.items() if cell.method == method for name in fig.records}
        seconds.append(_seconds([run for run in records if run.id in ids]))
    return [tuple(worst), tuple(lost), tuple(seconds)]


def _mean(figure: Comparison) -> float:
    return figure.measured.mean if isinstance(figure.measured, Summary) else 0.0


def _seconds(runs: Sequence[RunRecord]) -> str:
    """The mean of the runs of the device that has most of them; those of another do not compare."""
    by_device: dict[str | None, list[float]] = {}
    for run in filter(is_timed, runs):
        by_device.setdefault(device_of(run), []).append(run.cost.seconds.total)
    most = max(by_device.values(), key=len, default=[])
    return show_number(fmean(most) if most else None, "seconds")


def _notes(cells: Sequence[Cell], records: Records) -> list[str]:
    datasets = {cell.dataset for cell in cells}
    devices = {
        device_of(run)
        for run in records
        if is_timed(run) and any(is_run_on(run, name) for name in datasets)
    }
    several = ["Seconds of several devices: each is of the one with most runs."]
    return several if len(devices) > 1 else []


def table_of(what: str, metric: Metric) -> PaperTable:
    """The matrix by one metric; ``what`` says which in its title."""
    return PaperTable(
        title=f"attacks against defenses, each alone, {what}",
        cells=_cells,
        blocks=partial(_blocks, metric),
        remark="Mean [95 % interval] (runs), or targets hit; worst: lowest mean: docs/tables.md.",
        notes=_notes,
        datasets=(),
        is_targeted=None,
        is_of_mix=False,
        is_published=False,
        takes_any=True,
    )


#: By the word of ``report --metric``.
METRICS = {
    "last": table_of("after the last epoch", last_accuracy),
    "peak": table_of(
        "after the epoch of the highest validation accuracy", partial(diagnostic, "peak_accuracy")
    ),
    "batch-norm": table_of(
        "by the test batches' statistics", partial(diagnostic, "batch_statistics_accuracy")
    ),
}
