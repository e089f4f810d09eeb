"""Pictures: the same bytes each time, text that is text, and nothing of matplotlib's state."""

import io
import re
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from PIL import Image

from poisonbench.figures.drawing import (
    Figure,
    Grid,
    Panel,
    Panels,
    Series,
    Tile,
    draw,
    write_figure,
)

GREY = np.linspace(0, 1, 36).reshape(6, 6)
RED = np.zeros((6, 6, 3))
RED[..., 0] = 1.0

GRID = Grid(
    title="a title",
    columns=["first", "two\nlines"],
    rows=["row one", "row two"],
    tiles=[
        [Tile(pixels=GREY, text="cat 61.0 %", is_right=True), Tile(pixels=RED, text="plain")],
        [Tile(text="$dog$ 5.0 %", is_right=False), Tile()],
    ],
    caption="what is shown " * 30,
)
LINES = Panels(
    title="lines",
    panels=[
        Panel(
            title="left",
            x_label="k",
            y_label="percent",
            series=[
                Series(label="measured", x=[1, 2], y=[50, 60], low=[45, None], high=[55, None]),
                Series(label="published", x=[1, 2], y=[51, 61], dashed=True),
            ],
        ),
        Panel(title="empty", x_label="k", y_label="percent", series=[]),
    ],
    caption="two panels",
)
BOTH = pytest.mark.parametrize("picture", [GRID, LINES], ids=["grid", "lines"])


@BOTH
def test_the_same_picture_gives_the_same_bytes_whatever_the_user_has_set(picture):
    first = draw(picture)
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "savefig.dpi": 10}):
        before = dict(matplotlib.rcParams)
        assert draw(picture) == first
        assert dict(matplotlib.rcParams) == before
    other = draw(replace(picture, title="another"))
    assert all(other[kind] != first[kind] for kind in ("png", "svg"))


@BOTH
def test_no_date_and_no_program_is_written(picture):
    files = draw(picture)
    assert set(Image.open(io.BytesIO(files["png"])).info) <= {"dpi"}
    assert b"<dc:date>" not in files["svg"]
    assert b"Matplotlib" not in files["svg"]


def texts(svg: bytes) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg.decode())


def test_text_of_a_grid_is_text():
    shown = texts(draw(GRID)["svg"])
    for text in ("a title", "first", "lines", "row one", "\u2713 cat 61.0 %", "plain"):
        assert text in shown
    # A dollar is no mathematics.
    assert "\u2717 $dog$ 5.0 %" in shown
    # The caption is wrapped, and whole.
    assert " ".join(shown).count("what is shown") == 30


def test_pixels_are_shown_as_they_are():
    picture = Image.open(io.BytesIO(draw(GRID)["png"])).convert("RGB")
    colours = {colour for _, colour in picture.getcolors(2**20)}
    assert {(255, 0, 0), (0, 0, 0), (255, 255, 255)} <= colours
    # 36 grey levels of the first image, to rounding.
    greys = {red for red, green, blue in colours if red == green == blue}
    assert all(any(abs(grey - 255 * level) <= 1 for grey in greys) for level in GREY.flat)


def test_lines_have_their_labels_and_intervals():
    shown = texts(draw(LINES)["svg"])
    for text in ("lines", "left", "k", "percent", "measured", "published", "two panels"):
        assert text in shown
    panel = LINES.panels[0]
    bare = replace(panel, series=[replace(panel.series[0], low=(), high=()), panel.series[1]])
    assert draw(replace(LINES, panels=[bare, LINES.panels[1]]))["svg"] != draw(LINES)["svg"]


def test_files_of_a_figure(tmp_path):
    paths = write_figure(tmp_path / "new", "figure-9", Figure(GRID, {"b": 1, "a": [0.5]}))
    assert [path.name for path in paths] == ["figure-9.png", "figure-9.svg", "figure-9.json"]
    assert paths[2].read_text() == '{\n "a": [\n  0.5\n ],\n "b": 1\n}\n'
    assert paths[0].read_bytes() == draw(GRID)["png"]
    with pytest.raises(ValueError, match="JSON"):
        write_figure(tmp_path, "bad", Figure(GRID, {"a": float("nan")}))


def test_the_legend_lies_beside_the_data():
    """A cloud fills its axes; no legend lies in them or in the next ones."""
    points = [index / 40 for index in range(41)]
    cloud = Series(label="a rather long name", x=points, y=points, joined=False)
    panel = replace(LINES.panels[0], series=[cloud, replace(cloud, label="b", emphasised=True)])
    svg = draw(replace(LINES, panels=[panel, panel]))["svg"].decode()
    ends = []
    for axes in ("patch_2", "patch_7"):
        (path,) = re.findall(rf'<g id="{axes}">\s*<path d="([^"]*)"', svg)
        sides = [float(x) for x in re.findall(r"[ML] ([-\d.]+) ", path)]
        ends.append((min(sides), max(sides)))
    legends = [float(x) for x in re.findall(r'x="([\d.]+)"[^>]*>a rather long name', svg)]
    assert ends[0][1] < legends[0] < ends[1][0]
    assert ends[1][1] < legends[1]


@pytest.mark.parametrize(("low", "high", "whiskers"), [((), (), 0), ([45, None], [55, None], 1)])
def test_whiskers_are_drawn_where_there_is_an_interval_alone(low, high, whiskers):
    line = replace(LINES.panels[0].series[0], low=low, high=high)
    svg = draw(replace(LINES, panels=[replace(LINES.panels[0], series=[line])]))["svg"].decode()
    bars = re.findall(r'<g id="LineCollection_\d+">(.*?)</g>', svg, re.S)
    # Those of the points, and the legend's.
    assert sum(bar.count("<path d=") for bar in bars) == 2 * whiskers
