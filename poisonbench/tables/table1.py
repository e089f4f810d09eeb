"""Table I: data sets and models, as the runs of Table II recorded them. No torch here."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from poisonbench.results import published
from poisonbench.results.records import RunRecord
from poisonbench.tables.cells import Cell
from poisonbench.tables.comparisons import Block
from poisonbench.tables.layout import comparison_block
from poisonbench.tables.measured import compare_fact
from poisonbench.tables.paper_table import PaperTable, Records, dataset_labels
from poisonbench.tables.table2 import accuracy_cells

#: Our networks by the paper's names for them.
NETWORK_NAMES = {"cnn": "mnist-cnn", "resnet18": "cifar-resnet18"}

#: What is shown: its name, the published row's field, and a run's own.
SETTINGS: tuple[tuple[str, str, Callable[[RunRecord], int | str]], ...] = (
    ("training images", "train", lambda run: run.labels.sizes.train),
    ("validation images", "validation", lambda run: run.labels.sizes.validation),
    ("test images", "test", lambda run: run.labels.sizes.test),
    ("model", "model", lambda run: run.spec.model),
    ("batch size", "batch_size", lambda run: run.spec.training.batch_size),
    ("epochs", "epochs", lambda run: run.spec.training.epochs),
)


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
            {record.id: setting(record) for record in runs},
            getattr(printed, field) if printed else None,
            aliases=NETWORK_NAMES,
        )
        for quantity, field, setting in SETTINGS
    ]
    return [comparison_block(dataset_labels()[dataset], compared, ["quantity"], {})]


TABLE = PaperTable(
    title="data sets and models",
    cells=_cells,
    blocks=_blocks,
    remark="Measured: what the runs that count for Table II recorded (docs/tables.md).",
    pairs_with_plain=False,
)
