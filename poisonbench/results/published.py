"""The published values, read from ``published.toml`` and from nowhere else.

Rows keep the paper's printed units (percent, seconds); :meth:`AccuracyRow.summary` and its like
give fractions, as run records hold them.
"""

import tomllib
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from poisonbench.results.statistics import Proportion, Summary

RowT = TypeVar("RowT")

#: The defenses of Tables II and III in the paper's order, with the paper's headings.
METHOD_LABELS = {
    "none": "W/o Defense",
    "hint": "HINT",
    "atda": "ATDA",
    "friends": "FRIENDS",
    "epic": "EPIC",
}


@dataclass(frozen=True)
class TableSource:
    """The origin of a table's values."""

    #: What the paper is called for short, its title, where it appeared, its arXiv identifier.
    name: str
    paper: str
    venue: str
    arxiv: str
    #: As printed, e.g. ``"II"``; what the table shows; of the printed values.
    number: str
    title: str
    unit: str
    #: What the values are, such as the paper's ±, and how many trials are behind each mean.
    plus_minus: str
    trials: int

    @property
    def citation(self) -> str:
        """Paper, identifier and table in one phrase."""
        return f"{self.name} (arXiv:{self.arxiv}), Table {self.number}"


@dataclass(frozen=True, kw_only=True)
class SheetRow:
    """Table I: images in each split, model, batch size and epochs of one data set."""

    dataset: str
    train: int
    validation: int
    test: int
    model: str
    batch_size: int
    epochs: int


@dataclass(frozen=True, kw_only=True)
class _Accuracy:
    """Test accuracy in percent: mean and standard deviation."""

    mean: float
    std: float

    def summary(self) -> Summary:
        """The same as fractions of 1, over the paper's trials."""
        trials = int(_document()["paper"]["trials"])
        return Summary(round(self.mean / 100, 6), round(self.std / 100, 6), trials)


@dataclass(frozen=True, kw_only=True)
class AccuracyRow(_Accuracy):
    """Table II: one data set, poison ratio and defense."""

    dataset: str
    rho: float
    method: str


@dataclass(frozen=True, kw_only=True)
class AttackRow(_Accuracy):
    """Table III: one targeted attack and defense; ``successes`` of ``trials`` targets hit."""

    attack: str
    method: str
    successes: int
    trials: int

    def proportion(self) -> Proportion:
        """Targets hit, of trials."""
        return Proportion(self.successes, self.trials)


@dataclass(frozen=True, kw_only=True)
class SensitivityRow(_Accuracy):
    """Table IV: HINT with one of its settings (``ratio`` or ``beta``) changed."""

    parameter: str
    value: float
    dataset: str


@dataclass(frozen=True, kw_only=True)
class TimeRow:
    """Table V: training seconds of one defense; ``ratio`` is HINT's r, null for the others."""

    method: str
    seconds: float
    ratio: float | None = None


@dataclass(frozen=True, kw_only=True)
class FilterRow:
    """The second paper's Tables 1 and 2: one defense; counts of poisons, all else in percent."""

    method: str
    poisons_removed: int
    num_poisons: int
    clean_removed: float
    success: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class NetworkRow:
    """The second paper's attacks on one network: targets hit of those tried, by defense."""

    network: str
    successes: dict[str, Proportion]


def source(key: str) -> TableSource:
    """The origin of a table: ``"1"`` to ``"5"`` are HINT's, others are named as in the file."""
    table = _document()["table"][key]
    paper = dict(table.get("paper", _document()["paper"]))
    paper["plus_minus"] = table.get("plus_minus", paper["plus_minus"])
    return TableSource(
        paper=paper.pop("title"),
        **paper,
        **{name: table[name] for name in ("number", "title", "unit")},
    )


def baseline_networks() -> tuple[NetworkRow, ...]:
    """The values that Table 2 of the second paper averages, network by network."""
    rows = []
    for shares in map(dict, _document()["table"]["baseline-2"]["networks"]):
        network, attacks = shares.pop("network"), shares.pop("attacks")
        successes = {m: Proportion(round(s * attacks), attacks) for m, s in shares.items()}
        rows.append(NetworkRow(network=network, successes=successes))
    return tuple(rows)


def availability(key: str) -> dict[str, dict[str, Summary]]:
    """The accuracies of ``"apbench"`` or ``"iss"`` by attack and defense, under their names.

    They are without a spread, and each counts as of one run.
    """
    rows = map(dict, _document()["table"][key]["rows"])
    return {
        row.pop("attack"): {
            name: Summary(round(mean / 100, 6), None, 1) for name, mean in row.items()
        }
        for row in rows
    }


@cache
def _document() -> dict[str, Any]:
    text = Path(__file__).with_name("published.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _rows(kind: type[RowT], key: str) -> tuple[RowT, ...]:
    return tuple(kind(**row) for row in _document()["table"][key]["rows"])


#: The rows of the HINT paper's tables, and of the second paper's by key, "baseline-1" or its like.
table1 = partial(_rows, SheetRow, "1")
table2 = partial(_rows, AccuracyRow, "2")
table3 = partial(_rows, AttackRow, "3")
table4 = partial(_rows, SensitivityRow, "4")
table5 = partial(_rows, TimeRow, "5")
baseline = partial(_rows, FilterRow)
