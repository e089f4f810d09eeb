"""The papers' figures as plots of the page, from records and from the numbers of drawn ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from poisonbench.figures.drawing import Figure, Panel, Panels, Series, percent_panel
from poisonbench.figures.filter_curve import filter_curve
from poisonbench.figures.sensitivity_curves import sensitivity
from poisonbench.page.answers import AnswerFigure, drawn_predictions, target_figures
from poisonbench.page.folder import Trouble
from poisonbench.page.groups import Row
from poisonbench.page.noise_tiles import Tiles, noise_tiles
from poisonbench.page.plots import plot
from poisonbench.page.poison_pictures import DataSets
from poisonbench.results.records import RunRecord
from poisonbench.results.statistics import Summary, mean_interval
from poisonbench.tables.comparisons import Block, Table
from poisonbench.tables.layout import DASH
from poisonbench.tables.paper_table import dataset_labels


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One figure: its plots or images, the same numbers as a table, and what it shows.

    Attributes:
        dataset: whose filter hides it; empty where it is of none that the filters know.
    """

    id: str
    title: str
    plots: tuple[tuple[str, Markup], ...]
    table: Table
    caption: str
    dataset: str = ""
    tiles: Tiles | None = None


@dataclass(frozen=True)
class Figures:
    """Plots, tables of answers, and the drawn figures that cannot be read."""

    plots: list[Shown]
    answers: list[AnswerFigure]
    damaged: list[Trouble]


def figures_of(
    rows: Sequence[Row], drawn: Sequence[tuple[str, Mapping[str, Any]]], sets: DataSets
) -> Figures:
    """All figures that have something to draw.

    Args:
        rows: the runs.
        drawn: numbers of figures that were drawn, by the name of their file.
        sets: where pictures of test images come from.
    """
    records = [record for row in rows for record in row.runs]
    made, damaged = ratio_figures(rows), []
    answers = target_figures(rows, sets)
    used = {record.spec.dataset.name for record in records}
    curves: tuple[tuple[str, Callable[..., Figure]], ...] = (
        ("sensitivity", sensitivity),
        ("filter-k", filter_curve),
    )
    for name, draw in curves:
        for dataset in (label for label in dataset_labels() if label in used):
            figure = draw(records, dataset)
            if any(point["records"] for point in figure.numbers["points"]):
                shown = _shown(f"figure-{name}-{dataset}", figure.picture, dataset)
                made += [shown] if shown.plots else []
    for stem, numbers in drawn:
        try:
            if numbers.get("figure") == "features":
                made.append(_shown(f"figure-{stem}", _features(numbers)))
            elif numbers.get("figure") == "2":
                answers.append(drawn_predictions(numbers, records, sets))
            elif numbers.get("figure") == "1":
                made.append(_shown_noise(stem, numbers, records))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            fault = f"expected a figure's numbers, got {type(error).__name__}: {error}"
            damaged.append(Trouble(f"figures/{stem}.json", fault))
    return Figures(made, answers, damaged)


def ratio_figures(rows: Sequence[Row]) -> list[Shown]:
    """Accuracy against the poison ratio, for poisons that differ in it alone, by defense."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.rho and row.poison is None and not row.scenario:
            key = (row.dataset, row.digest, row.model, row.attack, row.settings)
            groups.setdefault(key, []).append(row)
    made = []
    for (dataset, *_, attack, settings), own in groups.items():
        if len(own) < 2:
            continue
        lines: dict[str, list[tuple[float, float, float | None, float | None]]] = {}
        for row in sorted(own, key=lambda row: row.rho):
            for entry in row.entries:
                measured = entry.accuracy.measured if entry.is_plain else None
                if isinstance(measured, Summary):
                    low, high = mean_interval(measured) or (None, None)
                    lines.setdefault(entry.label, []).append((row.rho, measured.mean, low, high))
        name = ", ".join(filter(None, (dataset, attack, settings)))
        panel = percent_panel("test accuracy", "rho", lines)
        caption = "Mean of the trials and its 95 % interval (Student's t; none of one trial)."
        panels = Panels(title=f"Accuracy by poison ratio: {name}", panels=[panel], caption=caption)
        made.append(_shown(f"ratio-{own[0].id}", panels, dataset))
    return made


def _shown_noise(stem: str, numbers: Mapping[str, Any], records: Sequence[RunRecord]) -> Shown:
    """HINT's Figure 1: its noise on some images, and what it does to all that it selects."""
    rows = []
    for name, part in numbers["all_selected"].items():
        before = 100 * float(part["mean_true_confidence_before"])
        healthy = part["healthy"]
        rows.append(
            (
                str(name),
                f"{int(part['images']):,}",
                f"{before:.2f}",
                f"{100 * float(healthy['mean_true_confidence_after']):.2f}",
                f"{100 * float(part['right_before']):.2f}",
                f"{100 * float(healthy['right_after']):.2f}",
                str(healthy["turned_right"]),
                str(healthy["turned_wrong"]),
            )
        )
    columns = (
        *("selected images", "images", "confidence before, %", "after, %"),
        *("right before, %", "after, %", "turned right", "turned wrong"),
    )
    title = f"HINT's healthy noise: {numbers['dataset']['name']}"
    block = Block(title=title, columns=columns, rows=tuple(rows), keys=1)
    caption = (
        "After Figure 1 of the HINT paper: class and probability by the model as HINT has it in "
        "its first round, without and with its noise. Grey is no noise, white raises and black "
        "lowers a pixel; the noise is amplified as it says, the answers are of the noise as it "
        "is. The table is of all images that HINT selects: the model's confidence in the true "
        "class, and whether it is right."
    )
    table = Table(key=stem, title=title, blocks=(block,), notes=(caption,))
    own = {record.spec.dataset.digest: record.labels.dataset for record in records}
    return Shown(
        id=f"figure-{_anchor(stem)}",
        title=title,
        plots=(),
        table=table,
        caption=caption,
        dataset=own.get(str(numbers["dataset"]["digest"]), ""),
        tiles=noise_tiles(numbers["images"]),
    )


def _shown(name: str, picture: Any, dataset: str = "") -> Shown:
    """The figure of a name, as an anchor."""
    assert isinstance(picture, Panels)
    # One value across is no curve.
    curves = [panel for panel in picture.panels if len({x for s in panel.series for x in s.x}) > 1]
    plots = tuple((panel.title, plot(panel)) for panel in curves)
    blocks = tuple(_block(panel) for panel in picture.panels)
    table = Table(key=name, title=picture.title, blocks=blocks, notes=(picture.caption,))
    return Shown(
        id=_anchor(name),
        title=picture.title,
        plots=plots,
        table=table,
        caption=picture.caption,
        dataset=dataset,
    )


def _anchor(name: str) -> str:
    """A name as an anchor."""
    return "".join(letter if letter.isalnum() else "-" for letter in name)


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
