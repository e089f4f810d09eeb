"""The matrix: every attack against every defense on one data set. Nothing of it is published.

Each untargeted attack poisons alone, as it is and as it was crafted against a defense, and in the
mix. Targeted attacks stand in a grid of their own, of targets hit, and triggers in one of attack
success and accuracy. The first grid ends with what one chooses a defense by: its worst case, what
it loses on clean data, and its seconds. No torch here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean
from typing import Any

from poisonbench import registry
from poisonbench.requests import Values
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
from poisonbench.tables.measured import (
    average_diagnostic,
    average_trigger_success,
    compare_accuracy,
    compare_success,
)
from poisonbench.tables.paper_table import PaperTable, Records, dataset_title
from poisonbench.tables.table3 import find_row, make_cell

#: Poisoned shares of the training images; the worst case is of the first.
RHOS = (1.0, 0.6)

#: That of triggers, plain and clean-label, which fits into one of ten classes.
TRIGGER_RHO = 0.05

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
    is_adaptive: bool
    cells: Mapping[str, Comparison]


@dataclass(frozen=True)
class _Poison:
    """One row's poison, apart from where it is used."""

    label: str
    rho: float
    attacks: tuple[str, ...]
    overrides: Values = field(default_factory=dict)


def _cells(dataset: str, methods: Sequence[str], records: Records) -> list[Cell]:
    """The cells of all attacks and of the defenses that are told nothing, in their order."""
    defenses = registry.defenses()
    # Each sample is for one kind of attacks.
    poisons = [] if dataset == TARGETED_SAMPLE else [*_untargeted(), *_triggers()]
    controls = [] if dataset == TARGETED_SAMPLE else _controls()
    has_targets = dataset != SAMPLE_DATASET
    columns = dict.fromkeys(["none", *defenses])
    cells: list[Cell] = []
    for method in columns:
        if defenses[method].oracle:
            continue
        every = [
            *(_cell(dataset, method, poison) for poison in poisons),
            *(_cell(dataset, method, poison) for poison in (controls if method == "none" else ())),
            *(_targeted(dataset, method) if has_targets else ()),
        ]
        own = list(filter(_is_possible, every))
        cells += [*own, *_forms(method, own)]
    return cells


def _is_possible(cell: Cell) -> bool:
    """Whether there is something for the defense to act on: colours, a pretraining."""
    entry = registry.defenses()[cell.method]
    data = registry.datasets().get(cell.dataset.partition(":")[0].partition("@")[0])
    is_grey = data is not None and data.presets[:1] == ("mnist",)
    is_pretrained = cell.scenario in ("transfer", "finetune")
    return not (entry.colour_only and is_grey) and (is_pretrained or not entry.pretrains)


def _forms(method: str, cells: Sequence[Cell]) -> Iterator[Cell]:
    """The cells of a defense once more in each form of it that has a name of its own."""
    for setting, labels in registry.defenses()[method].labels.items():
        for value in labels:
            for cell in cells:
                yield replace(
                    cell,
                    overrides={**cell.overrides, setting: value},
                    names={**cell.names, "form": str(value)},
                    form=str(value),
                )


def untargeted_cell(dataset: str, method: str, rho: float, attacks: tuple[str, ...]) -> Cell:
    """The runs under a defense on poison of attacks in a share rho, 0 for clean data."""
    label = "mix" if attacks == registry.MIX else registry.attacks()[attacks[0]].title
    label += f", rho {rho:g}" if rho not in (0, RHOS[0]) else ""
    return _cell(dataset, method, _Poison(CLEAN if rho == 0 else label, rho, attacks))


def _untargeted() -> Iterator[_Poison]:
    """Clean data, then by ratio each attack, and as it was crafted against defenses; the mix."""
    yield _Poison(CLEAN, 0.0, registry.MIX)
    for rho in RHOS:
        more = f", rho {rho:g}" if rho != RHOS[0] else ""
        for name, entry in registry.attacks().items():
            if entry.scenario or entry.has_trigger:
                continue
            yield _Poison(entry.title + more, rho, (name,))
            for against in entry.against if rho == RHOS[0] else ():
                label = entry.title + _against(against)
                yield _Poison(label, rho, (name,), {f"{name}.against": against})
        yield _Poison(f"mix{more}", rho, registry.MIX)


def _triggers() -> Iterator[_Poison]:
    """Each attack with a trigger, labels changed or not."""
    for name, entry in registry.attacks().items():
        if entry.has_trigger and entry.keeps_labels:
            yield _Poison(f"{entry.title}, clean label", TRIGGER_RHO, (name,))
        elif entry.has_trigger:
            yield _Poison(f"{entry.title}, dirty label", TRIGGER_RHO, (name,))
            overrides = {f"{name}.clean_label": True}
            yield _Poison(f"{entry.title}, clean label", TRIGGER_RHO, (name,), overrides)


def _controls() -> list[_Poison]:
    """Each trigger, shown to a network that has seen no poison."""
    return [
        _Poison(f"{entry.title}, no poison", TRIGGER_RHO, (name,), {f"{name}.control": True})
        for name, entry in registry.attacks().items()
        if entry.has_trigger
    ]


def _targeted(dataset: str, method: str) -> Iterator[Cell]:
    """Each targeted attack, and as it was crafted against defenses."""
    for name, entry in registry.attacks().items():
        if not entry.scenario:
            continue
        row = find_row(dataset, name)
        yield (plain := make_cell(dataset, row, method))
        for against in entry.against:
            overrides = {**row.overrides, f"{name}.against": against}
            yield replace(plain, overrides=overrides, names={**plain.names, "against": against})


def _cell(dataset: str, method: str, poison: _Poison) -> Cell:
    return Cell(
        dataset=dataset,
        method=method,
        rho=poison.rho,
        overrides=poison.overrides,
        names={"attack": poison.label},
        attacks=poison.attacks,
        trials=TRIALS,
    )


def _label(cell: Cell) -> str:
    """The row that a cell is in."""
    name = str(cell.names["attack"])
    if cell.scenario is None:
        return name
    label = f"{registry.attacks()[name].title} ({cell.names['scenario']})"
    return label if cell.against is None else f"{label}{_against(cell.against)}"


def _against(defense: str) -> str:
    return f" against {registry.form_label(defense)}"


def _column(cell: Cell) -> str:
    """The column that a cell is in."""
    return registry.label_of(cell.method, cell.overrides.get)


def _has_trigger(cell: Cell) -> bool:
    return registry.attacks()[cell.attacks[0]].has_trigger


def _blocks(metric: Metric, dataset: str, cells: Sequence[Cell], records: Records) -> list[Block]:
    runs = {cell: own for cell in cells if (own := cell.select(records))}
    order = list(dict.fromkeys(map(_label, cells)))
    title = dataset_title(dataset)
    blocks = []
    if untargeted := [cell for cell in runs if cell.scenario is None and not _has_trigger(cell)]:
        shown = {cell: metric(cell.keys, runs[cell]) for cell in untargeted}
        blocks.append(_grid(f"{title}: test accuracy, %", shown, order, records))
    if targeted := [cell for cell in runs if cell.scenario is not None]:
        shown = {
            cell: compare_success(
                {**cell.keys, "quantity": "attack_success"}, runs[cell], None, trials=cell.trials
            )
            for cell in targeted
        }
        blocks.append(_grid(f"{title}: targets hit", shown, order, ()))
    if triggered := [cell for cell in runs if _has_trigger(cell)]:
        columns = set(map(_column, triggered))
        clean = [cell for cell in runs if not cell.rho and _column(cell) in columns]
        beside = {cell: metric(cell.keys, runs[cell]) for cell in (*clean, *triggered)}
        rates = {cell: average_trigger_success(cell.keys, runs[cell]) for cell in triggered}
        blocks.append(_trigger_grid(title, beside, rates))
    return blocks


def _grid(
    title: str, shown: Mapping[Cell, Comparison], order: Sequence[str], records: Records
) -> Block:
    """One row an attack, one column a defense that has runs, and the rows to choose by."""
    columns = dict.fromkeys(map(_column, shown))
    rows: dict[str, _Row] = {}
    for cell, figure in shown.items():
        label = _label(cell)
        row = rows.setdefault(label, _Row(label, cell.rho, cell.against is not None, {}))
        rows[label] = replace(row, cells={**row.cells, _column(cell): figure})
    ordered = [rows[label] for label in order if label in rows]
    lines = [(row.label, *(_text(row.cells.get(column)) for column in columns)) for row in ordered]
    ends = _ends(ordered, list(columns), shown, records) if records else []
    return Block(
        title=title,
        columns=("trained on", *columns),
        rows=(*lines, *ends),
        keys=1,
        cells=tuple(shown.values()),
        strong=frozenset(range(len(lines), len(lines) + 1)) if ends else frozenset(),
    )


def _trigger_grid(
    title: str, accuracies: Mapping[Cell, Comparison], rates: Mapping[Cell, Comparison | None]
) -> Block:
    """Of each trigger two rows, attack success and accuracy; that without poison comes first."""
    columns = dict.fromkeys(map(_column, accuracies))
    rows: dict[str, dict[str, str]] = {}
    for cell, figure in accuracies.items():
        label = _label(cell)
        if (rate := rates.get(cell)) is not None:
            rows.setdefault(f"{label}: success", {})[_column(cell)] = _text(rate, is_share=True)
        rows.setdefault(f"{label}: accuracy", {})[_column(cell)] = _text(figure)
    shown = [figure for figure in (*accuracies.values(), *rates.values()) if figure is not None]
    return Block(
        title=f"{title}: success of triggers and test accuracy, %",
        columns=("trained on", *columns),
        rows=tuple(
            (label, *(row.get(column, DASH) for column in columns)) for label, row in rows.items()
        ),
        keys=1,
        cells=tuple(shown),
    )


def _text(figure: Comparison | None, *, is_share: bool = False) -> str:
    """``73.54 [61.2, 85.9] (5)``: mean, interval, trials; or targets hit of trials.

    A share of one run's images is shown as such a mean, with Wilson's interval.
    """
    if figure is None or not isinstance(figure.measured, Summary | Proportion):
        return DASH
    ends = interval(figure.measured)
    shown = "" if ends is None else " [{:.1f}, {:.1f}]".format(*(100 * _share(x) for x in ends))
    if isinstance(figure.measured, Proportion) and not is_share:
        return f"{figure.measured.successes}/{figure.measured.trials}{shown}"
    measured = figure.measured
    mean = measured.rate if isinstance(measured, Proportion) else measured.mean
    return f"{show_number(mean, 'fraction')}{shown} ({len(figure.records)})"


def _share(value: float) -> float:
    """An end of a mean's interval, which knows nothing of where shares end."""
    return min(1.0, max(0.0, value))


def _ends(
    rows: Sequence[_Row],
    columns: Sequence[str],
    shown: Mapping[Cell, Comparison],
    records: Records,
) -> list[tuple[str, ...]]:
    """The rows below: of each defense the worst case, the loss on clean data, seconds.

    The worst case may be of an adaptive poison; how many attacks there are counts plain ones.
    """
    clean = next((row.cells for row in rows if row.rho == 0), {})
    plain = clean.get(registry.defenses()["none"].title)
    worst, lost, seconds = ["worst at rho 1"], ["lost on clean data, points"], ["seconds a run"]
    attacked = [row for row in rows if row.rho == RHOS[0]]
    for column in columns:
        own = [(_mean(row.cells[column]), row.label) for row in attacked if column in row.cells]
        low, label = min(own, default=(0.0, ""))
        plain_rows = [row for row in attacked if not row.is_adaptive]
        ran = sum(column in row.cells for row in plain_rows)
        of = "" if ran == len(plain_rows) else f", {ran} of {len(plain_rows)}"
        worst.append(f"{show_number(low, 'fraction')} ({label}{of})" if own else DASH)
        both = plain is not None and column in clean
        difference = _mean(plain) - _mean(clean[column]) if plain is not None and both else None
        lost.append(show_number(difference, "fraction"))
        ids = {
            name for cell, fig in shown.items() if _column(cell) == column for name in fig.records
        }
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
