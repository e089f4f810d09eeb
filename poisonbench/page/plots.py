"""Plots as SVG inside the page: lines with intervals and clouds of points, as plain data elsewhere.

The picture is text: its colours are the style sheet's, so that it follows light and dark, it prints
sharply, needs no script, and the same numbers give the same bytes. matplotlib, which draws files
for papers, takes 50 ms and 10 kB for each, too much for thousands of learning curves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from poisonbench.figures.drawing import COLOURS, Panel, Series

# Sizes in units of the picture, of which its letters have 11.
_WIDTH, _HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 40

#: Markers by number of the series, around (0, 0), as wide as ``r`` = 1 twice.
_SHAPES = (
    "M-1,0a1,1 0 1,0 2,0a1,1 0 1,0 -2,0z",
    "M-.9,-.9h1.8v1.8h-1.8z",
    "M0,-1.15L1.05,.8h-2.1z",
    "M0,-1.2L1.2,0L0,1.2L-1.2,0z",
    "M0,1.15L1.05,-.8h-2.1z",
    "M-.4,-1.1h.8v.7h.7v.8h-.7v.7h-.8v-.7h-.7v-.8h.7z",
    "M0,-.5L.7,-1.2L1.2,-.7L.5,0L1.2,.7L.7,1.2L0,.5L-.7,1.2L-1.2,.7L-.5,0L-1.2,-.7L-.7,-1.2z",
)


#: Sizes of a cloud's point, of a line's, and of one to look at.
_SIZES = (2.6, 4, 7)

#: The markers once for all pictures of a page, which name them; it is no picture itself.
MARKERS = Markup(
    '<svg class="plot shared" aria-hidden="true"><defs>'
    + "".join(
        f'<path id="m{number}-{size:g}" transform="scale({size:g})" d="{shape}"/>'
        for number, shape in enumerate(_SHAPES)
        for size in _SIZES
    )
    + "</defs></svg>"
)

#: Between the intervals of lines at one place.
_APART = 4


@dataclass(frozen=True)
class Axis:
    """The span of an axis and its round numbers."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, value: float, start: float, end: float) -> float:
        """Where a value lies between two ends of the picture."""
        return start + (value - self.low) / (self.high - self.low) * (end - start)


def axis_over(values: Sequence[float], ticks: int = 4) -> Axis:
    """An axis that holds the values with some air, and about so many round steps."""
    low, high = min(values), max(values)
    if low == high:
        half = abs(low) / 50 or 0.5
        low, high = low - half, high + half
    air = (high - low) * 0.06
    low, high = low - air, high + air
    step = 10 ** math.floor(math.log10((high - low) / ticks))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= ticks + 1)
    first = math.ceil(low / step)
    marks = [round(n * step, 10) for n in range(first, math.floor(high / step) + 1)]
    return Axis(low, high, tuple(marks))


def plot(panel: Panel, *, has_markers: bool = True, links: Sequence[Sequence[str]] = ()) -> Markup:
    """Draw one pair of axes; the legend stands below, beside no point.

    Args:
        panel: lines or clouds of points.
        has_markers: whether each point of a line has a mark, a name and its interval.
        links: for each series, the anchor that each of its points opens.
    """
    xs = [x for one in panel.series for x in one.x]
    ys = [y for one in panel.series for y in (*one.y, *one.low, *one.high) if y is not None]
    pairs = [(x, y) for x, y in zip(xs, xs, strict=True) if math.isfinite(x) and math.isfinite(y)]
    ys = [y for y in ys if math.isfinite(y)]
    if not pairs or not ys:
        return Markup("")
    across, up = axis_over([x for x, _ in pairs]), axis_over(ys)
    parts = [_frame(panel, across, up)]
    # Intervals at the same place would hide each other.
    apart = _APART if has_markers and any(one.joined and one.low for one in panel.series) else 0
    for number, series in enumerate(panel.series):
        own = links[number] if number < len(links) else ()
        shift = apart * (number - (len(panel.series) - 1) / 2)
        group = _series(series, number, (across, up), own, has_markers=has_markers)
        parts.append(group if not shift else f'<g transform="translate({shift:g})">{group}</g>')
    body = "".join(parts)
    named = escape(f"{panel.title}: {panel.y_label} against {panel.x_label}")
    legend = "" if len(panel.series) < 2 else _legend(panel.series)
    picture = (
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{named}">'
        f"{body}</svg>"
    )
    if links:
        # Links inside are controls of their own, which an image must not hide.
        picture = picture.replace('role="img"', 'role="group"', 1)
    return Markup(picture + legend)


def _frame(panel: Panel, across: Axis, up: Axis) -> str:
    """Grid, numbers and names of the axes."""
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    columns = [(tick, across.place(tick, _LEFT, right)) for tick in across.ticks]
    lines = [(tick, up.place(tick, bottom, _TOP)) for tick in up.ticks]
    grid = "".join(f"M{x:.1f},{_TOP}V{bottom}" for _, x in columns)
    below = "".join(f'<text x="{x:.1f}">{tick:g}</text>' for tick, x in columns)
    beside = "".join(f'<text y="{y:.1f}">{tick:g}</text>' for tick, y in lines)
    middle = (_TOP + bottom) / 2
    levels = "".join(f"M{_LEFT},{y:.1f}H{right}" for _, y in lines)
    return (
        f'<path class="grid" d="{levels}"/>'
        f'<g class="y" transform="translate({_LEFT - 5},4)">{beside}</g>'
        f'<g class="across"><path class="grid" d="{grid}"/>'
        f'<path class="axis" d="M{_LEFT},{_TOP}V{bottom}H{right}"/>'
        f'<g class="x" transform="translate(0,{bottom + 14})">{below}</g>'
        f'<text class="name" x="{(_LEFT + right) / 2:g}" y="{_HEIGHT - 8}">'
        f"{escape(panel.x_label)}</text>"
        f'<text class="name" transform="translate(12,{middle:g}) rotate(-90)">'
        f"{escape(panel.y_label)}</text></g>"
    )


def _series(
    series: Series, number: int, axes: tuple[Axis, Axis], links: Sequence[str], *, has_markers: bool
) -> str:
    across, up = axes
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    points = [
        (x, y, across.place(x, _LEFT, right), up.place(y, bottom, _TOP))
        for x, y in zip(series.x, series.y, strict=True)
        if math.isfinite(x) and math.isfinite(y)
    ]
    style = f"s{number % len(COLOURS)}"
    parts = []
    if series.joined and len(points) > 1:
        path = " ".join(f"{px:.1f},{py:.1f}" for _, _, px, py in points)
        dash = ' stroke-dasharray="5 4"' if series.dashed else ""
        parts.append(f'<polyline class="line" points="{path}"{dash}/>')
    if has_markers:
        for i, (x, y, px, py) in enumerate(points):
            ends = [side[i] if i < len(side) else None for side in (series.low, series.high)]
            if ends[0] is not None and ends[1] is not None:
                low, high = (up.place(end, bottom, _TOP) for end in ends if end is not None)
                bar = f"M{px:.1f},{low:.1f}V{high:.1f}M{px - 3:.1f},{low:.1f}h6"
                parts.append(f'<path class="whisker" d="{bar}M{px - 3:.1f},{high:.1f}h6"/>')
            size = _SIZES[2 if series.emphasised else int(series.joined)]
            shape = _shape(number, px, py, size)
            shape = f"<g>{shape}<title>{escape(f'{series.label}: {x:g}, {y:.4g}')}</title></g>"
            if i < len(links):
                name = escape(f"{series.label}: {x:g}, {y:.4g}")
                shape = f'<a href="#{escape(links[i])}" aria-label="{name}">{shape}</a>'
            parts.append(shape)
    return f'<g class="{style}">{"".join(parts)}</g>'


def _shape(number: int, x: float, y: float, size: float) -> str:
    return f'<use href="#m{number % len(_SHAPES)}-{size:g}" x="{x:.1f}" y="{y:.1f}"/>'


def _legend(series: Sequence[Series]) -> str:
    items = []
    for number, one in enumerate(series):
        if not one.x:
            # A series without points keeps its colour, and has nothing to explain.
            continue
        dash = ' stroke-dasharray="5 4"' if one.dashed else ""
        line = f'<path class="line" d="M1,7H27"{dash}/>' if one.joined else ""
        items.append(
            f'<li><svg class="key s{number % len(COLOURS)}" viewBox="0 0 28 14" aria-hidden="true">'
            f"{line}{_shape(number, 14, 7, _SIZES[1])}</svg>{escape(one.label)}</li>"
        )
    return f'<ul class="legend">{"".join(items)}</ul>'
