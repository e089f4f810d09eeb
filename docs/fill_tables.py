"""Write the shipped records' figures into the tables of README.md and of docs/findings.md.

    python docs/fill_tables.py

Run it after records came into docs/records/runs. A table is known by the heading above it, a figure
by the names of its row and column, which are those of the report's table; rows and columns that the
report does not have are left as they are. Records that no page names yet are listed at the end of
docs/runs.md.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

from poisonbench import registry
from poisonbench.entries import DefenseEntry, forms_of
from poisonbench.results.records import RunRecord
from poisonbench.results.store import Store
from poisonbench.tables import catalogue

ROOT = Path(__file__).parents[1]

#: Pages that name the records that they rest on.
NAMING = ("docs/findings.md", "docs/benchmarks.md", "docs/runs.md")

#: The heading of docs/runs.md that the list of what is not named elsewhere stands under.
UNNAMED = "## Runs that no section above names"

#: What the pages call plain training.
PLAIN = ("plain", "plain training")

#: A column of the same weights with the test batches' statistics.
BY_BATCH = "by batch statistics"

#: A column of the defense with the highest mean of all with a row's usual runs, and of that mean.
HIGHEST = "highest of all"

#: How many defenses must have some number of runs for those with fewer to be left out.
ENOUGH = 5


class Shown(NamedTuple):
    """A report's table by its number, and the data set that it is of."""

    key: str
    dataset: str


#: Figures by the names of row and column, as the report's table shows them.
Grid = dict[tuple[str, str], str]


@dataclass(frozen=True)
class Place:
    """Tables of one page that show one data set.

    Attributes:
        heading: the nearest heading above them, whole.
        first: the first column's name, which tells such a table from others there.
        shown: what they show.
        show: gives what stands in a cell, given the report's text.
    """

    page: str
    heading: str
    first: str
    shown: Shown
    show: Callable[[str], str]


def with_trials(text: str) -> str:
    """``11.43 [9.22, 13.64] (3)`` as ``11.43 (3)``, and one trial's without its number."""
    mean, *_, trials = text.split(" ")
    return mean if trials == "(1)" else f"{mean} {trials}"


def with_deviation(text: str) -> str:
    """``98.67±0.17 (5)`` as ``98.67 ± 0.17``, and other than five trials with their number."""
    return text.removesuffix(" (5)").replace("±", " ± ")


def rounded(text: str) -> str:
    """The mean with one decimal, and in its column the name of the defense that has the highest."""
    mean, *others = text.split(" ")
    name = "".join(f"{word} " for word in others if word.startswith("`"))
    return name + str(Decimal(mean).quantize(Decimal("0.1"), ROUND_HALF_UP))


_FALL = "## Does Table II's fall reproduce?"
_FIELD = "# The field as it is: attacks by defenses"
_COLOUR = "## Each attack alone, and cheap filters, in colour"
_BESIDE = "## Beside the published tables"
_ADVICE = "## What to use against what"
_DIGITS, _OBJECTS = "mnist-sample", "cifar10@10000"
PLACES = (
    Place("docs/findings.md", _FALL, "rho", Shown("2", _DIGITS), with_deviation),
    Place("docs/findings.md", _FIELD, "trained on", Shown("matrix", _DIGITS), with_trials),
    Place("docs/findings.md", _COLOUR, "trained on", Shown("matrix", _OBJECTS), with_trials),
    Place("docs/findings.md", _BESIDE, "attack", Shown("matrix", _OBJECTS), with_trials),
    Place("README.md", _ADVICE, "digits", Shown("matrix", _DIGITS), rounded),
    Place("README.md", _ADVICE, "colour", Shown("matrix", _OBJECTS), rounded),
)


def filled(page: str, text: str, grids: Mapping[Shown, Grid]) -> str:
    """The page's text with the figures of the reports in its tables."""
    for place in (place for place in PLACES if place.page == page):
        before, heading, after = text.partition(f"\n{place.heading}\n")
        if not heading:
            raise ValueError(f"{page}: expected the heading {place.heading!r}")
        section, rest = _until_next_heading(after)
        grid = grids[place.shown]
        head = re.escape(f"| {place.first} |")
        parts = re.split(rf"(^{head}.*\n(?:\|.*\n)+)", section, flags=re.MULTILINE)
        parts[1::2] = [_filled_table(table, grid, place.show) for table in parts[1::2]]
        text = before + heading + "".join(parts) + rest
    return text


def _until_next_heading(text: str) -> tuple[str, str]:
    found = re.search(r"^#+ ", text, re.MULTILINE)
    end = found.start() if found else len(text)
    return text[:end], text[end:]


def _filled_table(table: str, grid: Grid, show: Callable[[str], str]) -> str:
    head, rule, *rows = table.splitlines()
    columns = [column_name(name) for name in _words(head)]
    lines = [head, rule]
    for row in rows:
        label, *figures = _words(row)
        shown = [
            show(grid[label, name]) if (label, name) in grid else old
            for name, old in zip(columns[1:], figures, strict=True)
        ]
        lines.append("| " + " | ".join((label, *shown)) + " |")
    return "\n".join(lines) + "\n"


def _words(line: str) -> list[str]:
    return [word.strip() for word in line.strip().removeprefix("|").removesuffix("|").split("|")]


def column_name(name: str) -> str:
    """The report's name of a page's column: ``jpeg:10`` in quotes is ``JPEG 10``."""
    if name in PLAIN:
        return registry.defenses()["none"].title
    return registry.form_label(name.strip("`")) if name.startswith("`") else name


def grid_of(key: str, dataset: str, records: Sequence[RunRecord]) -> Grid:
    """The figures of the report's first block; of a matrix batch statistics' column too."""
    grid = block_of(key, dataset, records)
    if key == "matrix":
        first_trials = [record for record in records if record.spec.trial == 0]
        grid |= highest(grid, block_of(key, dataset, first_trials))
        again = block_of("matrix-batch-norm", dataset, records)
        plain = registry.defenses()["none"].title
        grid |= {(row, BY_BATCH): text for (row, name), text in again.items() if name == plain}
    return grid


def block_of(key: str, dataset: str, records: Sequence[RunRecord]) -> Grid:
    """The figures of the report's first block, as it has them."""
    block = catalogue.build(key, records, dataset).filled_blocks[0]
    return {
        (_number(row[0]), column): text
        for row in block.rows
        for column, text in zip(block.columns[1:], row[1:], strict=True)
        if text != "-"
    }


def highest(grid: Grid, first: Grid) -> Grid:
    """Of each attack the defense of the highest mean, of those with as many runs as five have.

    Where no five have more than one run the first trials are compared, which are of one draw; the
    figure is the mean of all.
    """
    names = {
        registry.label_of(entry.name, form.get): name
        for entry in registry.defenses().values()
        for name, form in {entry.name: {}, **_forms(entry)}.items()
    }
    plain = registry.defenses()["none"].title
    found: Grid = {}
    for row in (row for row, column in grid if column == plain and row != "clean"):
        runs = {
            column: _runs(text)
            for (of, column), text in grid.items()
            if of == row and column in names and _runs(text)
        }
        usual = _runs_of_enough([count for column, count in runs.items() if column != plain])
        of_all = first if usual == 1 else grid
        cells = {
            column: of_all[row, column]
            for column, count in runs.items()
            if column != plain and count >= usual and (row, column) in of_all
        }
        if cells:
            column = max(cells, key=lambda column: _mean(cells[column]))
            found[row, HIGHEST] = f"{grid[row, column]} `{names[column]}`"
    return found


def _runs_of_enough(counts: Sequence[int]) -> int:
    """The most runs that some defenses have of whom there are enough; else one."""
    return max((n for n in counts if sum(count >= n for count in counts) >= ENOUGH), default=1)


def _mean(text: str) -> Decimal:
    """The figure of a cell, without its interval and runs."""
    return Decimal(text.partition(" ")[0])


def _runs(text: str) -> int:
    """How many runs a cell is of, 2 of ``48.00 [46.60, 49.40] (2)``; none of a row's summary."""
    match = re.search(r"\((\d+)\)$", text)
    return int(match[1]) if match else 0


def _forms(entry: DefenseEntry) -> dict[str, dict[str, Any]]:
    forms = forms_of(entry.labels)
    return {f"{entry.name}:{form}": settings for form, settings in forms.items()}


def _number(label: str) -> str:
    """A row's name; a ratio as short as it can be."""
    return label.removesuffix(".0")


def grids_of(records: Sequence[RunRecord]) -> dict[Shown, Grid]:
    """All that the pages show."""
    return {shown: grid_of(*shown, records) for shown in {place.shown for place in PLACES}}


def listed(text: str, records: Sequence[RunRecord], named: set[str]) -> str:
    """docs/runs.md with the records that ``named`` lacks at its end, by data, method and attack."""
    text = text.partition(f"\n{UNNAMED}\n")[0].rstrip("\n") + "\n"
    groups: dict[str, list[str]] = {}
    for record in sorted((r for r in records if r.id not in named), key=_order):
        groups.setdefault(_group(record), []).append(record.id)
    if not groups:
        return text
    lines = "; ".join(f"{name}: {' '.join(ids)}" for name, ids in groups.items())
    said = f"By data, defense and poison, in the order of trials. {lines}."
    return f"{text}\n{UNNAMED}\n\n" + fill(said, 100, break_on_hyphens=False) + "\n"


def _group(record: RunRecord) -> str:
    spec = record.spec
    poison = (
        f"{'+'.join(spec.poison.attacks)} at rho {spec.poison.rho:g}" if spec.poison else "clean"
    )
    return f"{spec.dataset.name}, {spec.method}, {poison}"


def _order(record: RunRecord) -> tuple[str, int]:
    return _group(record), record.spec.trial


def main() -> None:
    """Write the pages anew where anything changes."""
    records = Store(ROOT / "docs" / "records").records(print)
    grids = grids_of(records)
    for page in dict.fromkeys(place.page for place in PLACES):
        path = ROOT / page
        path.write_text(filled(page, path.read_text(), grids))
    runs = ROOT / "docs" / "runs.md"
    runs.write_text(listed(runs.read_text(), records, named_ids()))


def named_ids() -> set[str]:
    """Ids that the pages name, but for the list that is made here."""
    texts = [(ROOT / page).read_text().partition(f"\n{UNNAMED}\n")[0] for page in NAMING]
    return set(re.findall(r"\b[0-9a-f]{16}\b", " ".join(texts)))


if __name__ == "__main__":
    main()
