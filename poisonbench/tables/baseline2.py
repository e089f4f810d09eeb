"""The second paper's Table 2: filters against convex polytope, transfer learning. No torch here."""

from collections.abc import Sequence
from dataclasses import replace

from poisonbench.results import published
from poisonbench.tables.baseline_tables import Protocol, mean_over_networks, table_of
from poisonbench.tables.cells import TARGETED_SAMPLE, Cell
from poisonbench.tables.comparisons import Block
from poisonbench.tables.paper_table import TARGETED_DATASET, Records, method_labels

#: 5 of a transfer set of 500 images, 50 a class; on the sample of 250.
CONVEX_POLYTOPE = Protocol(
    key="baseline-2",
    title="filters against convex polytope, transfer learning",
    attack="cp",
    scenario="transfer",
    rho={TARGETED_DATASET: 0.0001, TARGETED_SAMPLE: 0.005},
    overrides={TARGETED_DATASET: {"transfer_share": 0.0102}},
    # The paper's filter removed 9.1 % of the clean images, 45 of 495: a tenth of 50 a class.
    method_overrides={
        (TARGETED_DATASET, "l2"): {"fraction": 0.1},
        (TARGETED_SAMPLE, "l2"): {"fraction": 0.1},
    },
    averages_networks=True,
)

_FILTERS = table_of(CONVEX_POLYTOPE)


def _blocks(dataset: str, cells: Sequence[Cell], records: Records) -> list[Block]:
    networks = [_networks_block()] if dataset == TARGETED_DATASET else []
    return _FILTERS.blocks(dataset, cells, records) + networks


def _networks_block() -> Block:
    """The paper's values network by network, and their averages."""
    networks = published.baseline_networks()
    methods = list(networks[0].successes)
    rows = [
        (row.network, *(f"{share.successes}/{share.trials}" for share in row.successes.values()))
        for row in networks
    ]
    means = [mean_over_networks([row.successes[m] for row in networks]) for m in methods]
    return Block(
        title="Published attack success by network (the paper's code)",
        columns=("network", *(method_labels()[method] for method in methods)),
        rows=(*rows, ("mean of the networks, %", *(f"{100 * mean:.1f}" for mean in means))),
        keys=1,
    )


TABLE = replace(_FILTERS, blocks=_blocks)
