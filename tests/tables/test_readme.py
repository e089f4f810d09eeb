"""The README's advice is what the shipped records say."""

import re
from pathlib import Path

import pytest

from poisonbench.results.store import Store
from poisonbench.tables import catalogue

ROOT = Path(__file__).parents[2]


def advice():
    """Rows of the README's table: attacks, accuracies of plain training, the best defense, its."""
    text = (ROOT / "README.md").read_text().partition("## What to use against what")[2]
    rows = re.findall(r"^\| ([A-Z][^|]*) \| ([\d., ]+) \| ([^|]*) \|$", text, re.MULTILINE)
    for names, plain, best in rows:
        figures = re.findall(r"\d+\.\d", best)
        defense = re.search(r"`([a-z-]+)`", best)[1]
        for one in zip(names.split(", "), plain.split(", "), figures, strict=True):
            yield *one, defense


def test_the_readme_names_the_best_defense_of_the_shipped_records():
    records = [
        record
        for record in Store(ROOT / "docs" / "records").records(pytest.fail)
        if record.spec.dataset.name == "mnist-sample"
    ]
    accuracies = {}
    for cell in catalogue.build(catalogue.matrix_key("last"), records).cells:
        if cell.keys["rho"] == 1 and cell.measured is not None:
            of_attack = accuracies.setdefault(cell.keys["attack"], {})
            of_attack[cell.keys["method"]] = 100 * cell.measured.mean
    rows = list(advice())
    assert len(rows) == 7
    for attack, plain, figure, defense in rows:
        of_attack = accuracies[attack]
        # A figure that ends in 5 may be rounded either way.
        assert float(plain) == pytest.approx(of_attack["none"], abs=0.051)
        assert defense == max(of_attack.keys() - {"none"}, key=of_attack.__getitem__)
        assert float(figure) == pytest.approx(of_attack[defense], abs=0.051)
