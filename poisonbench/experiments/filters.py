"""What the defenses that drop images dropped, over any runs of them. No torch here.

A row is a defense with its settings against one attack at one poisoned share; runs of other
settings are other rows. The figures are means over trials of what each record says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from poisonbench import registry
from poisonbench.config import did_you_mean
from poisonbench.errors import UsageError
from poisonbench.experiments.definition import Records, method_labels
from poisonbench.results.layout import DASH, show_measured
from poisonbench.results.records import RunRecord
from poisonbench.results.report import Block, Comparison, Table, Unit, distinct_trials
from poisonbench.results.statistics import Summary, Verdict, summarise

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

#: What names a row.
KEYS = ("method", "attack", "rho", "scenario", "settings")


def build_filters(records: Records, dataset: str | None = None) -> Table:
    """The table of all runs that dropped images.

    Args:
        records: all that there are; runs that drop nothing are passed over.
        dataset: show only this one.

    Raises:
        UsageError: no run that drops images is on that data set.
    """
    groups: dict[tuple[Any, ...], list[RunRecord]] = {}
    for record in sorted(filter(_drops, records), key=_order):
        groups.setdefault(_group(record), []).append(record)
    rows = [_row(runs) for runs in groups.values()]
    names = list(dict.fromkeys(row[0].keys["dataset"] for row in rows))
    if dataset is not None:
        if dataset not in names:
            known = ", ".join(names) or "none"
            raise UsageError(
                "expected a data set that has runs of a defense that drops images, "
                f"{known}, got {dataset!r}{did_you_mean(dataset, names)}"
            )
        names = [dataset]
    notes = [
        "Means over the trials: poisons and clean images removed, of those that there were; "
        "precision: poisons among the removed; recall: removed among the poisons; F1: their "
        "harmonic mean; in percent, ±sample standard deviation, without trials that have none.",
        "Settings: what differs from the defense's own for the data set; runs of other settings "
        "are never averaged together.",
    ]
    if not rows:
        notes.append("No run of a defense that drops images was found.")
    return Table(
        key="filters",
        title="Poisons and clean images that defenses removed",
        blocks=tuple(
            _block(name, [row for row in rows if row[0].keys["dataset"] == name]) for name in names
        ),
        notes=tuple(notes),
    )


def _drops(record: RunRecord) -> bool:
    spec = record.spec
    return (
        spec.get("kind") == "defend"
        and isinstance(record.metrics.get("filter"), Mapping)
        and isinstance(spec.get("dataset"), Mapping)
        and isinstance(spec.get("seed"), int)
        and isinstance(spec.get("trial"), int)
    )


def _keys(record: RunRecord) -> dict[str, Any]:
    spec, poison = record.spec, record.spec.get("poison")
    targeting = spec.get("targeting")
    return {
        "dataset": record.labels.get("dataset") or spec["dataset"].get("name"),
        "method": spec.get("method"),
        "attack": "+".join(poison["attacks"]) if poison else None,
        "rho": poison["rho"] if poison else 0.0,
        "scenario": targeting.get("scenario") if isinstance(targeting, Mapping) else None,
        "settings": _settings(record.labels),
    }


def _settings(labels: Mapping[str, Any]) -> str:
    profile = labels.get("profile", "paper")
    changed = [
        f"{name}={value}"
        for name, value in sorted((labels.get("overrides") or {}).items())
        if name != "scenario"
    ]
    return ", ".join([*([profile] if profile != "paper" or not changed else []), *changed])


def _group(record: RunRecord) -> tuple[Any, ...]:
    """Runs of one row: data sets of one name may differ, and so may the network."""
    data = record.spec["dataset"].get("digest")
    return (*_keys(record).values(), data, record.spec.get("model"))


def _order(record: RunRecord) -> tuple[Any, ...]:
    keys, defenses = _keys(record), list(registry.defenses())
    method = keys["method"]
    place = defenses.index(method) if method in defenses else len(defenses)
    attack, scenario = keys["attack"] or "", keys["scenario"] or ""
    return (keys["dataset"], place, attack, scenario, keys["rho"], keys["settings"], record.id)


def _row(runs: Sequence[RunRecord]) -> list[Comparison]:
    """One figure a quantity."""
    chosen = distinct_trials(runs)
    row = []
    for quantity, unit in QUANTITIES.items():
        values = [record.metrics["filter"].get(quantity) for record in chosen]
        row.append(
            Comparison(
                keys={**_keys(chosen[0]), "quantity": quantity},
                measured=summarise([value for value in values if value is not None]),
                published=None,
                wanted=0,
                verdict=Verdict.UNPUBLISHED,
                records=tuple(record.id for record in chosen),
                unit=unit,
            )
        )
    return row


def _block(dataset: str, rows: Sequence[Sequence[Comparison]]) -> Block:
    labels = method_labels()
    lines = []
    for row in rows:
        keys = row[0].keys
        found, poisons, lost, clean, *scores = row
        lines.append(
            (
                labels.get(keys["method"], str(keys["method"])),
                *(DASH if keys[name] is None else str(keys[name]) for name in KEYS[1:]),
                str(len(row[0].records)),
                _part(found, poisons),
                _part(lost, clean),
                *(show_measured(score) for score in scores),
            )
        )
    return Block(
        title=dataset,
        columns=(
            *KEYS,
            "trials",
            "poisons removed",
            "clean removed",
            *("precision", "recall", "F1"),
        ),
        rows=tuple(lines),
        keys=len(KEYS),
        cells=tuple(cell for row in rows for cell in row),
    )


def _part(part: Comparison, whole: Comparison) -> str:
    """``48.3 of 50``."""
    pair = [c.measured.mean for c in (part, whole) if isinstance(c.measured, Summary)]
    return " of ".join(f"{round(mean, 1):,g}" for mean in pair) if len(pair) == 2 else DASH
