"""What a run trains on: poisoned images, and the poisons' places, which no defense sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from poisonbench.data.mixing import Selection
from poisonbench.data.poison import Poison, read_poison
from poisonbench.data.splits import Dataset, Split
from poisonbench.errors import ArtefactError, UsageError
from poisonbench.registry import attacks
from poisonbench.runs.bench import Bench
from poisonbench.runs.craft import craft
from poisonbench.runs.scenarios import Stage, read_stage
from poisonbench.runs.settings import Settings, read_settings
from poisonbench.runs.targeted import (
    Targeted,
    craft_targeted,
    find_goal,
    is_targeted,
    poison_rows,
    read_targeting,
)
from poisonbench.targeting import Goal
from poisonbench.training.recipe import Recipe

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
    """

    attacks: tuple[str, ...] = ()
    path: Path | None = None
    rho: float | None = None
    selection: Selection = "stratified"
    trial: int = 0


@dataclass(frozen=True)
class Material:
    """What a run trains on.

    Attributes:
        train: the images that the defense gets, poisons among them.
        is_poison: (N,) bool.
        recipe: of the training that the defense takes part in.
        about: the poison, for the run's spec; None on clean data.
        origin: where the poison came from, for the record's labels.
        goal: the target of a targeted attack.
        stage: how its victim is trained.
    """

    train: Split
    is_poison: Tensor
    recipe: Recipe
    about: dict[str, Any] | None
    origin: dict[str, Any] | None
    goal: Goal | None = None
    stage: Stage | None = None


def read_targets(
    choice: PoisonChoice, dataset: Dataset, values: Mapping[str, str]
) -> tuple[Targeted | None, dict[str, str]]:
    """The targeting settings when the poison is targeted, and the option texts that are left.

    Raises:
        UsageError: a bad value.
        ArtefactError: an unreadable poison, or one made for another scenario than asked for.
    """
    if choice.path is not None:
        goal = read_poison(choice.path, dataset).goal
        if goal is None:
            return None, dict(values)
        asked = values.get("scenario", goal.scenario)
        if asked != goal.scenario:
            raise ArtefactError(
                f"{choice.path}: expected a poison made for scenario {asked}, got one for "
                f"{goal.scenario}; leave --scenario out or craft one for it"
            )
        return read_targeting(values, dataset, goal.scenario)
    entry = is_targeted(choice.attacks)
    if entry is None:
        return None, dict(values)
    if choice.trial:
        raise UsageError(
            f"--poison-trial: expected an untargeted attack, got {entry.name}, whose poison is "
            "the trial's own; leave it out"
        )
    own = {} if choice.rho is None else {"rho": str(choice.rho)}
    return read_targeting({**values, **own}, dataset, entry.scenario)


def prepare(
    bench: Bench,
    dataset: Dataset,
    choice: PoisonChoice,
    targeted: Targeted | None,
    settings: Settings,
    trial: int,
    model: str | None,
) -> Material:
    """Craft or find the poison, and put it into the training images.

    Args:
        bench: where.
        dataset: the clean data.
        choice: which poison.
        targeted: from :func:`read_targets`.
        settings: the defense's.
        trial: the run's.
        model: the network that was asked for.

    Raises:
        PoisonbenchError: see :mod:`poisonbench.errors`.
    """
    if targeted is not None:
        return _targeted(bench, dataset, choice, targeted, settings, trial, model)
    poison, about, origin = _untargeted(bench, dataset, choice)
    if poison is None:
        nowhere = torch.zeros(len(dataset.train), dtype=torch.bool)
        return Material(dataset.train, nowhere, settings.recipe, None, None)
    is_poison = _places(poison.indices, dataset)
    return Material(poison.apply(dataset.train), is_poison, settings.recipe, about, origin)


def _targeted(
    bench: Bench,
    dataset: Dataset,
    choice: PoisonChoice,
    targeted: Targeted,
    settings: Settings,
    trial: int,
    model: str | None,
) -> Material:
    targeting = targeted.targeting
    poison: Poison | None = None
    origin: dict[str, Any] | None = None
    about: dict[str, Any] | None = None
    if choice.path is not None:
        poison = read_poison(choice.path, dataset)
        origin = {"id": None, "made_by": poison.card["spec"]}
    elif targeting.rho > 0:
        (crafted,) = craft_targeted(
            bench, choice.attacks[0], dataset, trials=[trial], values=targeted.texts, model=model
        )
        poison, origin = crafted.poison, {"id": crafted.id, "made_by": crafted.poison.card["spec"]}
    if poison is not None and poison.goal is not None:
        goal, rows, train = poison.goal, poison.indices, poison.apply(dataset.train)
        about = {"attacks": poison.card["attacks"], "rho": len(poison) / len(dataset.train)}
        if choice.path is None:
            about["rho"] = targeting.rho
        about |= {"selection": None, "trial": None if choice.path else trial}
        about["digest"] = poison.digest
    else:
        attack = read_settings(attacks()[choice.attacks[0]], dataset, "paper", {})
        goal = find_goal(bench, dataset, targeting, attack.recipe, trial, model)
        rows, train = poison_rows(bench, dataset, targeting, goal, trial), dataset.train
    stage = read_stage(bench, dataset, targeting, goal, rows, settings, trial)
    is_poison = _places(rows[:0] if poison is None else rows, dataset)[stage.rows]
    if len(stage.rows) < len(train):
        train = train.rows(stage.rows)
    return Material(train, is_poison, stage.recipe, about, origin, goal, stage)


def _untargeted(
    bench: Bench, dataset: Dataset, choice: PoisonChoice
) -> tuple[Poison | None, dict[str, Any] | None, dict[str, Any] | None]:
    """The poison, what the spec says about it, and where it came from; nothing for a clean run."""
    if choice.path is not None:
        poison = read_poison(choice.path, dataset)
        rho = len(poison) / len(dataset.train)
        about: dict[str, Any] = {"attacks": poison.card["attacks"], "rho": rho}
        about |= {"selection": None, "trial": None, "digest": poison.digest}
        return poison, about, {"id": None, "made_by": poison.card["spec"]}
    ratio = DEFAULT_RHO if choice.rho is None else choice.rho
    if ratio == 0:
        return None, None, None
    crafted = craft(
        bench,
        choice.attacks,
        dataset,
        rho=ratio,
        selection=choice.selection,
        trial=choice.trial,
    )
    about = {"attacks": list(choice.attacks), "rho": ratio, "selection": choice.selection}
    about |= {"trial": choice.trial, "digest": crafted.poison.digest}
    return crafted.poison, about, {"id": crafted.id, "pools": crafted.pools}


def _places(rows: Tensor, dataset: Dataset) -> Tensor:
    """(n,) bool, true at the rows."""
    mask = torch.zeros(len(dataset.train), dtype=torch.bool)
    mask[rows] = True
    return mask
