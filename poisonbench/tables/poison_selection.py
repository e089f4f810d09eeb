"""A table of other poisons than its own: another mix, one attack, an import. No torch here."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import structs

from poisonbench.core.errors import ArtefactError, UsageError
from poisonbench.registry import MIX
from poisonbench.results.records import Labels, RunRecord
from poisonbench.specs import PoisonCard, RunSpec
from poisonbench.tables.catalogue import untargeted
from poisonbench.tables.paper_table import dataset_labels
from poisonbench.tables.readings import made_of, without

#: Digits of a digest that are enough to name a poison.
MIN_DIGITS = 8


def check_table(key: str) -> None:
    """Refuse, by a UsageError, a table of targeted attacks, whose poison is each trial's own."""
    if key not in untargeted():
        raise UsageError(
            f"--poison: expected one of the tables {', '.join(untargeted())}, whose poison is one "
            f"for all trials, got {key}; leave it out"
        )


def on_poisons(
    records: Sequence[RunRecord], names: Sequence[str], cards: Mapping[str, PoisonCard]
) -> tuple[list[RunRecord], dict[str, str]]:
    """Take the runs on clean data, and those on some poisons as if these were the tables' mix.

    Args:
        records: all that there are; runs on other poisons are left out.
        names: of the poisons: keys of ``cards``, or the first digits of the digest of one that
            has runs.
        cards: of the artefacts that are there.

    Returns:
        The records, and by name what the poison is made of.

    Raises:
        ArtefactError: a name that fits nothing, or digits that fit several poisons.
        UsageError: a targeted poison, two of one ratio, or poisons of other attacks or readings.
    """
    known = {card.digest: "+".join(card.attacks) for card in cards.values()}
    for record in records:
        if (poison := record.spec.poison) is not None:
            # Of several runs on a poison one that was crafted by its settings knows most.
            known[str(poison.digest)] = max(
                known.get(str(poison.digest), ""), made_of(record), key=len
            )
    by_digest: dict[str, str] = {}
    for name in names:
        digits = cards[name].digest if name in cards else name.lower()
        digests = [d for d in known if d.startswith(digits)] if len(digits) >= MIN_DIGITS else []
        if len(digests) != 1:
            raise ArtefactError(
                "--poison: expected an artefact's path, its id in the results folder or at least "
                f"{MIN_DIGITS} digits of the digest of one poison that has runs, got {name!r}, "
                f"which fits {len(digests)}; poisonbench inspect RUN_ID shows a run's"
            )
        by_digest[digests[0]] = name
    if len({known[digest] for digest in by_digest}) > 1:
        named = ", ".join(f"{name} of {known[digest]}" for digest, name in by_digest.items())
        raise UsageError(
            f"--poison: expected poisons of the same attacks, in one reading, got {named}; make a "
            "table of each"
        )
    kept = []
    ratios: dict[tuple[Any, ...], str] = {}
    for record in records:
        poison = record.spec.poison
        if poison is None:
            kept.append(record)
        elif poison.digest in by_digest:
            _check(record.spec, by_digest[poison.digest], ratios)
            # Of a given poison there are no draws.
            mix = structs.replace(poison, attacks=list(MIX), trial=None)
            spec = structs.replace(record.spec, poison=mix)
            kept.append(structs.replace(record, spec=spec, labels=_own(record.labels)))
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
    on = list(dict.fromkeys(run.spec.dataset.name for run in records if run.spec.poison))
    if others := [name for name in on if name not in dataset_labels()]:
        raise UsageError(
            f"--poison: expected runs on a data set that tables have, got {', '.join(names)} with "
            f"runs on {', '.join(others)}; poisonbench report --runs shows them"
        )
    if dataset is None:
        return on[0] if len(on) == 1 else None
    if on and dataset not in on:
        raise UsageError(
            f"--dataset: expected that of the runs on {', '.join(names)}, {', '.join(on)}, got "
            f"{dataset}"
        )
    return dataset


def ratios_of(records: Sequence[RunRecord]) -> set[float]:
    """The poison ratios of runs, and 0."""
    return {0.0, *(record.spec.rho for record in records)}


def _check(spec: RunSpec, name: str, ratios: dict[tuple[Any, ...], str]) -> None:
    """Refuse a run's poison that cannot stand in a cell: targeted, or not alone at its ratio."""
    if spec.targeting is not None:
        raise UsageError(f"--poison: expected untargeted poisons, got {name}; see --table 3")
    other = ratios.setdefault((spec.dataset.name, spec.rho, spec.seed), name)
    if other != name:
        raise UsageError(
            f"--poison: expected one poison for each ratio, got {other} and {name}, both at rho "
            f"{spec.rho:g} of {spec.dataset.name} with seed {spec.seed}; make a table of each"
        )


def _own(labels: Labels) -> Labels:
    """The labels without what was set of the poison, which is given."""
    of_attacks = [name for name in labels.overrides if "." in name]
    return without(labels, ["poison", "poison_trial", "selection", *of_attacks])
