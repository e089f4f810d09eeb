"""The README's advice is the best of its tables, whose figures are those of the shipped records."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def advice():
    """Of each of the README's tables of advice the rows, by attack, by defense and its form."""
    text = (ROOT / "README.md").read_text().partition("## What to use against what")[2]
    for table in re.findall(r"(?:^\|.*\n)+", text.partition("\n## ")[0], re.MULTILINE):
        head, _, *rows = (
            [word.strip() for word in line.strip("|").split("|")] for line in table.splitlines()
        )
        if head.pop() != "highest of all":
            continue
        highest = [row.pop() for row in rows]
        columns = []
        for name in head[1:]:
            method, _, form = name.strip("`").partition(":")
            columns.append((method.replace("plain", "none"), form))
        for row, cell in zip(rows, highest, strict=True):
            assert bool(cell) == (row[0] != "clean")
            assert not cell or float(cell.split()[1]) >= max(map(float, row[2:]))
        yield {
            row[0]: {
                name: float(figure) for name, figure in zip(columns, row[1:], strict=True) if figure
            }
            for row in rows
        }


def test_what_the_readme_says_to_use_is_the_best_of_its_table():
    digits, colour = advice()
    for figures in (row for name, row in digits.items() if name != "clean"):
        assert max(figures, key=figures.__getitem__) == ("ueraser", "lite")
    worst = {
        column: min(
            row[column] for name, row in colour.items() if name != "clean" and column in row
        )
        for column in colour["clean"]
    }
    assert sorted(worst, key=worst.__getitem__)[-2:] == [
        ("ueraser", "lite"),
        ("ueraser", "lite-jpeg"),
    ]
    but_cuda = {name: row for name, row in colour.items() if name not in ("clean", "CUDA")}
    least = {column: min(row.get(column, 100) for row in but_cuda.values()) for column in worst}
    assert sorted(least, key=least.__getitem__)[-2:] == [("jpeg", "10"), ("ueraser", "lite-jpeg")]
