"""Published tables of availability attacks by defenses, beside ours. No torch here.

Rows are attacks, each alone on every training image, and columns defenses. What is published of an
attack or a defense that is not here is shown, and no run of it is asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from poisonbench import registry
from poisonbench.requests import Values
from poisonbench.results import published
from poisonbench.tables.cells import COLOUR_PART, TRIALS, Cell
from poisonbench.tables.comparisons import Block, Comparison
from poisonbench.tables.layout import comparison_block, matrix_block, show_measured
from poisonbench.tables.measured import compare_accuracy
from poisonbench.tables.paper_table import PaperTable, Records, dataset_labels

#: The published data set; a part of it stands in for it on a CPU, without published figures.
DATASET = "cifar10"

#: The published row of training without poison.
CLEAN = "clean"

#: The published attacks as tables head them, where that is not the name in capitals.
_ATTACK_LABELS = {CLEAN: "clean", "hypo": "Hypocritical"}


@dataclass(frozen=True)
class Column:
    """A published column.

    Attributes:
        name: what it is called there.
        label: how our tables head it.
        method: our defense; empty where there is none.
        settings: of it, that differ from its own.
    """

    name: str
    label: str
    method: str = ""
    settings: Values = field(default_factory=dict)


def _cells(
    key: str, columns: Sequence[Column], dataset: str, methods: Sequence[str], records: Records
) -> list[Cell]:
    """One cell an attack and column; where we lack one of both, without trials.

    On the part of the data set, for which nothing is published, those are left out.
    """
    if dataset not in (DATASET, COLOUR_PART):
        return []
    attacks, defenses = registry.attacks(), registry.defenses()
    cells = [
        Cell(
            dataset=dataset,
            method=column.method,
            rho=0.0 if attack == CLEAN else 1.0,
            overrides=column.settings,
            names={"attack": _ATTACK_LABELS.get(attack, attack.upper()), "defense": column.label},
            attacks=registry.MIX if attack == CLEAN else (attack,),
            trials=TRIALS if attack in (CLEAN, *attacks) and column.method in defenses else 0,
            published=row[column.name] if dataset == DATASET else None,
        )
        for attack, row in published.availability(key).items()
        for column in columns
    ]
    return [cell for cell in cells if cell.trials or cell.published]


def _blocks(dataset: str, cells: Sequence[Cell], records: Records) -> list[Block]:
    compared = [
        compare_accuracy(cell.keys, cell.select(records), cell.published, trials=cell.trials)
        for cell in cells
    ]
    title = dataset_labels()[dataset]
    blocks = [matrix_block(f"{title}: measured", compared, "attack", "defense", {})]
    if dataset == DATASET:
        blocks.append(_published_block(f"{title}: published", compared))
    beside = f"{title}: measured beside published"
    return [*blocks, comparison_block(beside, compared, ["attack", "defense"], {})]


def _published_block(title: str, compared: Sequence[Comparison]) -> Block:
    """The published values in the shape of the measured ones, as printed."""
    rows: dict[str, list[str]] = {}
    for cell in compared:
        printed = replace(cell, measured=cell.published)
        rows.setdefault(cell.keys["attack"], []).append(show_measured(printed, is_short=True))
    across = dict.fromkeys(cell.keys["defense"] for cell in compared)
    return Block(
        title=title,
        columns=("attack", *across),
        rows=tuple((attack, *texts) for attack, texts in rows.items()),
        keys=1,
    )


def _notes(columns: Sequence[Column], cells: Sequence[Cell], records: Records) -> list[str]:
    """The attacks and defenses that are published alone."""
    known = registry.attacks()
    rows = {c.attacks[0]: str(c.keys["attack"]) for c in cells if c.rho and c.published}
    lacking = [label for name, label in rows.items() if name not in known]
    lacking += [column.label for column in columns if not column.method and rows]
    return [f"Published alone: {', '.join(lacking)}."] if lacking else []


def table_of(key: str, title: str, columns: Sequence[Column], remark: str) -> PaperTable:
    """The table of a published one."""
    cells: Callable[[str, Sequence[str], Records], list[Cell]] = partial(_cells, key, columns)
    return PaperTable(
        title=title,
        cells=cells,
        blocks=_blocks,
        remark=remark,
        notes=partial(_notes, columns),
        datasets=(DATASET,),
        is_of_mix=False,
        pairs_with_plain=False,
    )
