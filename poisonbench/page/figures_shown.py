"""The papers' figures as plots of the page, from records and from the numbers of drawn ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from poisonbench.figures.drawing import Figure, Panel, Panels, Series
from poisonbench.figures.filter_curve import filter_curve
from poisonbench.figures.sensitivity_curves import sensitivity
from poisonbench.page.folder import Trouble
from poisonbench.page.plots import plot
from poisonbench.results.records import RunRecord
from poisonbench.tables.comparisons import Block, Table
from poisonbench.tables.layout import DASH
from poisonbench.tables.paper_table import dataset_labels


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One figure: its plots, the same numbers as a table, and what it shows."""

    id: str
    title: str
    plots: tuple[tuple[str, Markup], ...]
    table: Table
    caption: str


def figures_of(
    records: Sequence[RunRecord], drawn: Sequence[tuple[str, Mapping[str, Any]]]
) -> tuple[list[Shown], list[Trouble]]:
    """All figures that have a measured point, and the drawn ones that cannot be read."""
    made, damaged = [], []
    used = {record.spec.dataset.name for record in records}
    curves: tuple[tuple[str, Callable[..., Figure]], ...] = (
        ("sensitivity", sensitivity),
        ("filter-k", filter_curve),
    )
    for name, draw in curves:
        for dataset in (label for label in dataset_labels() if label in used):
            figure = draw(records, dataset)
            if any(point["records"] for point in figure.numbers["points"]):
                made.append(_shown(f"figure-{name}-{dataset}", figure.picture))
    for stem, numbers in drawn:
        if numbers.get("figure") == "features":
            try:
                made.append(_shown(f"figure-{stem}", _features(numbers)))
            except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
                fault = f"expected a figure's numbers, got {type(error).__name__}: {error}"
                damaged.append(Trouble(f"figures/{stem}.json", fault))
    return made, damaged


def _shown(name: str, picture: Any) -> Shown:
    """The figure of a name, as an anchor."""
    assert isinstance(picture, Panels)
    plots = tuple((panel.title, plot(panel)) for panel in picture.panels)
    anchor = "".join(letter if letter.isalnum() else "-" for letter in name)
    blocks = tuple(_block(panel) for panel in picture.panels)
    table = Table(key=name, title=picture.title, blocks=blocks, notes=(picture.caption,))
    return Shown(id=anchor, title=picture.title, plots=plots, table=table, caption=picture.caption)


def _block(panel: Panel) -> Block:
    rows = [
        (
            series.label,
            f"{x:.4g}",
            f"{y:.4g}",
            _end(series.low, index),
            _end(series.high, index),
        )
        for series in panel.series
        for index, (x, y) in enumerate(zip(series.x, series.y, strict=True))
    ]
    columns = ("series", panel.x_label, panel.y_label, "low", "high")
    return Block(title=panel.title, columns=columns, rows=tuple(rows), keys=1)


def _end(ends: Sequence[float | None], index: int) -> str:
    end = ends[index] if index < len(ends) else None
    return DASH if end is None else f"{end:.4g}"


def _features(numbers: Mapping[str, Any]) -> Panels:
    """The clouds of ``poisonbench figure features``, from the numbers that it wrote."""
    panels = []
    for run in numbers["runs"]:
        clouds = {**run["points"], "target": [run["target"]]}
        series = [
            Series(
                label=str(label),
                x=[float(point[0]) for point in points],
                y=[float(point[1]) for point in points],
                joined=False,
                emphasised=label == "target",
            )
            for label, points in clouds.items()
        ]
        hit = "target hit" if run["is_hit"] else "target not hit"
        name = run.get("method") or run.get("label") or run.get("run") or "run"
        removed = f"{run['poisons_removed']} of {run['poisons']} poisons removed"
        panels.append(
            Panel(
                title=f"{name}: {hit}, {removed}",
                x_label="between the classes' means",
                y_label="first component of the rest",
                series=series,
            )
        )
    return Panels(
        title=f"Feature space: {numbers['dataset']['name']}",
        panels=panels,
        caption="Features of the last layer before the head: across, the line between the mean "
        "features of the target's and of the poisons' class; up, the first principal component of "
        "what that leaves.",
    )
