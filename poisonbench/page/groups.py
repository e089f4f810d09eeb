"""Runs in rows that share all but the defense: the unit of the matrix and of comparisons.

A row is one poison, or clean data, with one network; its columns are defenses with their settings.
An artefact that was given is a row of its own, draws of a crafted poison share one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from poisonbench import registry
from poisonbench.requests import TARGETING
from poisonbench.results.records import RunRecord
from poisonbench.tables.all_runs import DIGITS
from poisonbench.tables.cells import distinct_trials
from poisonbench.tables.comparisons import Comparison
from poisonbench.tables.measured import compare_accuracy, compare_success

#: Overrides that say what a run trains on, and not how; an attack's own have a dot.
_OF_POISON = frozenset(
    {"poison", "poison_trial", "selection", "attack_profile", "attack_model", "model", *TARGETING}
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One defense in a row.

    Attributes:
        method: its name in the registry.
        label: its name in tables, with what is set apart from its profile.
        is_plain: whether nothing is.
        runs: all of them, in order of seed and trial.
        trials: those that may be averaged, one a trial.
    """

    method: str
    label: str
    is_plain: bool
    runs: tuple[RunRecord, ...]
    trials: tuple[RunRecord, ...]

    @property
    def accuracy(self) -> Comparison:
        """The mean test accuracy."""
        return compare_accuracy({**self._keys}, self.trials, None, trials=0)

    @property
    def success(self) -> Comparison:
        """Targets hit, of a targeted poison."""
        keys = {**self._keys, "quantity": "attack_success"}
        return compare_success(keys, self.trials, None, trials=0)

    @property
    def _keys(self) -> dict[str, Any]:
        return {"method": self.method, "defense": self.label}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One poison on one data set and network, and the defenses that were run on it.

    Attributes:
        settings: what is set of the poison and its attacks.
        poison: the first digits of a given artefact's digest; null for crafted ones.
        entries: in the registry's order, those without settings of their own first.
    """

    dataset: str
    digest: str
    model: str
    attack: str
    rho: float
    scenario: str
    settings: str
    poison: str | None
    entries: tuple[Entry, ...]

    @cached_property
    def id(self) -> str:
        """Its anchor, which the same runs always have."""
        parts = (self.dataset, self.digest, self.model, self.attack, repr(self.rho))
        text = "\n".join((*parts, self.scenario, self.settings, self.poison or ""))
        return "row-" + hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def is_targeted(self) -> bool:
        """Whether its runs have a target and poisons."""
        return bool(self.scenario) and self.rho > 0

    @property
    def title(self) -> str:
        """The poison in words."""
        if not self.rho:
            return "clean data" + (f", {self.scenario}" if self.scenario else "")
        parts = [f"{self.attack} at rho {self.rho:g}", self.scenario, self.settings]
        parts += [f"poison {self.poison}"] if self.poison else []
        return ", ".join(filter(None, parts))

    @property
    def plain(self) -> Entry | None:
        """Training without a defense."""
        return next((one for one in self.entries if one.method == "none" and one.is_plain), None)

    def entry(self, label: str) -> Entry | None:
        """A defense, or a form of it, by its profile's settings."""
        named = (entry for entry in self.entries if entry.label == label and entry.is_plain)
        return next(named, None)

    @property
    def runs(self) -> tuple[RunRecord, ...]:
        """All runs of the row."""
        return tuple(run for entry in self.entries for run in entry.runs)


def rows_of(records: Sequence[RunRecord]) -> list[Row]:
    """Group runs into rows, in the order of data set, clean data first, attack and rho."""
    groups: dict[tuple[Any, ...], list[RunRecord]] = {}
    for record in records:
        groups.setdefault(_key(record), []).append(record)
    return [_row(key, groups[key]) for key in sorted(groups, key=_order)]


def own_settings(record: RunRecord) -> dict[str, Any]:
    """What a run's defense and recipe have apart from their profile."""
    labels = record.labels
    return {
        name: value
        for name, value in sorted(labels.overrides.items())
        if "." not in name and name not in _OF_POISON
    }


def _key(record: RunRecord) -> tuple[Any, ...]:
    spec, labels = record.spec, record.labels
    settings = {
        name: value
        for name, value in sorted(labels.overrides.items())
        if "." in name or name in _OF_POISON - {"poison", "poison_trial", "model", "scenario"}
    }
    is_given = "poison" in labels.overrides and spec.targeting is None
    digest = spec.poison_digest if is_given else None
    return (
        labels.dataset,
        "" if spec.targeting is None else spec.targeting.scenario,
        spec.rho,
        "+".join(spec.poison.attacks) if spec.poison else "",
        _words(settings) if spec.rho else "",
        None if digest is None else digest[:DIGITS],
        spec.model,
        spec.dataset.digest,
    )


def _order(key: tuple[Any, ...]) -> tuple[Any, ...]:
    return (key[0], key[1], key[2] > 0, key[3].count("+"), *key[3:5], key[2], key[5] or "", key[6:])


def _row(key: tuple[Any, ...], records: Sequence[RunRecord]) -> Row:
    dataset, scenario, rho, attack, settings, poison, model, digest = key
    groups: dict[tuple[str, str, str], list[RunRecord]] = {}
    for record in records:
        label = registry.label_of(record.spec.method, record.spec.setting)
        profile = record.labels.profile
        parts = {"profile": profile} if profile not in ("paper", "") else {}
        # What makes a form of a defense is in its label.
        settings_shown = {
            name: value
            for name, value in own_settings(record).items()
            if not registry.makes_form(record.spec.method, name, value)
        }
        own = _words({**parts, **settings_shown})
        groups.setdefault((record.spec.method, label, own), []).append(record)
    order = list(registry.defenses())
    position = {method: order.index(method) for method, *_ in groups if method in order}
    entries = [
        Entry(
            method=method,
            label=label + (f" ({own})" if own else ""),
            is_plain=not own,
            runs=tuple(sorted(runs, key=_place)),
            trials=tuple(distinct_trials(runs)),
        )
        for (method, label, own), runs in groups.items()
    ]
    entries.sort(key=lambda e: (not e.is_plain, position.get(e.method, len(order)), e.label))
    return Row(
        dataset=dataset,
        digest=digest,
        model=model,
        attack=attack,
        rho=rho,
        scenario=scenario,
        settings=settings,
        poison=poison,
        entries=tuple(entries),
    )


def _place(record: RunRecord) -> tuple[Any, ...]:
    return record.spec.seed, record.spec.trial, record.environment.finished, record.id


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())
