"""Trials that are done, but on another poison than plain training's of the same trial.

A draw that is crafted anew, say on another processor, may be another poison; runs on the two do not
compare. No torch here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from poisonbench import registry
from poisonbench.registry import DEFAULT_READING
from poisonbench.requests import RunRequest
from poisonbench.tables import catalogue, readings
from poisonbench.tables.cells import Cell, IndexedRuns, is_of_plan
from poisonbench.tables.paper_table import Records
from poisonbench.tables.selection import bare_methods, select

#: The defense that the others are compared with.
_PLAIN = "none"


@dataclass(frozen=True)
class Unpaired:
    """A cell's trials, with plain training's and the cell's run of each.

    Both, on the poison that lies in the results folder, are a pair.
    """

    cell: Cell
    runs: tuple[tuple[RunRequest, RunRequest], ...]

    @property
    def text(self) -> str:
        """``"hint on pgd at rho 0.6, mnist-sample, trial 0, 2"``."""
        cell, trials = self.cell, ", ".join(str(run.trial) for _, run in self.runs)
        return (
            f"{cell.method_text} on {cell.poison_text} at rho {cell.rho:g}, {cell.dataset}, "
            f"trial {trials}"
        )


def unpaired_runs(
    key: str,
    records: Records,
    dataset: str | None = None,
    *,
    reading: str = DEFAULT_READING,
    methods: Sequence[str] = (),
    attacks: Sequence[str] = (),
) -> list[Unpaired]:
    """The planned trials of a table's cells that no run of plain training pairs with.

    None of a table that compares with no such run, and of a defense whose training starts from a
    network of its own, which has no pair at all.

    Parameters and errors: as of :func:`poisonbench.tables.catalogue.missing_runs`.
    """
    if not catalogue.find_table(key).pairs_with_plain:
        return []
    records = IndexedRuns(readings.runs_of(records, reading))
    every = catalogue.cells(key, records, dataset, bare_methods(methods))
    chosen = select(every, methods, attacks, f"table {key}")
    found = []
    for cell in filter(chosen.is_planned, every):
        runs = _other_poison(cell, records) if cell.rho and _has_pairs(cell.method) else []
        asked = [
            (readings.asked_in(plain, reading), readings.asked_in(run, reading))
            for plain, run in runs
        ]
        found += [Unpaired(cell, tuple(asked))] if asked else []
    return found


def _has_pairs(method: str) -> bool:
    """Whether its runs can share what ``paired`` asks for with plain training's."""
    return method != _PLAIN and not registry.defenses()[method].pretrains


def _other_poison(cell: Cell, records: Records) -> list[tuple[RunRequest, RunRequest]]:
    """Plain training and the cell's own run, of each trial whose runs are on two poisons."""
    own = cell.request(0).settings
    of_poison = {name: value for name, value in cell.overrides.items() if name not in own}
    plain = replace(cell, method=_PLAIN, profile="paper", form="", overrides=of_poison)
    digests = {
        (run.spec.seed, run.spec.trial): run.spec.poison_digest
        for run in filter(is_of_plan, plain.select(records))
    }
    return [
        (
            replace(plain.request(run.spec.trial), seed=run.spec.seed),
            replace(cell.request(run.spec.trial), seed=run.spec.seed),
        )
        for run in filter(is_of_plan, cell.select(records))
        if digests.get((run.spec.seed, run.spec.trial), run.spec.poison_digest)
        != run.spec.poison_digest
    ]
