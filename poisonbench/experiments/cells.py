"""One cell of a paper's table: which runs belong to it and which commands make them. No torch."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

from poisonbench import registry
from poisonbench.config import parse_number
from poisonbench.errors import UsageError
from poisonbench.results.records import RunRecord
from poisonbench.results.report import distinct_trials
from poisonbench.results.statistics import Summary
from poisonbench.seeds import Seeds

#: Trials of every cell, as in the paper.
TRIALS = 5

#: The embedded part of MNIST; every other data set of a table is the paper's own.
SAMPLE_DATASET = "mnist-sample"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The runs that make one cell.

    Attributes:
        dataset: the data set's name.
        method: the defense's name.
        rho: poisoned share of the training images, in [0, 1]; 0 is a clean run.
        overrides: settings that differ from the paper's, by field name, e.g. {"ratio": 0.25}.
        trials: how many are wanted.
        published: the paper's figure, as fractions; null where it has none.
    """

    dataset: str
    method: str
    rho: float
    overrides: Mapping[str, str | float] = field(default_factory=dict, hash=False)
    trials: int = TRIALS
    published: Summary | None = None

    @property
    def keys(self) -> dict[str, Any]:
        """What names the cell in tables."""
        return {
            "dataset": self.dataset,
            "rho": self.rho,
            "method": self.method,
            **self.overrides,
        }

    def matches(self, record: RunRecord) -> bool:
        """Whether a run belongs here: the paper's settings in all that is not overridden."""
        return (
            is_run_on(record, self.dataset)
            and record.spec.get("method") == self.method
            and self._has_settings(record.labels)
            and _has_poison(record.spec, self.rho)
        )

    def select(self, records: Sequence[RunRecord]) -> list[RunRecord]:
        """The cell's runs, one for each (seed, trial)."""
        return distinct_trials([record for record in records if self.matches(record)])

    def missing(self, records: Sequence[RunRecord]) -> list[int]:
        """The trials to run, with the default seed, until there are as many as wanted."""
        done = {(record.spec["seed"], record.spec["trial"]) for record in self.select(records)}
        free = (trial for trial in count() if (Seeds().root, trial) not in done)
        return list(islice(free, max(0, self.trials - len(done))))

    def command(self, trial: int, results: Path | None = None) -> str:
        """The shell command of one run.

        Args:
            trial: its number.
            results: the results folder; null leaves the option out.
        """
        words = ["poisonbench", "defend", "--method", self.method, "--dataset", self.dataset]
        words += ["--rho", f"{self.rho:g}"]
        for name, value in self.overrides.items():
            words += ["--" + name.replace("_", "-"), str(value)]
        words += ["--trial", str(trial)]
        if results is not None:
            words += ["--results", str(results)]
        return shlex.join(words)

    def _has_settings(self, labels: Mapping[str, Any]) -> bool:
        if not self.overrides:
            return labels.get("variant") == "paper"
        given = labels.get("overrides")
        return (
            labels.get("profile", "paper") == "paper"
            and isinstance(given, Mapping)
            and set(given) == set(self.overrides)
            and all(_same(given[name], value) for name, value in self.overrides.items())
        )


def is_run_on(record: RunRecord, dataset: str) -> bool:
    """Whether this is a finished defense run on that data set, the whole of it for a paper's."""
    data = record.spec.get("dataset")
    return (
        record.spec.get("kind") == "defend"
        and isinstance(data, Mapping)
        and data.get("name") == dataset
        and isinstance(record.spec.get("seed"), int)
        and isinstance(record.spec.get("trial"), int)
        and (dataset == SAMPLE_DATASET or record.labels.get("is_paper_dataset") is not False)
    )


def _has_poison(spec: Mapping[str, Any], rho: float) -> bool:
    poison = spec.get("poison")
    if poison is None:
        return "poison" in spec and rho == 0
    return (
        rho > 0
        and isinstance(poison, Mapping)
        and poison.get("attacks") == list(registry.MIX)
        and _same(poison.get("rho"), rho)
    )


def _same(given: Any, wanted: Any) -> bool:
    """Equal, reading "8/255" and 0.031372... as one number."""
    try:
        first, second = parse_number(str(given)), parse_number(str(wanted))
    except UsageError:
        return bool(given == wanted)
    return math.isclose(first, second, rel_tol=1e-6)
