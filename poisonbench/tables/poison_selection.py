"""A table of other poisons than its own: another mix, one attack, an import. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from poisonbench.core.errors import ArtefactError, UsageError
from poisonbench.registry import MIX
from poisonbench.results.records import RunRecord
from poisonbench.tables.catalogue import TABLES
from poisonbench.tables.comparisons import Table, is_targeted
from poisonbench.tables.paper_table import dataset_labels

#: Digits of a digest that are enough to name a poison.
MIN_DIGITS = 8


def check_table(key: str) -> None:
    """Refuse a table whose poison is each trial's own.

    Raises:
        UsageError: it is one of targeted attacks.
    """
    others = [name for name, table in TABLES.items() if not table.is_targeted]
    if key not in others:
        raise UsageError(
            f"--poison: expected one of the tables {', '.join(others)}, whose poison is one for "
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
        UsageError: a targeted poison, or two of one ratio.
    """
    known = {digest: about for record in records for digest, about in _poison_of(record)}
    known |= {card["digest"]: "+".join(card["attacks"]) for card in cards.values()}
    by_digest: dict[str, str] = {}
    for name in names:
        digits = cards[name]["digest"] if name in cards else name.lower()
        found = [d for d in known if d.startswith(digits)] if len(digits) >= MIN_DIGITS else []
        if len(found) != 1:
            raise ArtefactError(
                "--poison: expected an artefact's path, its id in the results folder or at least "
                f"{MIN_DIGITS} digits of the digest of one poison that has runs, got {name!r}, "
                f"which fits {len(found)}; poisonbench inspect RUN_ID shows a run's"
            )
        by_digest[found[0]] = name
    kept = []
    ratios: dict[tuple[Any, ...], str] = {}
    for record in records:
        poison = record.spec.get("poison")
        if poison is None:
            kept.append(record)
        elif isinstance(poison, Mapping) and poison.get("digest") in by_digest:
            _check(record, poison, ratios, by_digest)
            spec = record.spec | {"poison": {**poison, "attacks": list(MIX)}}
            kept.append(replace(record, spec=spec, labels=_own(record.labels)))
    return kept, {name: known[digest] for digest, name in by_digest.items()}


def dataset_of(
    records: Sequence[RunRecord], names: Sequence[str], dataset: str | None
) -> str | None:
    """The data set of the runs on the poisons, to show it alone; null where there are several.

    Args:
        records: what :func:`on_poisons` gave.
        names: of the poisons.
        dataset: what was asked for.

    Raises:
        UsageError: the poisons have runs on data that no table has, or none on the data set that
            was asked for.
    """
    found = list(
        dict.fromkeys(
            str(record.spec["dataset"]["name"]) for record in records if record.spec.get("poison")
        )
    )
    if shown := [name for name in found if name not in dataset_labels()]:
        raise UsageError(
            f"--poison: expected runs on a data set that tables have, got {', '.join(names)} with "
            f"runs on {', '.join(shown)}; poisonbench report --runs shows them"
        )
    if dataset is None:
        return found[0] if len(found) == 1 else None
    if found and dataset not in found:
        raise UsageError(
            f"--dataset: expected that of the runs on {', '.join(names)}, {', '.join(found)}, got "
            f"{dataset}"
        )
    return dataset


def ratios_of(records: Sequence[RunRecord]) -> set[float]:
    """The poison ratios of runs, and 0."""
    poisons = [record.spec.get("poison") for record in records]
    return {0.0, *(float(poison["rho"]) for poison in poisons if poison)}


def _check(
    record: RunRecord,
    poison: Mapping[str, Any],
    ratios: dict[tuple[Any, ...], str],
    names: Mapping[str, str],
) -> None:
    """Whether a run's poison can stand in a cell: untargeted, and alone at its ratio."""
    name = names[poison["digest"]]
    if is_targeted(record):
        raise UsageError(f"--poison: expected untargeted poisons, got {name}; see --table 3")
    mix = (record.spec["dataset"]["name"], poison.get("rho"), record.spec["seed"])
    other = ratios.setdefault(mix, name)
    if other != name:
        raise UsageError(
            f"--poison: expected one poison for each ratio, got {other} and {name}, both at rho "
            f"{poison.get('rho'):g} of {mix[0]} with seed {mix[2]}; make a table of each"
        )


def with_note(table: Table, poisons: Mapping[str, str]) -> Table:
    """The table with a first note that says which poisons it is of.

    Args:
        table: made of what :func:`on_poisons` gave.
        poisons: what they are made of, by name.
    """
    named = ", ".join(f"{name} ({attacks})" for name, attacks in poisons.items())
    note = (
        f"The runs above rho 0 are on {named}. Where that is not the mix by its own settings, a "
        "verdict compares another poison's figure with the published one."
    )
    # Those commands would make runs on the table's own mix.
    others = [text for text in table.notes if "--missing" not in text]
    return replace(table, notes=(note, *others))


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
