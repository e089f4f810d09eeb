"""Pictures: a grid of images with captions, and lines with intervals. No torch here.

A picture is plain data until :func:`draw` turns it into PNG and SVG. The same picture gives the
same bytes with the same matplotlib: no dates, no random ids, no settings of the user's. matplotlib
is imported where it is used, so that the command line starts fast; its global state is left alone.
"""

from __future__ import annotations

import io
import json
import textwrap
from collections.abc import Sequence
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
_TILE, _GAP, _MARGIN, _LABEL, _LINE, _TITLE = 1.3, 0.15, 0.15, 1.35, 0.16, 0.36
_PANEL_WIDTH, _PANEL_HEIGHT = 4.0, 3.2
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
    """One line, or a cloud of points.

    Attributes:
        low, high: ends of each point's interval; None where there is none.
        dashed: draw it dashed, e.g. published figures beside measured ones.
        joined: connect the points by a line; otherwise they are smaller, for clouds of points.
        emphasised: large points, on top of all others.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    dashed: bool = False
    joined: bool = True
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


def percent_line(
    label: str,
    points: Sequence[tuple[float, float, float | None, float | None]],
    *,
    dashed: bool = False,
) -> Series:
    """A line of points (x, mean, low, high), whose shares of 1 are drawn in percent."""
    return Series(
        label=label,
        x=[x for x, *_ in points],
        y=[100 * mean for _, mean, *_ in points],
        low=[None if low is None else 100 * low for *_, low, _ in points],
        high=[None if high is None else 100 * high for *_, high in points],
        dashed=dashed,
    )


def _file(figure: Canvas, kind: str, metadata: dict[str, None]) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format=kind, dpi=_DPI, metadata=metadata)
    return stream.getvalue()


def _wrap(text: str, width: float, size: float) -> list[str]:
    """Split a text into lines of at most that many inches; line breaks of the text are kept."""
    letters = max(20, int(width * 72 / (size * _LETTER)))
    return [line for part in text.split("\n") for line in textwrap.wrap(part, letters) or [""]]


class _Page:
    """A figure that is filled from the top, in inches."""

    def __init__(self, width: float, height: float, title: str, caption: str):
        from matplotlib.figure import Figure

        titles = _wrap(title, width - 2 * _MARGIN, _LARGE)
        captions = _wrap(caption, width - 2 * _MARGIN, _SMALL)
        self.width = width
        self.top = _TITLE / 2 * (len(titles) + 1)
        self.height = height + _LINE * (len(captions) + 1) + self.top
        self.figure = Figure(figsize=(self.width, self.height), facecolor="white")
        self.text(_MARGIN, _MARGIN, "\n".join(titles), size=_LARGE, weight="bold", va="top")
        bottom = self.height - _LINE * (len(captions) + 0.5)
        self.text(_MARGIN, bottom, "\n".join(captions), size=_SMALL, va="top", linespacing=1.25)

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """Write text, x measured from the left and y from the top."""
        self.figure.text(x / self.width, 1 - y / self.height, text, **style)

    def axes(self, x: float, y: float, width: float, height: float) -> Any:
        """Axes whose upper left corner is there."""
        box = (x / self.width, 1 - (y + height) / self.height)
        return self.figure.add_axes((*box, width / self.width, height / self.height))


def _draw_grid(grid: Grid) -> Canvas:
    heights = [_row_height(*row) for row in zip(grid.rows, grid.tiles, strict=True)]
    headings = max((_lines(text) for text in grid.columns), default=0)
    width = 2 * _MARGIN + _LABEL + len(grid.columns) * (_TILE + _GAP)
    height = sum(heights) + headings * _LINE + _GAP
    page = _Page(width, height, grid.title, grid.caption)
    lefts = [_MARGIN + _LABEL + column * (_TILE + _GAP) for column in range(len(grid.columns))]
    top = page.top + headings * _LINE
    for left, heading in zip(lefts, grid.columns, strict=True):
        page.text(left + _TILE / 2, top, heading, ha="center", va="bottom", weight="bold")
    top += _GAP / 2
    for label, tiles, height in zip(grid.rows, grid.tiles, heights, strict=True):
        image = _TILE if any(tile.pixels is not None for tile in tiles) else 0
        middle = top + (image or height - _GAP) / 2
        page.text(_MARGIN, middle, label, va="center", size=_NORMAL)
        for left, tile in zip(lefts, tiles, strict=True):
            if tile.pixels is not None:
                _draw_image(page.axes(left, top, _TILE, _TILE), tile.pixels)
            y, anchor = (top + image + 0.05, "top") if image else (middle, "center")
            colour, mark = _ANSWERS[tile.is_right]
            style = {"ha": "center", "va": anchor, "color": colour, "linespacing": 1.25}
            page.text(left + _TILE / 2, y, mark + tile.text, **style)
        top += height
    return page.figure


def _lines(text: str) -> int:
    return text.count("\n") + 1 if text else 0


def _row_height(label: str, tiles: Sequence[Tile]) -> float:
    lines = max(_lines(tile.text) for tile in tiles)
    if any(tile.pixels is not None for tile in tiles):
        return _TILE + lines * _LINE + 1.4 * _GAP
    return max(lines, _lines(label), 1) * _LINE + _GAP


def _draw_image(axes: Any, pixels: NDArray[np.floating[Any]]) -> None:
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color="#999999", linewidth=0.5)


def _draw_panels(chart: Panels) -> Canvas:
    longest = max((len(one.label) for panel in chart.panels for one in panel.series), default=0)
    step = _PANEL_WIDTH + 1.3 + longest * _SMALL * _LETTER / 72
    width = 2 * _MARGIN + len(chart.panels) * step
    page = _Page(width, _PANEL_HEIGHT + 0.85, chart.title, chart.caption)
    for number, panel in enumerate(chart.panels):
        left = _MARGIN + 0.65 + number * step
        axes = page.axes(left, page.top + 0.3, _PANEL_WIDTH, _PANEL_HEIGHT)
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
    return page.figure


def _draw_series(axes: Any, series: Series, index: int) -> None:
    import numpy as np

    style = {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": ("--" if series.dashed else "-") if series.joined else "none",
        "linewidth": 1.2,
        "markersize": 9 if series.emphasised else 4 if series.joined else 3,
        "markeredgecolor": "white" if series.emphasised else None,
        "zorder": 3 if series.emphasised else 2,
    }
    errors = None
    if any(end is not None for end in (*series.low, *series.high)):
        # None becomes NaN, and a distance of NaN is not drawn; one of 0 would be, as a whisker.
        low, high = (np.array(ends, dtype=float) for ends in (series.low, series.high))
        errors = np.stack([series.y - low, high - series.y])
    axes.errorbar(series.x, series.y, errors, label=series.label, capsize=3, **style)
