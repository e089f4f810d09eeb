"""The pages' tables hold what the shipped records say: docs/fill_tables.py changes nothing."""

import importlib.util
import re
from pathlib import Path

import pytest

from poisonbench.results import published
from poisonbench.results.store import Store

ROOT = Path(__file__).parents[2]
#: Columns of published figures.
PUBLISHED = {"ISS": "iss", "APBench": "apbench"}
FILE = ROOT / "docs" / "fill_tables.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("fill_tables", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shipped():
    return Store(ROOT / "docs" / "records").records(pytest.fail)


def with_wrong_figures(text, place):
    """The page with 0.123 for each mean of a place's tables, and how many these are."""
    before, heading, after = text.partition(f"\n{place.heading}\n")
    count = 0

    def spoil(table):
        nonlocal count
        head, rule, *rows = table[0].splitlines()
        kept = [
            index
            for index, name in enumerate(head.split("|"))
            if " - " in name or name.strip() in PUBLISHED
        ]
        lines = [head, rule]
        for row in rows:
            cells = row.split("|")
            for index in range(2, len(cells)):
                if index not in kept and cells[index].strip():
                    cells[index] = " 0.123 "
                    count += 1
            lines.append("|".join(cells))
        return "\n".join(lines) + "\n"

    section = re.split(r"(?m)^(?=#+ )", after, maxsplit=1)
    section[0] = re.sub(rf"(?m)^\| {place.first} \|.*\n(?:\|.*\n)+", spoil, section[0])
    return before + heading + "".join(section), count


def test_the_pages_figures_are_those_of_the_shipped_records(tool, shipped):
    grids = tool.grids_of(shipped)
    for place in tool.PLACES:
        text = (ROOT / place.page).read_text()
        assert tool.filled(place.page, text, grids) == text
        # Of what its tables show nothing is left as it was written, but for columns and rows that
        # the report does not have.
        wrong, count = with_wrong_figures(text, place)
        assert count > 15
        mended = tool.filled(place.page, wrong, grids)
        left = [line for line in mended.splitlines() if "0.123" in line]
        assert all(line.startswith("| noise of ") for line in left), left
        assert place.page != "README.md" or mended == text


def test_the_published_figures_beside_ours_are_those_of_the_published_tables():
    """Each published column is of the defense of the column of ours before it."""
    defenses = {
        "plain training": {"iss": "none", "apbench": "standard"},
        "Grayscale": {"iss": "gray", "apbench": "gray"},
        "JPEG 10": {"iss": "jpeg10", "apbench": "jpeg"},
    }
    text = (ROOT / "docs/findings.md").read_text().partition("## Beside the published tables")[2]
    lines = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)[0].splitlines()
    (_, *columns), _, *rows = ([word.strip() for word in line.split("|")[1:-1]] for line in lines)
    tables = {key: published.availability(key) for key in PUBLISHED.values()}
    shown = 0
    for attack, *cells in rows:
        for name, cell in zip(columns, cells, strict=True):
            if name not in PUBLISHED:
                defense = name
                continue
            key = PUBLISHED[name]
            figure = tables[key].get(attack.lower(), {}).get(defenses[defense][key])
            assert cell == ("" if figure is None else f"{100 * figure.mean:.2f}"), (attack, name)
            shown += bool(cell)
    assert shown == 39


def test_a_page_without_its_heading_is_an_error(tool):
    with pytest.raises(ValueError, match="What to use against what"):
        tool.filled("README.md", "# poisonbench\n", {})


@pytest.mark.parametrize(
    ("show", "text", "shown"),
    [
        ("with_trials", "11.43 [9.2, 13.6] (3)", "11.43 (3)"),
        ("with_trials", "10.80 [9.5, 12.2] (1)", "10.80"),
        ("with_deviation", "98.67±0.17 (5)", "98.67 ± 0.17"),
        ("with_deviation", "98.80 (1)", "98.80 (1)"),
        ("rounded", "88.45 [86.1, 90.4] (1)", "88.5"),
        ("rounded", "88.45 [86.1, 90.4] (1) `jpeg:10`", "`jpeg:10` 88.5"),
        ("column_name", "plain", "W/o Defense"),
        ("column_name", "`jpeg:10`", "JPEG 10"),
        ("column_name", "`at:0.5`", "AT, half radius"),
        ("column_name", "UEraser-lite", "UEraser-lite"),
    ],
)
def test_figures_and_names_are_written_as_the_pages_write_them(tool, show, text, shown):
    assert getattr(tool, show)(text) == shown


def test_the_highest_of_all_has_as_many_runs_as_five_have(tool):
    """One draw flatters a defense beside the mean of several: first trials are of one.

    The figure is the mean that the defense's own column has.
    """
    grid = {
        ("clean", "W/o Defense"): "80.92 [80.1, 81.7] (1)",
        ("clean", "JPEG 10"): "72.29 [71.4, 73.2] (1)",
        ("DURP", "W/o Defense"): "51.55 [0.0, 100.0] (3)",
        ("DURP", "HINT"): "78.40 [77.6, 79.2] (1)",
        ("DURP", "JPEG 10"): "72.58 [72.0, 73.2] (3)",
        ("DURP", "UEraser"): "70.04 [67.7, 72.4] (3)",
        ("DURP", "Grayscale"): "57.51 [38.4, 76.6] (3)",
        ("DURP", "FRIENDS"): "70.10 [69.0, 71.2] (4)",
        ("DURP", "Bit depth"): "71.39 [70.0, 72.8] (3)",
        ("DURP", "BN recalibrated"): "77.94 [77.1, 78.8] (1)",
        ("DURP", "mixup"): "77.90 [77.1, 78.7] (1)",
        ("DURP", "CutMix"): "77.80 [77.0, 78.6] (1)",
        ("CUDA", "W/o Defense"): "29.79 [0.0, 76.6] (2)",
        ("CUDA", "UEraser"): "48.00 [8.1, 87.9] (2)",
        ("CUDA", "JPEG 10"): "31.85 [30.9, 32.8] (1)",
        ("CUDA", "HINT"): "35.41 [34.5, 36.4] (1)",
        ("CUDA", "AT, half radius"): "54.54 [53.6, 55.5] (1)",
        ("DC", "JPEG 10"): "71.33 [70.4, 72.2] (1)",
        ("PGD", "W/o Defense"): "37.34 [36.4, 38.3] (1)",
        ("TAP", "W/o Defense"): "14.89 [14.2, 15.6] (1)",
        ("TAP", "no defense of ours"): "90.00 [89.4, 90.6] (1)",
        ("TAP", "AT, half radius"): "9.10 [8.5, 9.7] (1)",
        ("TAP", "Grayscale"): "11.83 [11.2, 12.5] (1)",
    }
    first = grid | {
        ("DURP", "JPEG 10"): "10.00 [9.9, 10.1] (1)",
        ("CUDA", "UEraser"): "57.45 [56.5, 58.4] (1)",
    }
    assert tool.highest(grid, first) == {
        ("DURP", "highest of all"): "72.58 [72.0, 73.2] (3) `jpeg:10`",
        ("CUDA", "highest of all"): "48.00 [8.1, 87.9] (2) `ueraser`",
        ("TAP", "highest of all"): "11.83 [11.2, 12.5] (1) `grayscale`",
    }


def test_records_that_no_page_names_are_listed(tool, shipped):
    text = (ROOT / "docs" / "runs.md").read_text()
    assert tool.listed(text, shipped, tool.named_ids()) == text
    some = sorted(shipped, key=lambda record: record.id)[:2]
    grown = tool.listed("# Runs\n", some, {some[0].id})
    assert some[0].id not in grown
    assert some[1].id in grown
    assert tool.listed(grown, some, {some[0].id}) == grown
