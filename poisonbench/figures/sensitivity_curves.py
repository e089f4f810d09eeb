"""Curves from run records: the HINT paper's Table IV as lines. No torch here."""

from collections.abc import Sequence
from typing import Any

from poisonbench.figures.drawing import Figure, Panel, Panels, percent_panel
from poisonbench.results.records import RunRecord
from poisonbench.results.statistics import mean_interval, summarise
from poisonbench.tables.cells import Cell
from poisonbench.tables.paper_table import dataset_labels
from poisonbench.tables.table4 import NAMES, RHO, TABLE


def sensitivity(records: Sequence[RunRecord], dataset: str) -> Figure:
    """Draw HINT's test accuracy against r and against beta, measured and published."""
    cells = TABLE.cells(dataset, (), ())
    groups = {
        name: [_point(cell, records) for cell in cells if cell.names["parameter"] == name]
        for name in NAMES
    }
    points = [point for group in groups.values() for point in group]
    used = len({run for point in points for run in point["records"]})
    lines = Panels(
        title=f"HINT's sensitivity: {dataset_labels()[dataset]}, mix at rho {RHO:g}",
        panels=[_panel(NAMES[name], group) for name, group in groups.items()],
        caption="Table IV of the HINT paper as curves: test accuracy at the last epoch. Measured, "
        f"{used} run(s): mean of the trials and its 95 % interval (Student's t; none of one "
        "trial). Published: mean and standard deviation of 5 trials.",
    )
    about = {"figure": "sensitivity", "dataset": {"name": dataset}, "rho": RHO}
    return Figure(lines, {**about, "points": points})


def _point(cell: Cell, records: Sequence[RunRecord]) -> dict[str, Any]:
    parameter, value = cell.names["parameter"], cell.names["value"]
    runs, published = cell.select(records), cell.published
    measured = summarise([record.metrics.test_accuracy for record in runs])
    low, high = (mean_interval(measured) if measured else None) or (None, None)
    return {
        "parameter": parameter,
        # The paper's 0.062 is 16/255, to three digits.
        "value": round(255 * value) / 255 if parameter == "beta" else value,
        "measured": {"mean": measured.mean, "n": measured.n} if measured else None,
        "low": low,
        "high": high,
        "published": {"mean": published.mean, "std": published.std} if published else None,
        "records": [record.id for record in runs],
    }


def _panel(axis: str, points: Sequence[dict[str, Any]]) -> Panel:
    measured = [
        (point["value"], point["measured"]["mean"], point["low"], point["high"])
        for point in points
        if point["measured"]
    ]
    printed = [
        (point["value"], paper["mean"], paper["mean"] - paper["std"], paper["mean"] + paper["std"])
        for point in points
        if (paper := point["published"])
    ]
    return percent_panel("test accuracy", axis, {"measured": measured, "published": printed})
