"""The HINT paper's tables: which runs make which cell, and how they are laid out. No torch here.

A table is a list of cells for a data set and a function that lays them out. Adding one means
adding an entry to ``TABLES``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from poisonbench import registry
from poisonbench.config import did_you_mean
from poisonbench.errors import UsageError
from poisonbench.experiments.cells import SAMPLE_DATASET, Cell, is_run_on
from poisonbench.results import published
from poisonbench.results.records import RunRecord
from poisonbench.results.report import (
    Block,
    Comparison,
    Table,
    compare_accuracy,
    compare_fact,
    comparison_block,
    matrix_block,
)
from poisonbench.results.statistics import SIGNIFICANCE, Verdict

#: The poison ratios of Table II.
RHOS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)

PAPER_DATASETS = ("cifar10", "mnist")

DATASET_LABELS = {
    "cifar10": "CIFAR-10",
    "mnist": "MNIST",
    SAMPLE_DATASET: "MNIST sample (not the paper's data)",
}

#: Our networks by the paper's names for them.
MODELS = {"cnn": "mnist-cnn", "resnet18": "cifar-resnet18"}

Records = Sequence[RunRecord]


@dataclass(frozen=True)
class PaperTable:
    """One table.

    Attributes:
        title: what it shows.
        cells: the cells of a data set for some methods; sees what has been run.
        blocks: lays the cells of one data set out.
        notes: what to say of the comparisons made.
    """

    title: str
    cells: Callable[[str, Sequence[str], Records], list[Cell]]
    blocks: Callable[[str, Sequence[Cell], Records], list[Block]]
    notes: Callable[[Sequence[Comparison]], list[str]]


def find_table(key: str) -> PaperTable:
    """The table of that number.

    Raises:
        UsageError: it is not there; names those that are.
    """
    if key not in TABLES:
        known = ", ".join(f"{name} ({table.title})" for name, table in TABLES.items())
        raise UsageError(f"expected a table among {known}, got {key!r}; choose one with --table")
    return TABLES[key]


def cells(key: str, records: Records = (), dataset: str | None = None) -> list[Cell]:
    """The cells of a table: of the paper's data sets, and of the sample where it has runs.

    Args:
        key: the table's number.
        records: what has been run.
        dataset: only this one.

    Raises:
        UsageError: unknown table or data set.
    """
    table = find_table(key)
    return [
        cell
        for name in _datasets(records, dataset)
        for cell in table.cells(name, _methods(name, records), records)
    ]


def missing_commands(
    key: str, records: Records, dataset: str | None = None, results: Path | None = None
) -> list[str]:
    """The commands of the runs that a table lacks, each once; methods not built here have none.

    Args:
        key: the table's number.
        records: what has been run.
        dataset: only this one.
        results: the folder that the runs shall go to; null for the default.

    Raises:
        UsageError: unknown table or data set.
    """
    built = registry.defenses()
    commands = [
        cell.command(trial, results)
        for cell in cells(key, records, dataset)
        if cell.method in built
        for trial in cell.missing(records)
    ]
    return list(dict.fromkeys(commands))


def build(key: str, records: Records, dataset: str | None = None) -> Table:
    """A table from run records.

    Args:
        key: its number, e.g. "2".
        records: all that there are; those of other tables are passed over.
        dataset: show only this one.

    Raises:
        UsageError: unknown table or data set.
    """
    table = find_table(key)
    wanted = cells(key, records, dataset)
    names = list(dict.fromkeys(cell.dataset for cell in wanted))
    blocks = [
        block
        for name in names
        for block in table.blocks(name, [cell for cell in wanted if cell.dataset == name], records)
    ]
    compared = [cell for block in blocks for cell in block.cells]
    source = published.source(key)
    notes = [f"Published figures: {source.citation}.", *table.notes(compared)]
    if SAMPLE_DATASET in names:
        notes.append(
            f"{SAMPLE_DATASET} is a part of MNIST with settings for a CPU; the paper has no "
            "figures for it."
        )
    built = registry.defenses()
    if short := sum(cell.method in built and bool(cell.missing(records)) for cell in wanted):
        notes.append(
            f"{short} cell(s) lack runs: poisonbench report --table {key} --missing prints the "
            "commands."
        )
    return Table(
        key=key,
        title=f"Table {source.number}: {table.title}",
        blocks=tuple(blocks),
        notes=(*notes, *_left_out(names, compared, records)),
    )


def _datasets(records: Records, dataset: str | None) -> list[str]:
    if dataset is None:
        sample = any(is_run_on(record, SAMPLE_DATASET) for record in records)
        return [*PAPER_DATASETS, SAMPLE_DATASET] if sample else list(PAPER_DATASETS)
    if dataset not in DATASET_LABELS:
        raise UsageError(
            f"expected a data set among {', '.join(DATASET_LABELS)}, got {dataset!r}"
            f"{did_you_mean(dataset, DATASET_LABELS)}"
        )
    return [dataset]


def _methods(dataset: str, records: Records) -> list[str]:
    """The paper's methods in its order, then others that have runs."""
    built = registry.defenses()
    paper = [m for m in published.METHOD_LABELS if m in built or dataset in PAPER_DATASETS]
    used = {record.spec.get("method") for record in records if is_run_on(record, dataset)}
    return paper + [method for method in built if method in used and method not in paper]


def _left_out(names: Sequence[str], compared: Sequence[Comparison], records: Records) -> list[str]:
    averaged = {run for cell in compared for run in cell.records}
    others = [
        record
        for record in records
        if any(is_run_on(record, name) for name in names) and record.id not in averaged
    ]
    if not others:
        return []
    return [
        f"{len(others)} other run(s) of these data sets are not averaged here: other settings, "
        "another poison, an older recipe of the method, or a repeated trial."
    ]


# Table I: data sets and models.


def _sheet_cells(dataset: str, methods: Sequence[str], records: Records) -> list[Cell]:
    candidates = _accuracy_cells(dataset, methods, records)
    done = [cell for cell in candidates if cell.select(records)]
    return [replace(cell, trials=1, published=None) for cell in (done or candidates[:1])]


def _sheet_blocks(dataset: str, wanted: Sequence[Cell], records: Records) -> list[Block]:
    runs = [record for cell in wanted for record in cell.select(records)]
    printed = next((row for row in published.table1() if row.dataset == dataset), None)
    compared = [
        compare_fact(
            {"dataset": dataset, "quantity": quantity},
            {record.id: _setting(record, *path) for record in runs},
            getattr(printed, field) if printed else None,
            aliases=MODELS,
        )
        for quantity, field, path in (
            ("training images", "train", ("labels", "sizes", "train")),
            ("validation images", "validation", ("labels", "sizes", "validation")),
            ("test images", "test", ("labels", "sizes", "test")),
            ("model", "model", ("spec", "model")),
            ("batch size", "batch_size", ("spec", "training", "batch_size")),
            ("epochs", "epochs", ("spec", "training", "epochs")),
        )
    ]
    return [comparison_block(DATASET_LABELS[dataset], compared, ["quantity"], {})]


def _sheet_notes(compared: Sequence[Comparison]) -> list[str]:
    return ["Measured: what the runs that count for Table II recorded."]


def _setting(record: RunRecord, part: str, *path: str) -> int | str | None:
    value: Any = getattr(record, part)
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, int | str) else None


# Table II: untargeted attacks.


def _accuracy_cells(dataset: str, methods: Sequence[str], records: Records) -> list[Cell]:
    printed = {(row.dataset, row.rho, row.method): row.summary() for row in published.table2()}
    # Where every image is a poison an oracle has nothing to train on.
    oracles = {name for name, entry in registry.defenses().items() if entry.oracle}
    return [
        Cell(dataset=dataset, method=method, rho=rho, published=printed.get((dataset, rho, method)))
        for rho in RHOS
        for method in methods
        if not (rho == 1 and method in oracles)
    ]


def _accuracy_blocks(dataset: str, wanted: Sequence[Cell], records: Records) -> list[Block]:
    built = registry.defenses()
    compared = [
        compare_accuracy(
            cell.keys,
            cell.select(records),
            cell.published,
            wanted=cell.trials,
            built=cell.method in built,
        )
        for cell in wanted
    ]
    labels = {name: f"{label} *" for name, label in published.METHOD_LABELS.items()}
    labels |= {name: entry.label for name, entry in built.items()}
    title = DATASET_LABELS[dataset]
    return [
        matrix_block(f"{title}: measured", compared, "rho", "method", labels),
        comparison_block(
            f"{title}: measured beside published", compared, ["rho", "method"], labels
        ),
    ]


def _accuracy_notes(compared: Sequence[Comparison]) -> list[str]:
    source = published.source("2")
    notes = [
        "Measured: test accuracy at the last epoch in percent, mean±sample standard deviation "
        "(trials); (3 of 5) says that trials are lacking.",
        f"Published: {source.plus_minus}.",
        f"Verdict: Welch's t-test of the two means; differs at p < {SIGNIFICANCE:g}. Agrees means "
        "that no difference was found, not that there is none.",
    ]
    if tested := sum(cell.p_value is not None for cell in compared):
        notes.append(
            f"{tested} cell(s) were tested at the 5 % level: were all means equal, about "
            f"{tested * SIGNIFICANCE:.1f} would still differ by chance."
        )
    if any(cell.verdict is Verdict.NOT_BUILT for cell in compared):
        notes.append("* not built here: only the paper's figures are shown.")
    return notes


TABLES = {
    "1": PaperTable("data sets and models", _sheet_cells, _sheet_blocks, _sheet_notes),
    "2": PaperTable(
        "test accuracy under untargeted attacks, by poison ratio rho",
        _accuracy_cells,
        _accuracy_blocks,
        _accuracy_notes,
    ),
}
