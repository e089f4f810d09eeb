"""A table of other poisons than its own: another mix, one attack, an import. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from poisonbench.errors import ArtefactError, UsageError
from poisonbench.registry import MIX
from poisonbench.results.records import RunRecord
from poisonbench.results.report import Table

#: The tables whose poison is the mix of the untargeted attacks.
TABLES = ("1", "2", "4", "5")

#: Digits of a digest that are enough to name a poison.
MIN_DIGITS = 8


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


def on_poisons(
    records: Sequence[RunRecord], names: Sequence[str], cards: Mapping[str, Mapping[str, Any]]
) -> tuple[list[RunRecord], dict[str, str]]:
    """The runs on clean data, and those on some poisons, as if these were the tables' own mix.

    Args:
        records: all that there are; runs on other poisons are left out.
        names: of the poisons: keys of ``cards``, or the first digits of the digest of one that
            has runs.
        cards: of the artefacts that are there.

    Returns:
        The records, and by name what the poison is made of.

    Raises:
        ArtefactError: a name that fits nothing, or digits that fit several poisons.
    """
    known = {digest: about for record in records for digest, about in _poison_of(record)}
    known |= {card["digest"]: "+".join(card["attacks"]) for card in cards.values()}
    chosen: dict[str, str] = {}
    digests = set()
    for name in names:
        digits = cards[name]["digest"] if name in cards else name
        found = [d for d in known if d.startswith(digits)] if len(digits) >= MIN_DIGITS else []
        if len(found) != 1:
            raise ArtefactError(
                "--poison: expected an artefact's path or at least "
                f"{MIN_DIGITS} digits of the digest of one poison that has runs, got {name!r}, "
                f"which fits {len(found)}; poisonbench inspect RUN_ID shows a run's"
            )
        chosen[name] = known[found[0]]
        digests.add(found[0])
    kept = []
    for record in records:
        poison = record.spec.get("poison")
        if poison is None:
            kept.append(record)
        elif isinstance(poison, Mapping) and poison.get("digest") in digests:
            spec = record.spec | {"poison": {**poison, "attacks": list(MIX)}}
            kept.append(replace(record, spec=spec, labels=_own(record.labels)))
    return kept, chosen


def with_note(table: Table, poisons: Mapping[str, str]) -> Table:
    """The table with a first note that says which poisons it is of.

    Args:
        table: made of what :func:`on_poisons` gave.
        poisons: what they are made of, by name.
    """
    named = ", ".join(f"{name} ({attacks})" for name, attacks in poisons.items())
    note = (
        f"The runs above rho 0 are on {named}. These are not the mix that this table is defined "
        "for, so a verdict here compares another poison's figure with the published one."
    )
    return replace(table, notes=(note, *table.notes))


def _poison_of(record: RunRecord) -> list[tuple[str, str]]:
    """The digest of a run's poison and what that is made of; nothing for a clean run."""
    poison = record.spec.get("poison")
    if not isinstance(poison, Mapping) or not isinstance(poison.get("digest"), str):
        return []
    attacks = poison.get("attacks")
    about = "+".join(map(str, attacks)) if isinstance(attacks, list) else "unknown"
    return [(poison["digest"], about)]


def _own(labels: Mapping[str, Any]) -> dict[str, Any]:
    """The labels without the choice of the poison among what was set."""
    given = labels.get("overrides")
    if not isinstance(given, Mapping):
        return dict(labels)
    chosen = ("poison", "poison_trial", "selection")
    overrides = {name: value for name, value in given.items() if name not in chosen}
    variant = "custom" if overrides else labels.get("profile", "paper")
    return {**labels, "overrides": overrides, "variant": variant}
