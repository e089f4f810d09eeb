"""Pictures: a grid of images with captions, and lines with intervals. No torch here.

A picture is plain data until :func:`draw` turns it into PNG and SVG. The same picture gives the
same bytes with the same matplotlib: no dates, no random ids, no settings of the user's. matplotlib
is imported where it is used, so that the command line starts fast; its global state is left alone.
"""

from __future__ import annotations

import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poisonbench.core.files import write_bytes

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure as Canvas
    from numpy.typing import NDArray

#: Okabe and Ito's colours, which people with any common colour blindness tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: Beside colours, so that a black-and-white print can be read.
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
#: The colour of a right, a wrong and any other text, and the mark before it.
_ANSWERS = {True: (COLOURS[0], "\u2713 "), False: (COLOURS[1], "\u2717 "), None: ("black", "")}

# Sizes in inches, of text in points.
_TILE, _GAP, _MARGIN, _LABEL, _LINE = 1.3, 0.15, 0.15, 1.35, 0.16
_PANEL_WIDTH, _PANEL_HEIGHT = 4.8, 3.84
_SMALL, _NORMAL, _LARGE = 8, 9, 11
_DPI = 150
#: Mean width of a letter of the font, in its size.
_LETTER = 0.56


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One square of a grid: pixels (H, W) or (H, W, 3) in [0, 1], text below or instead.

    A text that is a right or wrong answer is coloured and marked as such.
    """

    pixels: NDArray[np.floating[Any]] | None = None
    text: str = ""
    is_right: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Images with captions, rows x columns; a column's heading may have two lines."""

    title: str
    columns: Sequence[str]
    rows: Sequence[str]
    tiles: Sequence[Sequence[Tile]]
    caption: str


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line, or a cloud of points that are not joined."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    #: Ends of each point's interval; None where there is none.
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    dashed: bool = False
    joined: bool = True
    #: Large points, on top of all others.
    emphasised: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One pair of axes with its lines."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]


@dataclass(frozen=True, kw_only=True)
class Panels:
    """Axes with lines or clouds of points, side by side."""

    title: str
    panels: Sequence[Panel]
    caption: str


@dataclass(frozen=True)
class Figure:
    """A picture and the numbers behind it: plain JSON values that name the runs they come from."""

    picture: Grid | Panels
    numbers: dict[str, Any]

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        return draw(self.picture)["png"]


def draw(picture: Grid | Panels) -> dict[str, bytes]:
    """The picture's files by suffix: ``{"png": ..., "svg": ...}``. Text in the SVG stays text."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "font.family": ["DejaVu Sans", "sans-serif"],
                "font.size": _SMALL,
                "svg.fonttype": "none",
                "svg.hashsalt": "poisonbench",
                # A class may be called "$".
                "text.parse_math": False,
            }
        )
        figure = _draw_grid(picture) if isinstance(picture, Grid) else _draw_panels(picture)
        return {
            "png": _file(figure, "png", {"Software": None}),
            "svg": _file(figure, "svg", {"Date": None, "Creator": None}),
        }


def write_figure(folder: Path, name: str, figure: Figure) -> list[Path]:
    """Write ``name.png``, ``name.svg`` and, of the numbers shown, ``name.json``; their paths.

    Raises:
        StoreError: the folder cannot be written.
    """
    files = draw(figure.picture)
    numbers = json.dumps(figure.numbers, indent=1, sort_keys=True, allow_nan=False) + "\n"
    files["json"] = numbers.encode()
    for suffix, data in files.items():
        write_bytes(folder / f"{name}.{suffix}", data)
    return [folder / f"{name}.{suffix}" for suffix in files]


def percent_panel(
    quantity: str,
    axis: str,
    lines: Mapping[str, Sequence[tuple[float, float, float | None, float | None]]],
) -> Panel:
    """Axes of a quantity, a share of 1 that is drawn in percent, against another.

    Lines are by label their points (x, mean, low, high); the one called published is dashed.
    """
    return Panel(
        title=f"{quantity} against {axis}",
        x_label=axis,
        y_label=f"{quantity} in percent",
        series=[
            Series(
                label=label,
                x=[x for x, *_ in points],
                y=[100 * mean for _, mean, *_ in points],
                low=[low and 100 * low for *_, low, _ in points],
                high=[high and 100 * high for *_, high in points],
                dashed=label == "published",
            )
            for label, points in lines.items()
        ],
    )


def _file(figure: Canvas, kind: str, metadata: dict[str, None]) -> bytes:
    stream = io.BytesIO()
    style: dict[str, Any] = {"dpi": _DPI, "bbox_inches": "tight", "pad_inches": _MARGIN}
    figure.savefig(stream, format=kind, metadata=metadata, **style)
    return stream.getvalue()


def _wrap(text: str, width: float, size: float) -> str:
    """Break a text into lines of at most that many inches; line breaks of the text are kept."""
    letters = max(20, int(width * 72 / (size * _LETTER)))
    return "\n".join(textwrap.fill(part, letters) for part in text.split("\n"))


def _sheet(title: str, width: float) -> Canvas:
    """A figure of one inch, so that its fractions are inches, with a title above (0, 0).

    What is outside of it is saved as well.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1, 1), facecolor="white")
    figure.text(0, _GAP, _wrap(title, width, _LARGE), size=_LARGE, weight="bold", va="bottom")
    return figure


def _draw_grid(grid: Grid) -> Canvas:
    lefts = [_LABEL + column * (_TILE + _GAP) for column in range(len(grid.columns))]
    width = _LABEL + len(lefts) * (_TILE + _GAP)
    figure = _sheet(grid.title, width)
    top = -_LINE * max((_lines(text) for text in grid.columns), default=0)
    for left, heading in zip(lefts, grid.columns, strict=True):
        figure.text(left + _TILE / 2, top, heading, ha="center", va="bottom", weight="bold")
    top -= _GAP / 2
    for label, tiles in zip(grid.rows, grid.tiles, strict=True):
        lines = max(_lines(tile.text) for tile in tiles) * _LINE
        has_image = any(tile.pixels is not None for tile in tiles)
        # Text is below the row's images, or in the middle of a row without.
        height = _TILE if has_image else max(lines, _lines(label) * _LINE, _LINE)
        middle = top - height / 2
        y, anchor = (top - _TILE - 0.05, "top") if has_image else (middle, "center")
        figure.text(0, middle, label, va="center", size=_NORMAL)
        for left, tile in zip(lefts, tiles, strict=True):
            if tile.pixels is not None:
                _draw_image(figure.add_axes((left, top - _TILE, _TILE, _TILE)), tile.pixels)
            colour, mark = _ANSWERS[tile.is_right]
            style: dict[str, Any] = {
                "ha": "center",
                "va": anchor,
                "color": colour,
                "linespacing": 1.25,
            }
            figure.text(left + _TILE / 2, y, mark + tile.text, **style)
        top -= height + (lines + 1.4 * _GAP if has_image else _GAP)
    figure.text(0, top - _GAP, _wrap(grid.caption, width, _SMALL), va="top", linespacing=1.25)
    return figure


def _lines(text: str) -> int:
    return text.count("\n") + 1 if text else 0


def _draw_image(axes: Any, pixels: NDArray[np.floating[Any]]) -> None:
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color="#999999", linewidth=0.5)


def _draw_panels(chart: Panels) -> Canvas:
    longest = max((len(one.label) for panel in chart.panels for one in panel.series), default=0)
    step = _PANEL_WIDTH + 1.3 + longest * _SMALL * _LETTER / 72
    width = len(chart.panels) * step
    figure = _sheet(chart.title, width)
    bottom = -_PANEL_HEIGHT - 0.3
    for number, panel in enumerate(chart.panels):
        axes = figure.add_axes((0.5 + number * step, bottom, _PANEL_WIDTH, _PANEL_HEIGHT))
        for index, series in enumerate(panel.series):
            # One without points keeps its colour free, so that a line looks alike in all panels.
            if series.x:
                _draw_series(axes, series, index)
        axes.set_title(panel.title, fontsize=_NORMAL, fontweight="bold")
        axes.set(xlabel=panel.x_label, ylabel=panel.y_label)
        axes.grid(color="#DDDDDD", linewidth=0.5)
        axes.set_axisbelow(True)
        if any(series.x for series in panel.series):
            # Beside the axes, where no point can be.
            axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    caption = _wrap(chart.caption, width, _SMALL)
    figure.text(0, bottom - 0.55, caption, va="top", linespacing=1.25)
    return figure


def _draw_series(axes: Any, series: Series, index: int) -> None:
    import numpy as np

    style = {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": ("--" if series.dashed else "-") if series.joined else "none",
        "linewidth": 1.2,
        "markersize": 10 if series.emphasised else 4,
        "markeredgecolor": "white" if series.emphasised else None,
        "zorder": 3 if series.emphasised else 2,
    }
    errors = None
    if any(end is not None for end in (*series.low, *series.high)):
        # None becomes NaN, and a distance of NaN is not drawn; one of 0 would be, as a whisker.
        low, high = (np.array(ends, dtype=float) for ends in (series.low, series.high))
        errors = np.stack([series.y - low, high - series.y])
    axes.errorbar(series.x, series.y, errors, label=series.label, capsize=3, **style)
