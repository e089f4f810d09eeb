"""Deep k-NN against its k: the second paper's Figure 2, from run records. No torch here."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from poisonbench.figures.drawing import Figure, Panel, Panels, percent_panel
from poisonbench.results.records import RunRecord
from poisonbench.results.statistics import Summary, mean_interval, summarise, wilson
from poisonbench.tables.baseline1 import FEATURE_COLLISION
from poisonbench.tables.baseline2 import CONVEX_POLYTOPE
from poisonbench.tables.baseline_tables import (
    Protocol,
    attack_of,
    plain_cells,
    successful_attacks,
)
from poisonbench.tables.paper_table import dataset_labels

PROTOCOLS = (FEATURE_COLLISION, CONVEX_POLYTOPE)


def filter_curve(records: Sequence[RunRecord], dataset: str) -> Figure:
    """Draw attack success and test accuracy against k, over attacks that succeed undefended.

    k = 0 is training without a filter. The run with the default k, the mean size of a class, is not
    here: its record does not say which number that is.
    """
    points = [point for protocol in PROTOCOLS for point in _points(protocol, dataset, records)]
    used = len({run for point in points for run in point["records"]})
    lines = Panels(
        title=f"Deep k-NN against k: {dataset_labels()[dataset]}",
        panels=[_panel(quantity, points) for quantity in ("attack success", "test accuracy")],
        caption="Figure 2 of the second paper (arXiv 1909.13374), of feature collision there; it "
        f"prints no numbers. {used} run(s) on attacks that succeed undefended; k = 0 is no filter. "
        "Success: share of the targets hit and Wilson's 95 % interval; accuracy: mean and its 95 % "
        "interval (Student's t; none of one run).",
    )
    return Figure(lines, {"figure": "filter-k", "dataset": {"name": dataset}, "points": points})


def _points(protocol: Protocol, dataset: str, records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """One point a k that has runs, 0 first; none where the plain runs were never hit."""
    points = []
    values = {run.spec.setting("k") or 0 for run in records if run.spec.method == "knn"}
    for plain in plain_cells(protocol, dataset):
        hit = successful_attacks([plain], records).get
        for k in sorted(values | {0}):
            cell = plain
            if k:
                cell = replace(plain, method="knn", overrides={**plain.overrides, "k": k})
            runs = [
                record
                for record in cell.select(records)
                if attack_of(record) in hit(record.spec.model, set())
            ]
            accuracy = summarise([run.metrics.test_accuracy for run in runs])
            if accuracy:
                points.append(_point(protocol.attack, k, runs, accuracy))
    return points


def _point(attack: str, k: int, runs: Sequence[RunRecord], accuracy: Summary) -> dict[str, Any]:
    hits = sum(bool(run.metrics.attack_success) for run in runs)
    low, high = mean_interval(accuracy) or (None, None)
    success_low, success_high = wilson(hits, len(runs))
    return {
        "attack": attack,
        "k": k,
        "attack success": {"mean": hits / len(runs), "low": success_low, "high": success_high},
        "test accuracy": {"mean": accuracy.mean, "low": low, "high": high},
        "records": [run.id for run in runs],
    }


def _panel(quantity: str, points: Sequence[dict[str, Any]]) -> Panel:
    lines: dict[str, list[Any]] = {}
    for point in points:
        line = lines.setdefault(point["attack"], [])
        line.append((point["k"], *(point[quantity][name] for name in ("mean", "low", "high"))))
    return percent_panel(quantity, "k", lines)
