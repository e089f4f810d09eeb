"""The matrix: every attack against every defense on one data set. Nothing of it is published.

Each untargeted attack poisons alone, as it is and as it was crafted against a defense, and in the
mix. Targeted attacks stand in a grid of their own, of targets hit, and triggers in one of attack
success and accuracy. Each ends with what one chooses a defense by: its worst case, what it loses on
clean data, and its seconds. No torch here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import Any

from poisonbench import registry
from poisonbench.results.records import RunRecord
from poisonbench.results.statistics import Proportion, Summary, wilson
from poisonbench.tables.cells import Cell, device_of, is_run_on, is_timed
from poisonbench.tables.comparisons import Block, Comparison
from poisonbench.tables.layout import DASH, show_measured, show_number
from poisonbench.tables.matrix_cells import RHOS, TRIALS, cells_of
from poisonbench.tables.matrix_rows import (
    column_of,
    common_poisons,
    has_trigger,
    row_of,
    rows_of,
    value_of,
    worst_of,
)
from poisonbench.tables.measured import (
    average_diagnostic,
    average_trigger_success,
    compare_accuracy,
    compare_success,
)
from poisonbench.tables.paper_table import PaperTable, Records, dataset_title

#: The runs that each cell shows.
Runs = Mapping[Cell, Sequence[RunRecord]]

#: Averages the runs of one cell, given its keys.
Metric = Callable[[Mapping[str, Any], Sequence[RunRecord]], Comparison]


def last_accuracy(keys: Mapping[str, Any], runs: Sequence[RunRecord]) -> Comparison:
    """Test accuracy of the weights after the last epoch, the rule of all tables."""
    return _over_images(compare_accuracy(keys, runs, None, trials=TRIALS), runs)


def diagnostic(name: str, keys: Mapping[str, Any], runs: Sequence[RunRecord]) -> Comparison:
    """An accuracy of the runs that have it beside the test accuracy."""
    figure = average_diagnostic(keys, runs, name)
    return last_accuracy(keys, ()) if figure is None else _over_images(figure, runs)


def _over_images(figure: Comparison, runs: Sequence[RunRecord]) -> Comparison:
    """The same; of a single run, as of its success, with an interval over its test images."""
    images = [run.labels.sizes.test for run in runs if run.id in figure.records]
    if len(images) != 1:
        return figure
    return replace(figure, over_images=wilson(round(value_of(figure) * images[0]), images[0]))


def _is_control(cell: Cell) -> bool:
    """Whether its trigger is shown to a network that has seen no poison."""
    return bool(cell.overrides.get(f"{cell.attacks[0]}.control"))


def _blocks(metric: Metric, dataset: str, cells: Sequence[Cell], records: Records) -> list[Block]:
    common = common_poisons(cells, records)
    runs = {cell: own for cell in cells if (own := cell.select(records, common.get(row_of(cell))))}
    order = list(dict.fromkeys(map(row_of, cells)))
    title = dataset_title(dataset)
    blocks = []
    if untargeted := [cell for cell in runs if cell.scenario is None and not has_trigger(cell)]:
        shown = {cell: metric(cell.keys, runs[cell]) for cell in untargeted}
        blocks.append(_accuracy_grid(title, shown, order, runs))
    # Success is known of the last weights alone.
    if metric is not last_accuracy:
        return blocks
    if targeted := [cell for cell in runs if cell.scenario is not None]:
        shown = {
            cell: compare_success(
                {**cell.keys, "quantity": "attack_success"}, runs[cell], None, trials=cell.trials
            )
            for cell in targeted
        }
        blocks.append(_targets_grid(title, shown, order, runs))
    if triggered := [cell for cell in runs if has_trigger(cell)]:
        columns = set(map(column_of, triggered))
        clean = [cell for cell in runs if not cell.rho and column_of(cell) in columns]
        beside = {cell: metric(cell.keys, runs[cell]) for cell in (*clean, *triggered)}
        rates = {cell: average_trigger_success(cell.keys, runs[cell]) for cell in triggered}
        blocks.append(_trigger_grid(title, beside, rates, runs))
    return blocks


def _accuracy_grid(
    title: str, shown: Mapping[Cell, Comparison], order: Sequence[str], runs: Runs
) -> Block:
    """Accuracy by attack and defense; the worst case is the lowest at the first ratio."""
    columns = list(dict.fromkeys(map(column_of, shown)))
    rows = rows_of(shown, order)
    lines = [(row.label, *(_text(row.cells.get(column)) for column in columns)) for row in rows]
    attacked = [row for row in rows if row.rho == RHOS[0]]
    worst = [worst_of(attacked, column, lambda cell: -value_of(cell), _short) for column in columns]
    clean = next((row.cells for row in rows if row.rho == 0), {})
    return Block(
        title=f"{title}: test accuracy, %",
        columns=("trained on", *columns),
        rows=(
            *lines,
            ("worst at rho 1", *worst),
            ("lost on clean data, points", *_lost([clean], columns)),
            *_seconds(columns, shown, runs),
        ),
        keys=1,
        cells=tuple(shown.values()),
        strong=frozenset({len(lines)}),
        summaries=4,
    )


def _targets_grid(
    title: str, shown: Mapping[Cell, Comparison], order: Sequence[str], runs: Runs
) -> Block:
    """Targets hit by attack and defense; the worst case is what at least so many are hit by.

    That is the highest lower end of an interval, so that one target of one is no worst case.
    Targeted poisons leave accuracy alone, so that what a defense loses on clean data is seen in
    the runs on them, attack by attack.
    """
    columns = list(dict.fromkeys(map(column_of, shown)))
    rows = rows_of(shown, order)
    lines = [(row.label, *(_text(row.cells.get(column)) for column in columns)) for row in rows]
    accuracies = rows_of({cell: last_accuracy(cell.keys, runs[cell]) for cell in shown}, order)
    worst = [worst_of(rows, column, _least_hit, _short) for column in columns]
    return Block(
        title=f"{title}: targets hit",
        columns=("trained on", *columns),
        rows=(
            *lines,
            ("worst", *worst),
            ("accuracy lost, points", *_lost([row.cells for row in accuracies], columns)),
            *_seconds(columns, shown, runs),
        ),
        keys=1,
        cells=tuple(shown.values()),
        strong=frozenset({len(lines)}),
        summaries=4,
    )


def _trigger_grid(
    title: str,
    accuracies: Mapping[Cell, Comparison],
    rates: Mapping[Cell, Comparison | None],
    runs: Runs,
) -> Block:
    """Of each trigger two rows, attack success and accuracy; that without poison comes first."""
    columns = list(dict.fromkeys(map(column_of, accuracies)))
    lines: dict[str, dict[str, str]] = {}
    for cell, figure in accuracies.items():
        label = row_of(cell)
        if (rate := rates.get(cell)) is not None:
            lines.setdefault(f"{label}: success", {})[column_of(cell)] = _text(rate, is_share=True)
        lines.setdefault(f"{label}: accuracy", {})[column_of(cell)] = _text(figure)
    poisoned = {
        cell: rate for cell, rate in rates.items() if rate is not None and not _is_control(cell)
    }
    attacked = rows_of(poisoned, list(dict.fromkeys(map(row_of, poisoned))))
    show = partial(_short, is_share=True)
    worst = [worst_of(attacked, column, value_of, show) for column in columns]
    clean = {column_of(cell): figure for cell, figure in accuracies.items() if not cell.rho}
    shown = [figure for figure in (*accuracies.values(), *rates.values()) if figure is not None]
    return Block(
        title=f"{title}: success of triggers and test accuracy, %",
        columns=("trained on", *columns),
        rows=(
            *((label, *(row.get(name, DASH) for name in columns)) for label, row in lines.items()),
            ("worst success", *worst),
            ("lost on clean data, points", *_lost([clean], columns)),
            *_seconds(columns, accuracies, runs),
        ),
        keys=1,
        cells=tuple(shown),
        strong=frozenset({len(lines)}),
        summaries=4,
    )


def _text(figure: Comparison | None, *, is_share: bool = False) -> str:
    """``73.54 [61.17, 85.91] (5)``: mean, interval, trials; or targets hit, ``4/5 [37.6, 96.4]``.

    A share of one run's images is shown as such a mean.
    """
    if figure is None or not isinstance(figure.measured, Summary | Proportion):
        return DASH
    if isinstance(figure.measured, Proportion) and not is_share:
        return show_measured(figure)
    ends = ", ".join(show_number(_share(end), "fraction") for end in figure.ends or ())
    shown = f" [{ends}]" if ends else ""
    return f"{_short(figure, is_share=is_share)}{shown} ({len(figure.records)})"


def _short(figure: Comparison, *, is_share: bool = False) -> str:
    """``73.54``, or ``12/20`` targets."""
    if isinstance(figure.measured, Proportion) and not is_share:
        return f"{figure.measured.successes}/{figure.measured.trials}"
    return show_number(value_of(figure), "fraction")


def _share(value: float) -> float:
    """An end of a mean's interval, which knows nothing of where shares end."""
    return min(1.0, max(0.0, value))


def _lost(rows: Sequence[Mapping[str, Comparison]], columns: Sequence[str]) -> list[str]:
    """What plain training has over each column, in points: the mean of the rows that both have."""
    plain = registry.defenses()["none"].title
    lost = []
    for column in columns:
        differences = [
            value_of(row[plain]) - value_of(row[column])
            for row in rows
            if plain in row and column in row
        ]
        lost.append(show_number(fmean(differences) if differences else None, "fraction"))
    return lost


def _seconds(
    columns: Sequence[str], cells: Iterable[Cell], runs: Runs
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Two rows, of the quickest run and of the mean, over the same runs.

    The mean is what the runs took here; as what runs beside one only adds seconds, defenses are
    better compared by the quickest.
    """
    timed = _timed(columns, cells, runs)
    rows = {
        "seconds, quickest run": [min(own, default=None) for own in timed],
        "seconds, mean": [fmean(own) if own else None for own in timed],
    }
    quickest, mean = (
        (label, *(show_number(figure, "seconds") for figure in figures))
        for label, figures in rows.items()
    )
    return quickest, mean


def _timed(columns: Sequence[str], cells: Iterable[Cell], runs: Runs) -> list[list[float]]:
    """Of each column the seconds of its runs on one device.

    The device is that on which most of the columns have runs, and most runs; a column that has none
    on it has those of the device that has most of its own.
    """
    own: list[dict[str | None, list[float]]] = []
    for column in columns:
        by_device: dict[str | None, list[float]] = {}
        held = {run.id: run for cell in cells if column_of(cell) == column for run in runs[cell]}
        for run in filter(is_timed, held.values()):
            by_device.setdefault(device_of(run), []).append(run.cost.seconds.total)
        own.append(by_device)
    devices = list(dict.fromkeys(device for by_device in own for device in by_device))

    def use(device: str | None) -> tuple[int, int]:
        counts = [len(by_device.get(device, ())) for by_device in own]
        return sum(map(bool, counts)), sum(counts)

    common = max(devices, key=use, default=None)
    return [
        by_device.get(common) or max(by_device.values(), key=len, default=[]) for by_device in own
    ]


def _least_hit(figure: Comparison) -> float:
    """The lower end of the interval of a share of targets."""
    ends = figure.ends if isinstance(figure.measured, Proportion) else None
    return value_of(figure) if ends is None else ends[0]


def _notes(cells: Sequence[Cell], records: Records) -> list[str]:
    datasets = {cell.dataset for cell in cells}
    devices = {
        device_of(run)
        for run in records
        if is_timed(run) and any(is_run_on(run, name) for name in datasets)
    }
    several = [
        "Of several devices: seconds are one's, where a column has runs on it (docs/tables.md)."
    ]
    return several if len(devices) > 1 else []


def table_of(what: str, metric: Metric) -> PaperTable:
    """The matrix by one metric; ``what`` says which in its title."""
    return PaperTable(
        title=f"attacks against defenses, each alone, {what}",
        cells=cells_of,
        blocks=partial(_blocks, metric),
        remark="Mean [95 % interval] (runs), or targets hit: docs/tables.md. Pairs: --metric gain.",
        notes=_notes,
        datasets=(),
        is_targeted=None,
        is_of_mix=False,
        is_published=False,
        takes_any=True,
        has_triggers=True,
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
