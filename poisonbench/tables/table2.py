"""Table II: test accuracy under untargeted attacks, by poison ratio and defense. No torch here."""

from collections.abc import Sequence

from poisonbench import registry
from poisonbench.results import published
from poisonbench.tables.cells import Cell
from poisonbench.tables.claims import Claim, Superiority, against, steps
from poisonbench.tables.comparisons import Block, Comparison
from poisonbench.tables.layout import comparison_block, matrix_block
from poisonbench.tables.measured import compare_accuracy
from poisonbench.tables.paper_table import (
    OTHER_NORM,
    PaperTable,
    Records,
    dataset_labels,
    method_labels,
)

#: The poison ratios.
RHOS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)

#: "At least as good" allows this much less accuracy: 0.1 %, ten of the paper's test images, and
#: less than any gain over plain training that its table shows (0.13 % and more).
MARGIN = 0.001


def accuracy_cells(dataset: str, methods: Sequence[str], records: Records) -> list[Cell]:
    """One cell a poison ratio and method."""
    printed = {(row.dataset, row.rho, row.method): row.summary() for row in published.table2()}
    # Where every image is a poison an oracle has nothing to train on.
    oracles = {name for name, entry in registry.defenses().items() if entry.oracle}
    cells = [
        Cell(dataset=dataset, method=method, rho=rho, published=printed.get((dataset, rho, method)))
        for rho in RHOS
        for method in methods
        if not (rho == 1 and method in oracles)
    ]
    # Which norm the paper's ATDA has is not said: its figures stand beside the default's.
    names = {"method": OTHER_NORM}
    other = [
        Cell(dataset=dataset, method="atda", profile="linf", rho=rho, names=names) for rho in RHOS
    ]
    return cells + (other if any(cell.select(records) for cell in other) else [])


def compare_cells(cells: Sequence[Cell], records: Records) -> list[Comparison]:
    """The accuracy of each cell beside its published one."""
    return [
        compare_accuracy(cell.keys, cell.select(records), cell.published, trials=cell.trials)
        for cell in cells
    ]


def _blocks(dataset: str, cells: Sequence[Cell], records: Records) -> list[Block]:
    compared = compare_cells(cells, records)
    labels = method_labels()
    title = dataset_labels()[dataset]
    return [
        matrix_block(f"{title}: measured", compared, "rho", "method", labels),
        comparison_block(
            f"{title}: measured beside published", compared, ["rho", "method"], labels
        ),
    ]


def _claims(dataset: str, cells: Sequence[Cell], records: Records) -> list[Claim]:
    at = {(cell.rho, cell.method): cell for cell in cells if not cell.names}
    labels = method_labels()
    methods = [name for name in published.METHOD_LABELS if (RHOS[0], name) in at]
    rivals = [name for name in methods if name not in ("none", "hint")]
    claims: list[Claim] = []
    for rho in RHOS:
        claims += [
            Superiority(
                claim=claim,
                keys={"dataset": dataset, "rho": rho},
                comparisons=against(at[rho, "hint"], [at[rho, name] for name in others]),
                margin=margin,
            )
            for claim, others, margin in (
                ("HINT beats every other defense", rivals, 0.0),
                ("HINT is at least as good as none", ["none"], MARGIN),
                ("HINT beats none", ["none"], 0.0),
            )
            if others
        ]
    return claims + [
        Superiority(
            claim=f"accuracy falls as rho grows: {labels[name]}",
            keys={"dataset": dataset, "rho": None},
            comparisons=steps([at[rho, name] for rho in RHOS]),
            is_chain=True,
            same_poison=False,
        )
        for name in methods
    ]


TABLE = PaperTable(
    title="test accuracy under untargeted attacks, by poison ratio rho",
    cells=accuracy_cells,
    blocks=_blocks,
    remark="Measured: test accuracy in %, mean±sample standard deviation (runs): docs/tables.md.",
    claims=_claims,
)
