"""The matrix in gains: what a defense gives back of what a poison takes, in pairs of runs.

One draw of a poison may take twice what another takes, so that means over different draws do not
compare. Here each run under a defense stands beside plain training's on the same poison, with the
same seed, trial and initial weights, and a run without such a partner is left out. No torch here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from poisonbench import registry
from poisonbench.results.records import RunRecord
from poisonbench.results.statistics import Verdict, paired_shares, summarise
from poisonbench.results.verdicts import Judgement
from poisonbench.tables import matrix
from poisonbench.tables.cells import Cell, distinct_trials, paired
from poisonbench.tables.comparisons import Block, Comparison
from poisonbench.tables.evidence import gains
from poisonbench.tables.layout import DASH, show_number
from poisonbench.tables.matrix_cells import RHOS, TRIALS, cells_of
from poisonbench.tables.matrix_rows import (
    column_of,
    common_poisons,
    has_trigger,
    row_of,
    rows_of,
    value_of,
    worst_of,
)
from poisonbench.tables.paper_table import PaperTable, Records, dataset_title


def gain_of(
    keys: Mapping[str, Any], runs: Sequence[RunRecord], plain: Sequence[RunRecord]
) -> Comparison:
    """Test accuracy of runs minus plain training's in pairs; nothing measured where there is none.

    Several runs on one poison are a sample of trainings; of several poisons these are the sample.
    The interval of a single pair is over its test images, where both records have outcomes.
    """
    pairs = paired([runs, plain], same_batch=False)
    return Comparison(
        keys={**keys, "quantity": "accuracy_gain"},
        measured=summarise(gains(pairs)),
        published=None,
        trials=TRIALS,
        judgement=Judgement(Verdict.UNPUBLISHED),
        records=tuple(run.id for pair in pairs for run in pair),
        over_images=_over_images(*pairs[0]) if len(pairs) == 1 else None,
    )


def _over_images(run: RunRecord, plain: RunRecord) -> tuple[float, float] | None:
    ours, theirs = run.outcomes.test, plain.outcomes.test
    if ours is None or theirs is None:
        return None
    return paired_shares(ours.unpack().tolist(), theirs.unpack().tolist())


def _blocks(dataset: str, cells: Sequence[Cell], records: Records) -> list[Block]:
    """Gains by attack and defense; the worst case is the least at the first ratio."""
    accuracies = [cell for cell in cells if cell.scenario is None and not has_trigger(cell)]
    common = common_poisons(accuracies, records)
    # Whatever columns are wanted, the other side of each pair is plain training, on any poison.
    partners = {row_of(cell): _plain(cell) for cell in accuracies}
    plain = {row: cell.current(records) for row, cell in partners.items()}
    shown = {}
    for cell in (cell for cell in accuracies if cell.method != "none"):
        row = row_of(cell)
        poisons = {run.spec.poison_digest for run in plain[row]}
        runs = [run for run in cell.current(records) if run.spec.poison_digest in poisons]
        gain = gain_of(cell.keys, distinct_trials(runs, common.get(row)), plain[row])
        if gain.records:
            shown[cell] = gain
    if not shown:
        return []
    columns = list(dict.fromkeys(map(column_of, shown)))
    rows = rows_of(shown, list(dict.fromkeys(map(row_of, cells))))
    lines = [(row.label, *(_text(row.cells.get(column)) for column in columns)) for row in rows]
    attacked = [row for row in rows if row.rho == RHOS[0]]
    least = [worst_of(attacked, column, lambda cell: -value_of(cell), _short) for column in columns]
    return [
        Block(
            title=f"{dataset_title(dataset)}: points of test accuracy over plain training",
            columns=("trained on", *columns),
            rows=(*lines, ("least at rho 1", *least)),
            keys=1,
            cells=tuple(shown.values()),
            strong=frozenset({len(lines)}),
            summaries=1,
        )
    ]


def _plain(cell: Cell) -> Cell:
    """Plain training on the same poison."""
    labels = registry.defenses()[cell.method].labels
    overrides = {key: value for key, value in cell.overrides.items() if key not in labels}
    return replace(cell, method="none", overrides=overrides, form="")


def _text(gain: Comparison | None) -> str:
    """``+59.26 [+49.10, +69.42] (3)``: mean, interval, pairs of runs."""
    if gain is None:
        return DASH
    # Student's interval knows nothing of where differences of shares end; a pair is two records.
    ends = ", ".join(
        show_number(max(-1.0, min(1.0, end)), "fraction", "+") for end in gain.ends or ()
    )
    return f"{_short(gain)}{f' [{ends}]' if ends else ''} ({len(gain.records) // 2})"


def _short(gain: Comparison) -> str:
    return show_number(value_of(gain), "fraction", "+")


TABLE = PaperTable(
    title="attacks against defenses, each alone: gains over plain training, in pairs",
    cells=cells_of,
    blocks=_blocks,
    remark="Mean [95 % interval] (pairs of runs on one poison); others left out: docs/tables.md.",
    datasets=(),
    is_targeted=None,
    is_of_mix=False,
    is_published=False,
    takes_any=True,
)

#: The matrices by the word of ``report --metric``.
METRICS = {**matrix.METRICS, "gain": TABLE}
