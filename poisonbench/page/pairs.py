"""Differences between defenses on one poison, each with its paired interval."""

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean

from poisonbench.page.groups import Entry, Row
from poisonbench.results.target_success import target_difference
from poisonbench.results.verdicts import LEAST_ACCURACY, EquivalenceRule, Evidence
from poisonbench.tables.cells import paired
from poisonbench.tables.comparisons import Block, Table
from poisonbench.tables.evidence import Sets, accuracy_gain, distinct_targets
from poisonbench.tables.layout import DASH

COLUMNS = ("first", "second", "quantity", "pairs", "difference", "95 % interval", "p-value")

NOTE = (
    "First minus second, in points of percent, over trials that share seed, initial weights, first "
    "batch and poison. The interval and the two-sided p-value are those of verdicts: random "
    "effects of poison, seed and image for accuracy, McNemar's exact test over targets for attack "
    "success. Nothing here was declared beforehand and nothing is corrected for the number of "
    "comparisons: it is exploratory."
)


def pair_table(row: Row) -> Table | None:
    """Compare the defenses of a row by twos; null where no two share a trial."""
    lines = []
    for first, second in combinations(row.entries, 2):
        pairs = paired([first.trials, second.trials])
        if not pairs:
            continue
        lines.append(_accuracy(first, second, pairs))
        if row.is_targeted:
            lines.append(_success(first, second, pairs))
    if not lines:
        return None
    title = f"{row.dataset}: {row.title}"
    block = Block(title="Differences between defenses", columns=COLUMNS, rows=tuple(lines), keys=3)
    return Table(key="differences", title=title, blocks=(block,), notes=(NOTE,))


def _accuracy(first: Entry, second: Entry, pairs: Sets) -> tuple[str, ...]:
    gains = [one.metrics.test_accuracy - two.metrics.test_accuracy for one, two in pairs]
    evidence = accuracy_gain(pairs, LEAST_ACCURACY)
    return first.label, second.label, "accuracy", *_figures(gains, evidence)


def _success(first: Entry, second: Entry, pairs: Sets) -> tuple[str, ...]:
    rows = [[bool(run.metrics.attack_success) for run in pair] for pair in distinct_targets(pairs)]
    evidence = target_difference([row[:1] for row in rows], [row[1:] for row in rows])
    gains = [float(one) - float(two) for one, two in rows]
    return first.label, second.label, "attack success", *_figures(gains, evidence)


def _figures(gains: Sequence[float], evidence: Evidence | None) -> tuple[str, ...]:
    count, mean = str(len(gains)), 100 * (fmean(gains) if evidence is None else evidence.effect)
    if evidence is None:
        return count, f"{mean:+.2f}", DASH, DASH
    low, high = (100 * end for end in evidence.interval())
    p = EquivalenceRule(LEAST_ACCURACY).p_value(evidence)
    shown = "< 0.0001" if p < 1e-4 else f"{p:.4f}"
    return count, f"{mean:+.2f}", f"[{low:+.2f}, {high:+.2f}]", shown
