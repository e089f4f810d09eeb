"""The README's advice is what the shipped records say."""

import re
from pathlib import Path

import pytest

from poisonbench.results.store import Store
from poisonbench.tables import catalogue

ROOT = Path(__file__).parents[2]


def advice():
    """The README's tables: of each the rows, by attack, of accuracies by defense and its form."""
    text = (ROOT / "README.md").read_text().partition("## What to use against what")[2]
    for table in re.findall(r"(?:^\|.*\n)+", text.partition("\n## ")[0], re.MULTILINE):
        head, _, *rows = (
            [word.strip() for word in line.strip("|").split("|")] for line in table.splitlines()
        )
        columns = []
        for name in head[1:]:
            method, _, option = name.strip("`").partition(" --")
            columns.append((method.replace("plain", "none"), option.partition(" ")[2]))
        yield {row[0]: dict(zip(columns, map(float, row[1:]), strict=True)) for row in rows}


@pytest.mark.parametrize(("number", "dataset"), [(0, "mnist-sample"), (1, "cifar10@10000")])
def test_the_readme_s_figures_are_those_of_the_shipped_records(number, dataset):
    records = Store(ROOT / "docs" / "records").records(pytest.fail)
    records = [record for record in records if record.spec.dataset.name == dataset]
    means = {
        (cell.keys["attack"], cell.keys["method"], cell.keys.get("form", "")): cell.measured.mean
        for cell in catalogue.build(catalogue.matrix_key("last"), records, dataset).cells
        if cell.measured is not None and cell.keys["rho"] in (0, 1)
    }
    rows = list(advice())[number]
    assert {"clean", "PGD", "DAP", "TAP", "LSP", "EM"} <= rows.keys()
    for attack, figures in rows.items():
        for (method, form), figure in figures.items():
            # A figure that ends in 5 may be rounded either way.
            assert figure == pytest.approx(100 * means[attack, method, form], abs=0.051)


def test_what_the_readme_says_to_use_is_the_best_of_its_table():
    digits, colour = advice()
    for figures in (row for name, row in digits.items() if name != "clean"):
        assert max(figures, key=figures.__getitem__) == ("ueraser", "lite")
    worst = {
        column: min(row[column] for name, row in colour.items() if name != "clean")
        for column in colour["clean"]
    }
    assert sorted(worst, key=worst.__getitem__)[-2:] == [("ueraser", ""), ("jpeg", "10")]
