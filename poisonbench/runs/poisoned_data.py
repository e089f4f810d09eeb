"""What a run trains on: poisoned images, and the poisons' places, which no defense sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from poisonbench.core.errors import ArtefactError, UsageError
from poisonbench.data.artefacts import read_poison
from poisonbench.data.mixing import Selection
from poisonbench.data.poison import Poison
from poisonbench.data.splits import Dataset, Split
from poisonbench.registry import attacks
from poisonbench.runs.craft import craft
from poisonbench.runs.craft_targeted import (
    Targeted,
    check_selection,
    craft_targeted,
    find_goal,
    is_targeted,
    poison_rows,
    read_targeting,
    read_targeting_of,
    refuse_targeting,
)
from poisonbench.runs.method_settings import read_settings
from poisonbench.runs.victim import stage_rows
from poisonbench.runs.workspace import Bench
from poisonbench.targeting import Goal

#: Poisoned share of the training images in the paper's sensitivity study (its Table IV).
DEFAULT_RHO = 0.6


@dataclass(frozen=True)
class PoisonChoice:
    """Which poison a run trains on.

    Attributes:
        attacks: names in the order of their shares; none with a path.
        path: an artefact to use as it is, instead of ``attacks``.
        rho: share of the training images that are poisoned; 0 trains on clean data. None is the
            paper's: 0.6, its sensitivity study's, or a targeted attack's own.
        selection: how shares are drawn.
        trial: an untargeted poison's trial. By default all trials of a table train on one poison,
            so their spread is the training's. A targeted poison is the run's own trial's.
        profile: a targeted attack's; "paper" is the HINT paper's for most.
    """

    attacks: tuple[str, ...] = ()
    path: Path | None = None
    rho: float | None = None
    selection: Selection = "stratified"
    trial: int = 0
    profile: str = "paper"


@dataclass(frozen=True)
class Material:
    """What a run trains on.

    Attributes:
        train: the images that the defense gets, poisons among them.
        is_poison: (N,) bool.
        rows: (N,) of the training split that they are.
        digest: the poison's; None on clean data.
        origin: where the poison came from, for the record's labels.
        goal: the target of a targeted attack.
    """

    train: Split
    is_poison: Tensor
    rows: Tensor
    digest: str | None
    origin: dict[str, Any] | None
    goal: Goal | None = None


def describe_choice(
    dataset: Dataset, choice: PoisonChoice, targeted: Targeted | None, trial: int
) -> dict[str, Any] | None:
    """What a run's spec says of its poison before it is crafted; nothing for a clean run."""
    if choice.path is not None:
        poison = read_poison(choice.path, dataset)
        return {
            "attacks": poison.card["attacks"],
            "rho": len(poison) / len(dataset.train),
            "selection": None,
            "trial": None,
            "digest": poison.digest,
        }
    attacks = list(choice.attacks)
    if targeted is not None:
        rho = targeted.targeting.rho
        about = {"attacks": attacks, "rho": rho, "selection": None, "trial": trial}
        about |= {"profile": choice.profile} if choice.profile != "paper" else {}
        return about if rho > 0 else None
    rho = DEFAULT_RHO if choice.rho is None else choice.rho
    about = {"attacks": attacks, "rho": rho, "selection": choice.selection, "trial": choice.trial}
    return about if rho > 0 else None


def read_targets(
    choice: PoisonChoice, dataset: Dataset, values: Mapping[str, str]
) -> tuple[Targeted | None, dict[str, str]]:
    """The targeting settings when the poison is targeted, and the option texts that are left.

    Raises:
        UsageError: a bad value, or one that the poison does not leave open.
        ArtefactError: an unreadable poison, or one made for another scenario than asked for.
    """
    if choice.path is not None:
        if choice.profile != "paper":
            raise UsageError(
                "--attack-profile: expected it with --attack, got it with --poison, which was "
                "made by one; leave it out"
            )
        poison = read_poison(choice.path, dataset)
        goal = poison.goal
        if goal is None:
            refuse_targeting(values, str(choice.path))
            return None, dict(values)
        asked = values.get("scenario", goal.scenario)
        if asked != goal.scenario:
            raise ArtefactError(
                f"{choice.path}: expected a poison made for scenario {asked}, got one for "
                f"{goal.scenario}; leave --scenario out or craft one for it"
            )
        settled = {
            "scenario": goal.scenario,
            "rho": str(len(poison) / len(dataset.train)),
            "target": str(goal.target),
            "intended_class": str(goal.intended_class),
            "poison_class": str(goal.poison_class),
        }
        for name in (*settled, "targets"):
            if name in values and name != "scenario":
                raise UsageError(
                    f"--{name.replace('_', '-')}: expected it with --attack, got it with "
                    f"--poison, which settles it; leave it out"
                )
        return read_targeting({**values, **settled}, dataset, goal.scenario)
    entry = is_targeted(choice.attacks)
    if entry is None:
        refuse_targeting(values, "+".join(choice.attacks) or "--clean")
        if choice.profile != "paper":
            raise UsageError(
                f"--attack-profile: expected a targeted attack, got "
                f"{'+'.join(choice.attacks) or 'clean data'}; leave it out"
            )
        return None, dict(values)
    check_selection(choice.selection, entry.name)
    if choice.trial:
        raise UsageError(
            f"--poison-trial: expected an untargeted attack, got {entry.name}, whose poison is "
            "the trial's own; leave it out"
        )
    own = {} if choice.rho is None else {"rho": str(choice.rho)}
    return read_targeting_of(entry, {**values, **own}, dataset)


def prepare(
    bench: Bench,
    dataset: Dataset,
    choice: PoisonChoice,
    targeted: Targeted | None,
    trial: int,
    model: str | None,
) -> Material:
    """Craft or find the poison, and put it into the training images.

    Args:
        bench: where.
        dataset: the clean data.
        choice: which poison.
        targeted: from :func:`read_targets`.
        trial: the run's.
        model: the network that was asked for.

    Raises:
        PoisonbenchError: see :mod:`poisonbench.core.errors`.
    """
    poison, origin = _find_poison(bench, dataset, choice, targeted, trial, model)
    train = dataset.train if poison is None else poison.apply(dataset.train)
    is_poison = torch.zeros(len(train), dtype=torch.bool)
    if poison is not None:
        is_poison[poison.indices] = True
    every = torch.arange(len(train))
    digest = None if poison is None else poison.digest
    if targeted is None:
        return Material(train, is_poison, every, digest, origin)
    targeting = targeted.targeting
    if poison is not None and poison.goal is not None:
        goal, poisoned = poison.goal, poison.indices
    else:
        entry = attacks()[choice.attacks[0]]
        attack = read_settings(entry, dataset, choice.profile, {}, model)
        goal = find_goal(bench, dataset, targeting, attack.recipe, trial, model)
        poisoned = poison_rows(bench, dataset, targeting, goal, trial)
    rows = stage_rows(bench, dataset, targeting, poisoned, trial)
    if len(rows) < len(train):
        train, is_poison = train.rows(rows), is_poison[rows]
    return Material(train, is_poison, rows, digest, origin, goal)


def _find_poison(
    bench: Bench,
    dataset: Dataset,
    choice: PoisonChoice,
    targeted: Targeted | None,
    trial: int,
    model: str | None,
) -> tuple[Poison | None, dict[str, Any] | None]:
    """The poison and where it came from; nothing for a clean run."""
    if choice.path is not None:
        poison = read_poison(choice.path, dataset)
        return poison, {"id": None, "made_by": poison.card["spec"]}
    if targeted is not None:
        if targeted.targeting.rho == 0:
            return None, None
        name = choice.attacks[0]
        (crafted,) = craft_targeted(
            bench,
            name,
            dataset,
            trials=[trial],
            profile=choice.profile,
            values=targeted.texts,
            model=model,
        )
        pools = {name: {"id": crafted.id, "spec": crafted.poison.card["spec"]}}
        return crafted.poison, {"id": crafted.id, "pools": pools}
    rho = DEFAULT_RHO if choice.rho is None else choice.rho
    if rho == 0:
        return None, None
    crafted = craft(
        bench,
        choice.attacks,
        dataset,
        rho=rho,
        selection=choice.selection,
        trial=choice.trial,
    )
    return crafted.poison, {"id": crafted.id, "pools": crafted.pools}
