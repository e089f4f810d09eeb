"""What the defenses that drop images dropped, over any runs of them. No torch here.

A row is a defense with its settings against one attack at one poisoned share; runs of other
settings are other rows. The figures are means over trials of what each record says.
"""

from collections.abc import Sequence

from poisonbench.results.records import RunRecord
from poisonbench.results.statistics import Summary, Verdict, summarise
from poisonbench.results.verdicts import Judgement
from poisonbench.tables import run_groups
from poisonbench.tables.cells import distinct_trials
from poisonbench.tables.comparisons import Block, Comparison, Table, Unit
from poisonbench.tables.layout import DASH, show_measured
from poisonbench.tables.paper_table import Records

#: What a record counts or scores, and its unit.
QUANTITIES: dict[str, Unit] = {
    "poisons_removed": "count",
    "num_poisons": "count",
    "clean_removed": "count",
    "num_clean": "count",
    "precision": "fraction",
    "recall": "fraction",
    "f1": "fraction",
}

#: Those that say something where there are poisons.
SCORES = ("precision", "recall", "f1")


def build_filters(records: Records, dataset: str | None = None) -> Table:
    """The table of all runs that dropped images.

    Args:
        records: all that there are; runs that drop nothing are passed over.
        dataset: show only this one.

    Raises:
        UsageError: no run that drops images is on that data set.
    """
    what = "of a defense that drops images"
    groups = run_groups.grouped(
        records, lambda record: record.metrics.filter is not None, dataset, what
    )
    notes = (
        "Means over trials: images removed of those there were; precision, recall and F1 in %.",
        "±: sample standard deviation. Trials without poisons are in no score: docs/tables.md.",
        run_groups.SETTINGS_NOTE,
    )
    title = "Poisons and clean images that defenses removed"
    empty = Table(key="filters", title=title, blocks=(), notes=notes)
    return run_groups.table_of(empty, groups, _block, f"No run {what} was found.")


def _block(dataset: str, sets: Sequence[Sequence[RunRecord]]) -> Block:
    lines, cells = [], []
    for trials in map(distinct_trials, sets):
        row = [_compare(trials, quantity, unit) for quantity, unit in QUANTITIES.items()]
        cells += row
        poisons_removed, poisons, clean_removed, clean, *scores = row
        lines.append(
            (
                *run_groups.key_texts(trials[0]),
                str(len(trials)),
                _part(poisons_removed, poisons),
                _part(clean_removed, clean),
                *map(show_measured, scores),
            )
        )
    figures = ("trials", "poisons removed", "clean removed", "precision", "recall", "F1")
    return Block(
        title=dataset,
        columns=(*run_groups.KEYS, *figures),
        rows=tuple(lines),
        keys=len(run_groups.KEYS),
        cells=tuple(cells),
    )


def _compare(trials: Sequence[RunRecord], quantity: str, unit: Unit) -> Comparison:
    """The mean of what the records count or score."""
    scores = [run.metrics.filter for run in trials if run.metrics.filter is not None]
    # Of clean data nothing can be found, and a precision of 0 would be a reproach.
    values = [getattr(s, quantity) for s in scores if quantity not in SCORES or s.num_poisons]
    return Comparison(
        keys={**run_groups.keys_of(trials[0]), "quantity": quantity},
        measured=summarise([value for value in values if value is not None]),
        published=None,
        trials=0,
        judgement=Judgement(Verdict.UNPUBLISHED),
        records=tuple(record.id for record in trials),
        unit=unit,
    )


def _part(part: Comparison, whole: Comparison) -> str:
    """A part of a whole as text: ``48.3 of 50``."""
    pair = [c.measured.mean for c in (part, whole) if isinstance(c.measured, Summary)]
    return " of ".join(f"{round(mean, 1):,g}" for mean in pair) if len(pair) == 2 else DASH
