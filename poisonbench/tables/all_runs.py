"""All runs by their settings, whether a paper's table has a cell for them or not. No torch here.

A row is a defense with its settings on one poison; runs of other settings are other rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from poisonbench.results.records import RunRecord
from poisonbench.tables import run_groups
from poisonbench.tables.cells import distinct_trials
from poisonbench.tables.comparisons import Block, Comparison, Table
from poisonbench.tables.layout import DASH, show_measured
from poisonbench.tables.measured import compare_accuracy, compare_success
from poisonbench.tables.paper_table import Records

#: Digits of an untargeted poison's digest that are shown.
DIGITS = 12


def build_runs(records: Records, dataset: str | None = None) -> Table:
    """The table of all runs.

    Args:
        records: all that there are.
        dataset: show only this one.

    Raises:
        UsageError: no run is on that data set.
    """
    groups = run_groups.grouped(records, lambda record: True, dataset, "at all")
    notes = [
        "Test accuracy at the last epoch in percent, mean±sample standard deviation (trials); "
        "success: targets hit, with Wilson's 95 % interval.",
        f"{run_groups.SETTINGS_NOTE} Poison: the first digits of an untargeted one's digest; a "
        "target's poison is its trial's own.",
    ]
    if not groups:
        notes.append("No run was found.")
    blocks = tuple(_block(name, sets) for name, sets in groups.items())
    averaged = sum(
        len(cell.records) for block in blocks for cell in block.cells if _is_accuracy(cell)
    )
    notes += run_groups.not_averaged(groups, averaged)
    return Table(key="runs", title="All runs", blocks=blocks, notes=tuple(notes))


def _block(dataset: str, sets: Sequence[Sequence[RunRecord]]) -> Block:
    rows, cells = [], []
    for runs in sets:
        for trials in map(distinct_trials, _by_poison(runs)):
            comparisons = _comparisons(trials)
            cells += comparisons
            accuracy, success = [*map(show_measured, comparisons), DASH][:2]
            rows.append((*run_groups.key_texts(trials[0]), _poison(trials[0]), accuracy, success))
    return Block(
        title=dataset,
        columns=(*run_groups.KEYS, "poison", "accuracy", "success"),
        rows=tuple(rows),
        keys=len(run_groups.KEYS) + 1,
        cells=tuple(cells),
    )


def _comparisons(runs: Sequence[RunRecord]) -> list[Comparison]:
    """The accuracy and, of targeted poisons, the success."""
    keys = {**run_groups.keys_of(runs[0]), "poison": _poison(runs[0])}
    comparisons = [compare_accuracy(keys, runs, None, trials=0)]
    if all(run.spec.poison and run.spec.targeting for run in runs):
        keys = {**keys, "quantity": "attack_success"}
        comparisons.append(compare_success(keys, runs, None, trials=0))
    return comparisons


def _is_accuracy(cell: Comparison) -> bool:
    return cell.keys.get("quantity") != "attack_success"


def _by_poison(runs: Sequence[RunRecord]) -> list[list[RunRecord]]:
    sets: dict[str, list[RunRecord]] = {}
    for run in runs:
        sets.setdefault(_poison(run), []).append(run)
    return [sets[poison] for poison in sorted(sets)]


def _poison(record: RunRecord) -> str:
    digest = record.spec.poison_digest if record.spec.targeting is None else None
    return DASH if digest is None else digest[:DIGITS]
