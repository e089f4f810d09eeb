"""All runs by their settings, whether a paper's table has a cell for them or not. No torch here.

A row is a defense with its settings on one poison; runs of other settings are other rows.
"""

from collections.abc import Sequence

from poisonbench.results.records import RunRecord
from poisonbench.tables import run_groups
from poisonbench.tables.cells import distinct_trials
from poisonbench.tables.comparisons import Block, Table
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
    notes = (
        "Test accuracy in %, mean±sample standard deviation (trials); success: targets hit.",
        run_groups.SETTINGS_NOTE,
        "Poison: the first digits of an untargeted one's digest; a target's is its trial's own.",
    )
    empty = Table(key="runs", title="All runs", blocks=(), notes=notes)
    return run_groups.table_of(empty, groups, _block, "No run was found.")


def _block(dataset: str, sets: Sequence[Sequence[RunRecord]]) -> Block:
    rows, cells = [], []
    for runs in sets:
        for poison in sorted(set(map(_poison, runs))):
            trials = distinct_trials([run for run in runs if _poison(run) == poison])
            keys = {**run_groups.keys_of(trials[0]), "poison": poison}
            compared = [compare_accuracy(keys, trials, None, trials=0)]
            if all(run.spec.poison and run.spec.targeting for run in trials):
                keys["quantity"] = "attack_success"
                compared.append(compare_success(keys, trials, None, trials=0))
            cells += compared
            accuracy, success = [*map(show_measured, compared), DASH][:2]
            rows.append((*run_groups.key_texts(trials[0]), poison, accuracy, success))
    return Block(
        title=dataset,
        columns=(*run_groups.KEYS, "poison", "accuracy", "success"),
        rows=tuple(rows),
        keys=len(run_groups.KEYS) + 1,
        cells=tuple(cells),
    )


def _poison(record: RunRecord) -> str:
    digest = record.spec.poison_digest if record.spec.targeting is None else None
    return DASH if digest is None else digest[:DIGITS]
