"""All runs by their settings, whether a paper's table has a cell for them or not. No torch here.

A row is a defense with its settings on one poison; runs of other settings are other rows.
"""

from collections.abc import Sequence

from poisonbench.results.records import RunRecord
from poisonbench.tables import run_groups
from poisonbench.tables.cells import distinct_trials
from poisonbench.tables.comparisons import Block, Comparison, Table
from poisonbench.tables.layout import DASH, show_measured
from poisonbench.tables.measured import (
    average_diagnostic,
    average_noise,
    average_trigger_success,
    compare_accuracy,
    compare_success,
)
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
    notes = (
        "Accuracy in %, mean±sample std (trials); success: targets hit, or what a trigger turns.",
        "By batch statistics: of each test batch, a diagnostic. Noise: round 1's, in grey levels.",
        run_groups.SETTINGS_NOTE,
        "Poison: an untargeted one's digest, its first digits; a target's is its trial's own.",
    )
    empty = Table(key="runs", title="All runs", blocks=(), notes=notes)
    return run_groups.table_of(empty, groups, _block, "No run was found.")


def _block(dataset: str, sets: Sequence[Sequence[RunRecord]]) -> Block:
    rows: list[tuple[str, ...]] = []
    cells: list[Comparison] = []
    for runs in sets:
        for poison in sorted(set(map(_poison, runs))):
            trials = distinct_trials([run for run in runs if _poison(run) == poison])
            keys = {**run_groups.keys_of(trials[0]), "poison": poison}
            is_attacked = all(run.spec.poison and run.spec.targeting for run in trials)
            about = {**keys, "quantity": "attack_success"}
            compared = [
                compare_accuracy(keys, trials, None, trials=0),
                average_diagnostic(keys, trials, "batch_statistics_accuracy"),
                average_noise(keys, trials),
                compare_success(about, trials, None, trials=0)
                if is_attacked
                else average_trigger_success(keys, trials),
            ]
            cells += filter(None, compared)
            shown = (DASH if cell is None else show_measured(cell) for cell in compared)
            rows.append((*run_groups.key_texts(trials[0]), poison, *shown))
    return Block(
        title=dataset,
        columns=(*run_groups.KEYS, "poison", "accuracy", "by batch statistics", "noise", "success"),
        rows=tuple(rows),
        keys=len(run_groups.KEYS) + 1,
        cells=tuple(cells),
    )


def _poison(record: RunRecord) -> str:
    digest = record.spec.poison_digest if record.spec.targeting is None else None
    return DASH if digest is None else digest[:DIGITS]
