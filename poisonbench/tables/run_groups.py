"""Runs of one defense, attack and settings as rows of tables of no paper. No torch here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from poisonbench import registry
from poisonbench.core.errors import UsageError
from poisonbench.core.settings import did_you_mean, value_text
from poisonbench.entries import shown_name
from poisonbench.results.records import Labels, RunRecord
from poisonbench.tables.comparisons import Block, Table
from poisonbench.tables.layout import DASH
from poisonbench.tables.paper_table import Records

#: What names a row.
KEYS = ("method", "attack", "rho", "scenario", "settings")

SETTINGS_NOTE = (
    "Settings: those that differ from the defense's own on that data set; paper: none differs."
)


def grouped(
    records: Records, holds: Callable[[RunRecord], bool], dataset: str | None, what: str
) -> dict[str, list[list[RunRecord]]]:
    """Group runs by data set and row, in an order that does not depend on theirs.

    Args:
        records: all that there are.
        holds: whether a run is shown.
        dataset: only this one.
        what: the runs in words, for the error.

    Raises:
        UsageError: no such run is on that data set.
    """
    groups: dict[str, dict[tuple[Any, ...], list[RunRecord]]] = {}
    for record in sorted(filter(holds, records), key=_order):
        # Data sets of one name may differ, and so may the network.
        row = (*keys_of(record).values(), record.spec.dataset.digest, record.spec.model)
        groups.setdefault(record.labels.dataset, {}).setdefault(row, []).append(record)
    by_dataset = {name: list(rows.values()) for name, rows in groups.items()}
    if dataset is None:
        return by_dataset
    if dataset not in by_dataset:
        known = ", ".join(by_dataset) or "none"
        raise UsageError(
            f"expected a data set that has runs {what}, {known}, got "
            f"{dataset!r}{did_you_mean(dataset, list(by_dataset))}"
        )
    return {dataset: by_dataset[dataset]}


def table_of(
    empty: Table,
    groups: Mapping[str, Sequence[Sequence[RunRecord]]],
    block: Callable[[str, Sequence[Sequence[RunRecord]]], Block],
    nothing: str,
) -> Table:
    """A table with a block for each data set, which says how many runs are in no mean.

    Args:
        empty: key, title and notes of the table.
        groups: as :func:`grouped` gives them.
        block: lays the rows of one data set out, under its name, which is short unless two share
            that.
        nothing: what to say where there is no run.
    """
    shown = [shown_name(name) for name in groups]
    blocks = tuple(
        block(short if shown.count(short) == 1 else name, sets)
        for short, (name, sets) in zip(shown, groups.items(), strict=True)
    )
    averaged = {run for block in blocks for cell in block.cells for run in cell.records}
    others = sum(len(runs) for sets in groups.values() for runs in sets) - len(averaged)
    notes = [*empty.notes]
    if others:
        notes.append(
            f"{others} other run(s), of older recipes, other poisons or repeated trials, are not "
            "averaged here."
        )
    return replace(empty, blocks=blocks, notes=tuple(notes if groups else [*notes, nothing]))


def keys_of(record: RunRecord) -> dict[str, Any]:
    """The keys that name a run's row, and its data set."""
    spec = record.spec
    return {
        "dataset": record.labels.dataset,
        "method": spec.method,
        "attack": "+".join(spec.poison.attacks) if spec.poison else None,
        "rho": spec.rho,
        "scenario": spec.trigger.text
        if spec.trigger
        else spec.targeting.scenario
        if spec.targeting
        else None,
        "settings": _settings(record.labels),
    }


def key_texts(record: RunRecord) -> tuple[str, ...]:
    """A row's name as it is printed, in the order of ``KEYS``."""
    keys = keys_of(record)
    return registry.label_of(record.spec.method, record.spec.setting), *(
        DASH if keys[name] is None else str(keys[name]) for name in KEYS[1:]
    )


def _settings(labels: Labels) -> str:
    changed = [
        f"{name}={value_text(value)}"
        for name, value in sorted(labels.overrides.items())
        if name != "scenario"
    ]
    is_named = labels.profile != "paper" or not changed
    return ", ".join([*([labels.profile] if is_named else []), *changed])


def _order(record: RunRecord) -> tuple[Any, ...]:
    keys, defenses = keys_of(record), list(registry.defenses())
    method = keys["method"]
    position = defenses.index(method) if method in defenses else len(defenses)
    attack, scenario = keys["attack"] or "", keys["scenario"] or ""
    return keys["dataset"], position, attack, scenario, keys["rho"], keys["settings"], record.id
