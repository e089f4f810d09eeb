"""A table of other poisons than its own: another mix, one attack, an import. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from poisonbench.errors import UsageError
from poisonbench.registry import MIX
from poisonbench.results.records import RunRecord
from poisonbench.results.report import Table

#: The tables whose poison is the mix of the untargeted attacks.
TABLES = ("1", "2", "4", "5")


def on_poisons(records: Sequence[RunRecord], digests: Sequence[str]) -> list[RunRecord]:
    """The runs on clean data, and those on some poisons, as if these were the tables' own mix.

    Args:
        records: all that there are; runs on other poisons are left out.
        digests: the poisons'.
    """
    kept = []
    for record in records:
        poison = record.spec.get("poison")
        if poison is None:
            kept.append(record)
        elif isinstance(poison, Mapping) and poison.get("digest") in digests:
            spec = record.spec | {"poison": {**poison, "attacks": list(MIX)}}
            kept.append(replace(record, spec=spec, labels=_own(record.labels)))
    return kept


def with_note(table: Table, poisons: Mapping[str, Mapping[str, Any]]) -> Table:
    """The table with a first note that says which poisons it is of.

    Args:
        table: made of what :func:`on_poisons` gave.
        poisons: by path, their cards.
    """
    named = "; ".join(
        f"{path} ({'+'.join(card['attacks'])}, {card['num_poisons']:,} images)"
        for path, card in poisons.items()
    )
    note = (
        f"The runs above rho 0 are on {named}. These are not the mix that this table is defined "
        "for, so a verdict here compares another poison's figure with the published one."
    )
    return replace(table, notes=(note, *table.notes))


def check_table(key: str) -> None:
    """Whether a table's poison can be another.

    Raises:
        UsageError: it cannot.
    """
    if key not in TABLES:
        raise UsageError(
            f"--poison: expected one of the tables {', '.join(TABLES)}, whose poison is one for "
            f"all trials, got {key}; leave it out"
        )


def _own(labels: Mapping[str, Any]) -> dict[str, Any]:
    """The labels without the choice of the poison among what was set."""
    given = labels.get("overrides")
    if not isinstance(given, Mapping):
        return dict(labels)
    chosen = ("poison", "poison_trial", "selection")
    overrides = {name: value for name, value in given.items() if name not in chosen}
    variant = "custom" if overrides else labels.get("profile", "paper")
    return {**labels, "overrides": overrides, "variant": variant}
