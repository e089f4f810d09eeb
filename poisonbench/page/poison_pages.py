"""What the page says of one poison, from its runs' records and from its artefact."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from poisonbench.core.files import read_shared
from poisonbench.page.folder import Trouble
from poisonbench.page.groups import Row
from poisonbench.page.run_pages import ANCHOR, shown
from poisonbench.results.records import RunRecord
from poisonbench.results.store import Store
from poisonbench.results.submissions import Submission
from poisonbench.specs import CraftSpec, PoisonCard, seal_of

if TYPE_CHECKING:
    from poisonbench.page.poison_pictures import DataSets


@dataclass(frozen=True)
class Pool:
    """One attack's part of a poison: its settings, and the anchor of its own poison if shown."""

    attack: str
    id: str
    settings: str
    anchor: str | None


@dataclass(frozen=True)
class Image:
    """One poisoned image: PNGs as data addresses, and what it is."""

    clean: str
    poisoned: str
    difference: str
    caption: str


@dataclass(frozen=True)
class Pictures:
    """What there is to look at of a poison.

    Attributes:
        images: some of them, evenly through the training split.
        target: a target's picture as a data address; empty without one.
        target_caption: what it is and what it shall be called.
        levels: of grey, at which the difference is black or white.
        size: width of a picture on the page, in pixels.
        remark: why there is none; empty where there are.
    """

    images: tuple[Image, ...] = ()
    target: str = ""
    target_caption: str = ""
    size: int = 96
    levels: int = 0
    remark: str = ""


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """A poison in a results folder, as its card states it; of a submission the card alone."""

    id: str
    path: Path | None
    card: PoisonCard

    @property
    def anchor(self) -> str:
        """Its anchor, that of the runs on it."""
        return f"poison-{self.card.digest[:ANCHOR]}"


@dataclass(frozen=True, kw_only=True)
class PoisonPage:
    """One poison.

    Attributes:
        runs: by label of the defense, those trained on it, with the row that they are in.
    """

    anchor: str
    attacks: tuple[str, ...]
    dataset: str
    rho: float | None
    scenario: str
    facts: tuple[tuple[str, str], ...]
    pools: tuple[Pool, ...] = ()
    runs: tuple[tuple[str, Row, RunRecord], ...] = ()
    pictures: Pictures = field(default_factory=Pictures)

    @property
    def title(self) -> str:
        """The attacks."""
        share = "" if self.rho is None else f" at rho {self.rho:g}"
        return "+".join(self.attacks) + share

    @property
    def filters(self) -> dict[str, str]:
        """Its values of the page's filters."""
        values = {"dataset": self.dataset, "attack": "+".join(self.attacks)}
        values["rho"] = "" if self.rho is None else f"{self.rho:g}"
        return {
            name: value for name, value in {**values, "scenario": self.scenario}.items() if value
        }

    @property
    def is_targeted(self) -> bool:
        """Whether its runs have a target."""
        return bool(self.runs) and self.runs[0][1].is_targeted


def read_artefacts(
    stores: Sequence[Store], submissions: Sequence[Submission] = ()
) -> tuple[list[Artefact], list[Trouble]]:
    """The cards of all poisons, each digest once, and those that cannot be read."""
    artefacts: dict[str, Artefact] = {}
    damaged = []
    for store in stores:
        for path in store.poison_paths():
            try:
                fields = json.loads(read_shared(path / "card.json"))
                card = msgspec.convert(fields, PoisonCard)
                if card.seal != seal_of(fields):
                    raise ValueError("a card that was edited")
            except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
                fault = f"expected the card of a poison, got {type(error).__name__}: {error}"
                fault = fault.replace(str(store.root), "")
                damaged.append(Trouble(f"poisons/{path.name}", fault))
            else:
                artefacts.setdefault(card.digest, Artefact(id=path.name, path=path, card=card))
    for submission in submissions:
        for poison_id, card in submission.cards.items():
            artefacts.setdefault(card.digest, Artefact(id=poison_id, path=None, card=card))
    return [artefacts[digest] for digest in sorted(artefacts)], damaged


def poison_pages(
    rows: Sequence[Row], artefacts: Sequence[Artefact], sets: DataSets
) -> list[PoisonPage]:
    """A page for each poison that runs were trained on or that lies in a folder."""
    of_digest: dict[str, list[tuple[str, Row, RunRecord]]] = {}
    for row in rows:
        for entry in row.entries:
            for run in entry.runs:
                if run.spec.poison_digest is not None:
                    of_digest.setdefault(run.spec.poison_digest, []).append((entry.label, row, run))
    known = {artefact.card.digest: artefact for artefact in artefacts}
    anchors = {artefact.id: artefact.anchor for artefact in artefacts}
    trained = [
        _of_runs(digest, of_digest[digest], known.get(digest), anchors, sets)
        for digest in of_digest
    ]
    alone = [
        _of_artefact(artefact, _users(artefact, of_digest), sets)
        for digest, artefact in known.items()
        if digest not in of_digest
    ]
    return [*trained, *alone]


def _of_runs(
    digest: str,
    runs: Sequence[tuple[str, Row, RunRecord]],
    artefact: Artefact | None,
    anchors: dict[str, str],
    sets: DataSets,
) -> PoisonPage:
    _, row, record = runs[0]
    spec, origin = record.spec.poison, record.labels.poison
    assert spec is not None
    facts = [("data set", row.dataset), ("digest", digest)]
    facts += [("draw", str(spec.trial))] if spec.trial is not None else []
    facts += [("selection", spec.selection)] if spec.selection else []
    facts += [("attacks' profile", spec.profile)] if spec.profile else []
    if record.metrics.poison is not None:
        facts.append(("poisoned images", f"{record.metrics.poison.count:,}"))
    pools = [
        Pool(attack, pool.id, _lines(pool.spec.config), anchors.get(pool.id))
        for attack, pool in sorted((origin.pools if origin else {}).items())
    ]
    if origin is not None and origin.made_by is not None:
        facts.append(("made by", shown(msgspec.to_builtins(origin.made_by))))
    pictures = Pictures(remark="Its artefact is not in the results folder: no pictures.")
    if artefact is not None:
        facts += _card_facts(artefact.card)
        pictures = _pictures(artefact, row.dataset, sets)
    return PoisonPage(
        anchor=f"poison-{digest[:ANCHOR]}",
        attacks=tuple(spec.attacks),
        dataset=row.dataset,
        rho=spec.rho,
        scenario=row.scenario,
        facts=tuple(facts),
        pools=tuple(pools),
        runs=tuple(runs),
        pictures=pictures,
    )


def _of_artefact(
    artefact: Artefact, users: Sequence[tuple[str, Row, RunRecord]], sets: DataSets
) -> PoisonPage:
    """A poison that no run was trained on as it is: mostly one that mixes are drawn from."""
    card = artefact.card
    name = users[0][1].dataset if users else card.dataset.name
    settings = _lines(card.spec.config) if isinstance(card.spec, CraftSpec) else ""
    attacks = tuple(card.attacks)
    return PoisonPage(
        anchor=artefact.anchor,
        attacks=attacks,
        dataset=name,
        rho=None,
        scenario="",
        facts=(("data set", name), ("digest", card.digest), *_card_facts(card)),
        pools=(Pool("+".join(attacks), artefact.id, settings, None),),
        runs=tuple(users),
        pictures=_pictures(artefact, name, sets),
    )


def _users(
    artefact: Artefact, of_digest: dict[str, list[tuple[str, Row, RunRecord]]]
) -> list[tuple[str, Row, RunRecord]]:
    """The runs on mixes that were drawn from this poison."""
    return [
        one
        for runs in of_digest.values()
        for one in runs
        if (origin := one[2].labels.poison) is not None
        and artefact.id in {pool.id for pool in origin.pools.values()}
    ]


def _card_facts(card: PoisonCard) -> list[tuple[str, str]]:
    measured = card.measured
    return [
        ("poisons in the artefact", f"{card.num_poisons:,}"),
        ("budget", card.budget_text),
        (
            "measured change",
            f"at most {measured.max_abs_levels}/255, on average {measured.mean_abs_levels:.2f}/255",
        ),
        *([] if card.norm == "linf" else [("measured by its norm", card.measured_text)]),
    ]


def _lines(settings: Mapping[str, Any]) -> str:
    return "\n".join(f"{name} = {shown(value)}" for name, value in sorted(settings.items()))


def _pictures(artefact: Artefact, dataset: str, sets: DataSets) -> Pictures:
    if artefact.path is None:
        return Pictures(remark="A submission has its card alone: no pictures.")
    from poisonbench.page.poison_pictures import pictures_of

    return pictures_of(artefact, dataset, sets)
