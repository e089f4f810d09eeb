"""Table V: execution time of each defense, as a ratio to plain training. No torch here.

Seconds compare with those of the same device alone: a ratio divides a run by the run of plain
training that shares its trial and its device (:func:`~poisonbench.tables.cells.device_of`).
Each device with timed runs has its own blocks. The paper's seconds, on a device that nobody else
has, are shown and never divided by ours; its ratios are of its own seconds.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from poisonbench.results import published
from poisonbench.results.statistics import Summary
from poisonbench.tables.cells import Cell, device_of, is_timed, paired
from poisonbench.tables.claims import SECONDS, Claim, Superiority, against, steps
from poisonbench.tables.comparisons import Block, Comparison
from poisonbench.tables.layout import DASH, comparison_block, show_measured
from poisonbench.tables.measured import compare_time
from poisonbench.tables.paper_table import (
    PaperTable,
    Records,
    dataset_labels,
    method_labels,
)
from poisonbench.tables.table4 import DEFAULTS, PARAMETERS, RHO

PHASES = ("total", "training", "defense", "validation", "test")


def _cells(dataset: str, methods: Sequence[str], records: Records) -> list[Cell]:
    printed = {(row.method, row.ratio): row.seconds for row in published.table5()}
    printed = printed if dataset in TABLE.datasets else {}
    return [
        Cell(
            dataset=dataset,
            method=method,
            rho=RHO,
            overrides={} if r in (None, DEFAULTS["ratio"]) else {"ratio": r},
            names={"r": r},
            published=Summary(printed[method, r], None, 1) if (method, r) in printed else None,
            is_timed=True,
        )
        for method in methods
        for r in (PARAMETERS["ratio"] if method == "hint" else [None])
    ]


def _by_device(cells: Sequence[Cell], records: Records) -> dict[str | None, list[Cell]]:
    """The cells of each device that has timed runs; without any, those of no device."""
    used = {device_of(record) for cell in cells for record in cell.select(records)}
    devices: list[str | None] = [*sorted(device for device in used if device is not None)]
    return {device: [replace(c, device=device) for c in cells] for device in devices or [None]}


def _blocks(dataset: str, cells: Sequence[Cell], records: Records) -> list[Block]:
    title = dataset_labels()[dataset]
    blocks = []
    for device, group in _by_device(cells, records).items():
        where = f" on {device}" if device else ""
        blocks += [
            comparison_block(
                f"{title}: time as a ratio to plain training{where}",
                [_ratio(cell, group, records) for cell in group if cell.method != "none"],
                ["method", "r"],
                method_labels() | {None: DASH},
            ),
            _seconds_block(f"{title}: seconds{where}", group, records),
        ]
    return blocks


def _ratio(cell: Cell, group: Sequence[Cell], records: Records) -> Comparison:
    plain = next(other for other in group if other.method == "none")
    pairs = paired([cell.select(records), plain.select(records)])
    printed = None
    if cell.published and plain.published:
        printed = cell.published.mean / plain.published.mean
    return compare_time(
        {**cell.keys, "device": cell.device, "quantity": "time_ratio"},
        {run.id: run.cost.seconds.total / base.cost.seconds.total for run, base in pairs},
        printed,
        trials=cell.trials,
        unit="ratio",
    )


def _seconds_block(title: str, group: Sequence[Cell], records: Records) -> Block:
    """Total and phases of each method, the published total beside the measured one."""
    rows, compared = [], []
    for cell in group:
        runs = cell.select(records)
        phases = [
            compare_time(
                {**cell.keys, "device": cell.device, "quantity": f"{phase}_seconds"},
                {run.id: getattr(run.cost.seconds, phase) for run in runs},
                cell.published.mean if cell.published and phase == "total" else None,
                trials=cell.trials,
                unit="seconds",
            )
            for phase in PHASES
        ]
        compared += phases
        total, *others = (show_measured(phase, is_short=i > 0) for i, phase in enumerate(phases))
        printed = f"{cell.published.mean:.0f}" if cell.published else DASH
        r = cell.names["r"]
        name = method_labels()[cell.method]
        rows.append((name, DASH if r is None else str(r), total, printed, *others))
    columns = ("method", "r", "total", "published", *PHASES[1:])
    return Block(title=title, columns=columns, rows=tuple(rows), keys=2, cells=tuple(compared))


def _claims(dataset: str, cells: Sequence[Cell], records: Records) -> list[Claim]:
    claims: list[Claim] = []
    labels = method_labels()
    for device, group in _by_device(cells, records).items():
        hint = {cell.names["r"]: cell for cell in group if cell.method == "hint"}
        rivals = tuple(cell for cell in group if cell.method in ("atda", "epic"))
        about: dict[str, Any] = {"keys": {"dataset": dataset, "device": device}, "measure": SECONDS}
        if rivals:
            names = " and ".join(labels[cell.method] for cell in rivals)
            claim = f"HINT (r = 0.5) is faster than {names}"
            compared = against(hint[DEFAULTS["ratio"]], rivals)
            claims.append(Superiority(claim=claim, comparisons=compared, **about))
        by_r = steps(list(hint.values()))
        claim = "HINT's time grows with r"
        claims.append(Superiority(claim=claim, comparisons=by_r, is_chain=True, **about))
    return claims


def _notes(cells: Sequence[Cell], records: Records) -> list[str]:
    runs = [record for record in records if any(cell.matches(record) for cell in cells)]
    untimed = sum(not is_timed(record) for record in runs)
    return [f"{untimed} run(s) are not timed."] if untimed else []


TABLE = PaperTable(
    title="execution time, as a ratio to plain training on the same device",
    cells=_cells,
    blocks=_blocks,
    remark="Measured: without crafting; a ratio is to plain training of that trial and device: "
    "docs/tables.md.",
    notes=_notes,
    claims=_claims,
    datasets=("cifar10",),
)
