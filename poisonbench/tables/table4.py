"""Table IV: HINT's test accuracy against r and against beta. No torch here.

The paper prints beta rounded; it is run as whole grey levels: 8, 16, 32 and 64 of 255. The row of
a default setting is HINT's cell of Table II, made by the same runs.
"""

from collections.abc import Sequence

from poisonbench.core.settings import number_text
from poisonbench.results import published
from poisonbench.tables.cells import Cell
from poisonbench.tables.claims import Claim, Superiority, against, steps
from poisonbench.tables.comparisons import Block
from poisonbench.tables.layout import comparison_block
from poisonbench.tables.paper_table import PaperTable, Records, dataset_labels
from poisonbench.tables.table2 import compare_cells

#: The poison ratio of the whole table.
RHO = 0.6

#: What is run for the printed values.
PARAMETERS = {
    "ratio": {ratio: ratio for ratio in (0.25, 0.5, 0.75, 1.0)},
    "beta": {0.031: 8 / 255, 0.062: 16 / 255, 0.125: 32 / 255, 0.251: 64 / 255},
}

#: The printed values of HINT's own settings: a run of these has no overrides.
DEFAULTS = {"ratio": 0.5, "beta": 0.062}

#: How the settings are printed.
NAMES = {"ratio": "r", "beta": "beta"}


def _cells(dataset: str, methods: Sequence[str], records: Records) -> list[Cell]:
    printed = {(r.dataset, r.parameter, r.value): r.summary() for r in published.table4()}
    return [
        Cell(
            dataset=dataset,
            method="hint",
            rho=RHO,
            overrides={} if value == DEFAULTS[parameter] else {parameter: setting},
            names={"parameter": parameter, "value": value},
            published=printed.get((dataset, parameter, value)),
        )
        for parameter, values in PARAMETERS.items()
        for value, setting in values.items()
    ]


def _blocks(dataset: str, cells: Sequence[Cell], records: Records) -> list[Block]:
    labels = {value: f"{number_text(beta)} ({value})" for value, beta in PARAMETERS["beta"].items()}
    return [
        comparison_block(
            f"{dataset_labels()[dataset]}: HINT's accuracy against {NAMES[parameter]}",
            compare_cells([c for c in cells if c.names["parameter"] == parameter], records),
            ["value"],
            labels,
        )
        for parameter in PARAMETERS
    ]


def _claims(dataset: str, cells: Sequence[Cell], records: Records) -> list[Claim]:
    ratios = [cell for cell in cells if cell.names["parameter"] == "ratio"]
    betas = {c.names["value"]: c for c in cells if c.names["parameter"] == "beta"}
    best = betas.pop(DEFAULTS["beta"])
    return [
        Superiority(
            claim="accuracy falls as r grows",
            keys={"dataset": dataset},
            comparisons=steps(ratios),
            is_chain=True,
        ),
        Superiority(
            claim="beta = 16/255 beats the other three",
            keys={"dataset": dataset},
            comparisons=against(best, tuple(betas.values())),
        ),
    ]


TABLE = PaperTable(
    title="sensitivity of HINT's test accuracy to r and beta",
    cells=_cells,
    blocks=_blocks,
    remark="Measured: test accuracy in %, mean±sample standard deviation (runs): docs/tables.md.",
    pairs_with_plain=False,
    claims=_claims,
)
