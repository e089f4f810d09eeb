"""Runs of one defense, attack and settings as rows of tables of no paper. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from poisonbench import registry
from poisonbench.core.errors import UsageError
from poisonbench.core.settings import did_you_mean
from poisonbench.results.records import RunRecord
from poisonbench.tables.layout import DASH
from poisonbench.tables.paper_table import Records

#: What names a row.
KEYS = ("method", "attack", "rho", "scenario", "settings")

SETTINGS_NOTE = (
    "Settings: what differs from the defense's own settings for that data set; paper: nothing does."
)


def grouped(
    records: Records, wanted: Callable[[RunRecord], bool], dataset: str | None, what: str
) -> dict[str, list[list[RunRecord]]]:
    """By data set, the runs that may stand in one row, in an order that does not depend on theirs.

    Args:
        records: all that there are.
        wanted: which of them are shown; asked of finished defense runs alone.
        dataset: only this one.
        what: the runs in words, for the error.

    Raises:
        UsageError: no such run is on that data set.
    """
    groups: dict[tuple[Any, ...], list[RunRecord]] = {}
    for record in sorted((r for r in records if _is_whole(r) and wanted(r)), key=_order):
        groups.setdefault(_group(record), []).append(record)
    found: dict[str, list[list[RunRecord]]] = {}
    for runs in groups.values():
        found.setdefault(keys_of(runs[0])["dataset"], []).append(runs)
    if dataset is None:
        return found
    if dataset not in found:
        known = ", ".join(found) or "none"
        raise UsageError(
            f"expected a data set that has runs {what}, {known}, got "
            f"{dataset!r}{did_you_mean(dataset, list(found))}"
        )
    return {dataset: found[dataset]}


def not_averaged(found: Mapping[str, Sequence[Sequence[RunRecord]]], averaged: int) -> list[str]:
    """A note where some of the runs found are in no mean; none where all are.

    Args:
        found: what :func:`grouped` gave.
        averaged: how many runs are in means.
    """
    others = sum(len(runs) for groups in found.values() for runs in groups) - averaged
    if not others:
        return []
    return [
        f"{others} other run(s) are not averaged here: an older recipe of the method or of "
        "training, another poison of the same trial, or a repeated trial."
    ]


def keys_of(record: RunRecord) -> dict[str, Any]:
    """What names a run's row, and its data set."""
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


def shown_keys(record: RunRecord) -> tuple[str, ...]:
    """A row's name as it is printed, in the order of ``KEYS``."""
    keys = keys_of(record)
    return registry.label_of(record.spec), *(
        DASH if keys[name] is None else str(keys[name]) for name in KEYS[1:]
    )


def _is_whole(record: RunRecord) -> bool:
    spec = record.spec
    return (
        spec.get("kind") == "defend"
        and isinstance(spec.get("dataset"), Mapping)
        and isinstance(spec.get("seed"), int)
        and isinstance(spec.get("trial"), int)
    )


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
    return (*keys_of(record).values(), data, record.spec.get("model"))


def _order(record: RunRecord) -> tuple[Any, ...]:
    keys, defenses = keys_of(record), list(registry.defenses())
    method = keys["method"]
    position = defenses.index(method) if method in defenses else len(defenses)
    attack, scenario = keys["attack"] or "", keys["scenario"] or ""
    return (keys["dataset"], position, attack, scenario, keys["rho"], keys["settings"], record.id)
