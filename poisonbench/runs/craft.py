"""Crafting: from an attack's name to an artefact in the store, made once and found again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from poisonbench.attacks.base import AttackTask, LabelledImages
from poisonbench.core.canonical import spec_id
from poisonbench.core.errors import DivergedError, UsageError
from poisonbench.core.files import publish_folder
from poisonbench.core.seeds import generator_for, seed_for
from poisonbench.core.settings import as_json
from poisonbench.data.artefacts import poison_files, read_poison
from poisonbench.data.mixing import Selection, mix
from poisonbench.data.poison import Poison, make_poison
from poisonbench.data.splits import Dataset
from poisonbench.models import check_model
from poisonbench.registry import MIX, attacks, find
from poisonbench.runs.craft_checkpoint import CraftCheckpoint, crafted_by
from poisonbench.runs.method_settings import Settings, read_settings
from poisonbench.runs.trained_models import model_spec, own_seeds, trained_models
from poisonbench.runs.workspace import Bench, check_trial, default_model


@dataclass(frozen=True)
class Crafted:
    """A poison and where it lies.

    Attributes:
        poison: the artefact.
        id: its name in the store.
        path: its folder.
        is_new: false when it was there already.
        pools: by attack, the id and spec of the poison of every image that it was drawn from.
    """

    poison: Poison
    id: str
    path: Path
    is_new: bool
    pools: dict[str, Any] = field(default_factory=dict)


def attack_names(text: str) -> tuple[str, ...]:
    """``"mix"`` or names joined by ``+`` as names of attacks, in order.

    Raises:
        UsageError: an unknown or repeated name.
    """
    if text == "mix":
        return MIX
    table = attacks()
    names = tuple(find("an attack (or mix)", table, name).name for name in text.split("+"))
    if len(set(names)) < len(names):
        raise UsageError(f"--attack: expected each attack once, got {text!r}")
    if len(names) > 1 and (targeted := [name for name in names if table[name].scenario]):
        raise UsageError(
            f"--attack: expected untargeted attacks to mix, got {targeted[0]}; "
            "a targeted attack goes alone"
        )
    return names


def craft(
    bench: Bench,
    names: Sequence[str],
    dataset: Dataset,
    *,
    rho: float | None = None,
    selection: Selection = "stratified",
    trial: int = 0,
    profile: str = "paper",
    values: Mapping[str, str] | None = None,
    model: str | None = None,
) -> Crafted:
    """One attack's poison of every training image, or several attacks' mix at a ratio rho.

    Args:
        bench: where.
        names: attacks in the order of their shares.
        dataset: what to poison.
        rho: share of the training images that are poisoned; None poisons all of them with one
            attack, and is 1 for several.
        selection: how the shares are drawn.
        trial: another trial is another draw of everything random.
        profile: the attacks' profile.
        values: option texts of the attack; of several, each by its attack's name: ``dc.rounds``.
        model: the surrogate's network; by default the paper's for this kind of data.

    Raises:
        UsageError: bad names, ratio or options.
    """
    check_trial(trial)
    if rho is not None and not 0 < rho <= 1:
        raise UsageError(f"--rho: expected a poison ratio in (0, 1], got {rho:g}")
    shares = _values_of_each(names, values or {})
    trains = any(attacks()[name].trains for name in names)
    if model is not None and not trains:
        raise UsageError(
            f"--model: expected an attack with a surrogate, got {'+'.join(names)}; leave it out"
        )
    if trains:
        check_model(model or default_model(dataset), dataset.image_shape)
    for name in names:
        # Options are read before the first attack is crafted, which may take hours.
        pool_spec(bench, name, dataset, trial, profile, shares[name], model)
    pools = {
        name: _craft_pool(bench, name, dataset, trial, profile, shares[name], model)
        for name in names
    }
    if len(names) == 1 and rho is None:
        return pools[names[0]]
    mixed = mix(
        {name: pool.poison for name, pool in pools.items()},
        dataset,
        rho=1.0 if rho is None else rho,
        seed=seed_for(bench.seed, "mix", trial),
        selection=selection,
    )
    crafted = publish(bench, mixed, dataset, spec_id(mixed.card["spec"]))
    origins = {
        name: {"id": pool.id, "spec": pool.poison.card["spec"]} for name, pool in pools.items()
    }
    return replace(crafted, pools=origins)


def _values_of_each(names: Sequence[str], values: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Option texts by attack; with several attacks ``dc.rounds`` is the option ``rounds`` of dc."""
    if len(names) == 1:
        return {names[0]: dict(values)}
    shares: dict[str, dict[str, str]] = {name: {} for name in names}
    for key, text in values.items():
        owner, dot, option = key.partition(".")
        if not dot or owner not in shares:
            flag = (option or key).replace("_", "-")
            raise UsageError(
                f"expected an option with the name of one of the attacks {', '.join(names)}, such "
                f"as --{names[-1]}.{flag}, got --{key.replace('_', '-')}"
            )
        shares[owner][option] = text
    return shares


def _craft_pool(
    bench: Bench,
    name: str,
    dataset: Dataset,
    trial: int,
    profile: str,
    values: Mapping[str, str],
    model: str | None,
) -> Crafted:
    """An attack's poison of every training image."""
    settings, spec = pool_spec(bench, name, dataset, trial, profile, values, model)
    surrogate = model_spec(bench, dataset, settings.recipe, "surrogate", trial, model)
    poison_id = spec_id(spec)
    path = bench.store.poison_path(poison_id)
    if path.exists():
        # A kill may have come between publishing and discarding.
        bench.checkpoint(poison_id).discard()
        return Crafted(read_poison(path, dataset), poison_id, path, False)
    bench.store.check_writable()
    bench.say(f"crafting {name} on {dataset.name} ({len(dataset.train):,} images)")
    try:
        images = _attack(bench, settings, dataset, surrogate, trial, poison_id)
    except DivergedError:
        bench.checkpoint(poison_id).discard()
        raise
    poison = make_poison(
        images,
        torch.arange(len(dataset.train)),
        dataset,
        attack=name,
        epsilon=settings.config.budget,
        spec=spec,
    )
    crafted = publish(bench, poison, dataset, poison_id)
    bench.checkpoint(poison_id).discard()
    return crafted


def pool_spec(
    bench: Bench,
    name: str,
    dataset: Dataset,
    trial: int = 0,
    profile: str = "paper",
    values: Mapping[str, str] | None = None,
    model: str | None = None,
) -> tuple[Settings, dict[str, Any]]:
    """An attack's settings, and all that determines its poison of every training image.

    The poison's name in the store is the spec's :func:`spec_id`, known before it is crafted.

    Raises:
        UsageError: bad names or options.
    """
    entry = find("an attack", attacks(), name)
    settings = read_settings(entry, dataset, profile, values or {}, model)
    surrogate = model_spec(bench, dataset, settings.recipe, "surrogate", trial, model)
    spec: dict[str, Any] = {
        "kind": "craft",
        "attack": name,
        "recipe_number": settings.module.VERSION,
        "config": as_json(settings.config),
        "dataset": dataset.digest,
        "surrogate": surrogate if entry.trains else None,
        "seed": bench.seed,
        "trial": trial,
    }
    return settings, spec


def _attack(
    bench: Bench,
    settings: Settings,
    dataset: Dataset,
    surrogate: dict[str, Any],
    trial: int,
    poison_id: str,
) -> torch.Tensor:
    generator = generator_for(bench.seed, "craft", settings.entry.name, trial)
    checkpoint = CraftCheckpoint(bench, settings.entry.name, poison_id, [generator])

    task = AttackTask(
        images=dataset.train.images.to(bench.device).float().div_(255),
        labels=dataset.train.labels.to(bench.device),
        validation=LabelledImages(
            dataset.validation.images.to(bench.device).float().div_(255),
            dataset.validation.labels.to(bench.device),
        ),
        num_classes=dataset.num_classes,
        surrogate=lambda: trained_models(
            bench, dataset, settings.recipe, surrogate, seeds=own_seeds(surrogate)
        )[0],
        generator=generator,
        report=checkpoint.report,
        checkpoint=checkpoint,
    )
    return crafted_by(settings, task, bench.say)


def publish(bench: Bench, poison: Poison, dataset: Dataset, poison_id: str) -> Crafted:
    """Put a poison into the store, or find it there."""
    path = bench.store.poison_path(poison_id)
    if path.exists():
        return Crafted(read_poison(path, dataset), poison_id, path, False)
    publish_folder(path, poison_files(poison, dataset))
    return Crafted(poison, poison_id, path, True)
