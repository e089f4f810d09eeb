"""Table I: data sets and models, as the runs of Table II recorded them. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from poisonbench.results import published
from poisonbench.results.records import RunRecord
from poisonbench.tables.cells import Cell
from poisonbench.tables.comparisons import Block, Comparison, compare_fact
from poisonbench.tables.layout import comparison_block
from poisonbench.tables.paper_table import PaperTable, Records, dataset_labels
from poisonbench.tables.table2 import accuracy_cells

#: Our networks by the paper's names for them.
NETWORKS = {"cnn": "mnist-cnn", "resnet18": "cifar-resnet18"}


def _cells(dataset: str, methods: Sequence[str], records: Records) -> list[Cell]:
    candidates = accuracy_cells(dataset, methods, records)
    done = [cell for cell in candidates if cell.select(records)]
    return [replace(cell, trials=1, published=None) for cell in (done or candidates[:1])]


def _blocks(dataset: str, cells: Sequence[Cell], records: Records) -> list[Block]:
    runs = [record for cell in cells for record in cell.select(records)]
    printed = next((row for row in published.table1() if row.dataset == dataset), None)
    compared = [
        compare_fact(
            {"dataset": dataset, "quantity": quantity},
            {record.id: _setting(record, *path) for record in runs},
            getattr(printed, field) if printed else None,
            aliases=NETWORKS,
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
    return [comparison_block(dataset_labels()[dataset], compared, ["quantity"], {})]


def _notes(cells: Sequence[Cell], compared: Sequence[Comparison], records: Records) -> list[str]:
    return ["Measured: what the runs that count for Table II recorded."]


def _setting(record: RunRecord, part: str, *path: str) -> int | str | None:
    value: Any = getattr(record, part)
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, int | str) else None


TABLE = PaperTable(title="data sets and models", cells=_cells, blocks=_blocks, notes=_notes)
