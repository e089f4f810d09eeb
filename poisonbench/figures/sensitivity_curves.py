"""Curves from run records: the HINT paper's Table IV as lines. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from poisonbench.figures.drawing import Figure, Panel, Panels, Series, percent
from poisonbench.results.records import RunRecord
from poisonbench.results.statistics import mean_interval, summarise
from poisonbench.tables.paper_table import dataset_labels
from poisonbench.tables.table4 import NAMES, RHO, TABLE


def sensitivity(records: Sequence[RunRecord], dataset: str) -> Figure:
    """Draw HINT's test accuracy against r and against beta, measured and published.

    Args:
        records: all that there are.
        dataset: a data set of the tables.
    """
    panels, numbers = [], []
    for parameter in NAMES:
        points = _points(parameter, dataset, records)
        numbers += points
        panels.append(_panel(parameter, points))
    used = len({run for point in numbers for run in point["records"]})
    lines = Panels(
        title=f"HINT's sensitivity: {dataset_labels()[dataset]}, mix at rho {RHO:g}",
        panels=panels,
        caption="Table IV of the HINT paper as curves: test accuracy at the last epoch. Measured, "
        f"{used} run(s): mean of the trials and its 95 % interval (Student's t; none of one "
        "trial). Published: mean and standard deviation of 5 trials.",
    )
    about = {"figure": "sensitivity", "dataset": {"name": dataset}, "rho": RHO}
    return Figure(lines, {**about, "points": numbers})


def _points(parameter: str, dataset: str, records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    points = []
    for cell in TABLE.cells(dataset, (), ()):
        if cell.names["parameter"] != parameter:
            continue
        value = cell.names["value"]
        # The paper's 0.062 is 16/255, to three digits.
        exact = round(255 * value) / 255 if parameter == "beta" else value
        runs, published = cell.select(records), cell.published
        measured = summarise([record.metrics.test_accuracy for record in runs])
        low, high = (mean_interval(measured) if measured else None) or (None, None)
        points.append(
            {
                "parameter": parameter,
                "value": exact,
                "measured": None if measured is None else {"mean": measured.mean, "n": measured.n},
                "low": low,
                "high": high,
                "published": None
                if published is None
                else {"mean": published.mean, "std": published.std},
                "records": [record.id for record in runs],
            }
        )
    return points


def _panel(parameter: str, points: Sequence[dict[str, Any]]) -> Panel:
    measured = [point for point in points if point["measured"]]
    printed = [point for point in points if point["published"]]
    means = [100 * point["published"]["mean"] for point in printed]
    stds = [100 * point["published"]["std"] for point in printed]
    axis = NAMES[parameter]
    return Panel(
        title=f"accuracy against {axis}",
        x_label=axis,
        y_label="test accuracy in percent",
        series=(
            Series(
                label="measured",
                x=[point["value"] for point in measured],
                y=[100 * point["measured"]["mean"] for point in measured],
                low=[percent(point["low"]) for point in measured],
                high=[percent(point["high"]) for point in measured],
            ),
            Series(
                label="published",
                x=[point["value"] for point in printed],
                y=means,
                low=[mean - std for mean, std in zip(means, stds, strict=True)],
                high=[mean + std for mean, std in zip(means, stds, strict=True)],
                dashed=True,
            ),
        ),
    )
