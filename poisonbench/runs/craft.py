"""Crafting: from a request to artefacts in the store, made once and found again."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from poisonbench.attacks.base import AttackTask, LabelledImages
from poisonbench.core.errors import DivergedError, UsageError
from poisonbench.core.seeds import generator_for, seed_for
from poisonbench.data.mixing import mix
from poisonbench.data.poison import make_poison
from poisonbench.data.splits import Dataset
from poisonbench.models.classifier import Classifier
from poisonbench.requests import CraftRequest
from poisonbench.runs.craft_checkpoint import CraftCheckpoint, crafted_by
from poisonbench.runs.craft_targeted import craft_targeted
from poisonbench.runs.poison import (
    Crafted,
    Pool,
    ResolvedPoison,
    publish,
    resolve_crafting,
    stored,
)
from poisonbench.runs.trained_models import own_seeds, trained_models
from poisonbench.runs.workspace import Bench


def craft(bench: Bench, request: CraftRequest, trials: Sequence[int] = ()) -> list[Crafted]:
    """Craft a poison, or find it; several trials of a targeted attack side by side.

    Args:
        bench: where.
        request: what to craft.
        trials: instead of the request's own.

    Raises:
        PoisonbenchError: see :mod:`poisonbench.core.errors`; every option is read before the
            first attack is crafted, which may take hours.
    """
    bench = bench.seeded(request.seed)
    dataset = bench.dataset(request.dataset)
    poisons = [
        resolve_crafting(bench, dataset, request.at(trial).poison)
        for trial in trials or [request.poison.trial]
    ]
    if poisons[0].targeted is not None:
        return craft_targeted(bench, dataset, poisons)
    return [craft_mix(bench, dataset, poison) for poison in poisons]


def craft_mix(bench: Bench, dataset: Dataset, poison: ResolvedPoison) -> Crafted:
    """One attack's poison of every training image, or several attacks' mix at a ratio rho."""
    crafted = {name: _craft_pool(bench, dataset, pool) for name, pool in poison.pools.items()}
    if poison.rho is None:
        return next(iter(crafted.values()))
    pools = {name: pool.poison for name, pool in crafted.items()}
    mixed = mix(
        pools,
        dataset,
        rho=poison.rho,
        seed=seed_for(bench.seed, "mix", poison.request.trial),
        selection=poison.request.selection,
    )
    return publish(bench, mixed, dataset)


def _craft_pool(bench: Bench, dataset: Dataset, pool: Pool) -> Crafted:
    """An attack's poison of every training image."""
    if bench.store.poison_path(pool.id).exists():
        # A kill may have come between publishing and discarding.
        bench.checkpoint(pool.id).discard()
        return stored(bench, pool.id, dataset)
    bench.store.check_writable()
    name, config = pool.settings.entry.name, pool.settings.config
    size = f"{len(dataset.train):,} images"
    bench.say(f"crafting {name} on {dataset.name} ({size}{pool.surrogate_text})")
    try:
        images = _attack(bench, dataset, pool)
    except DivergedError:
        bench.checkpoint(pool.id).discard()
        raise
    rows = torch.arange(len(dataset.train))
    poison = make_poison(images, rows, dataset, attack=name, epsilon=config.budget, spec=pool.spec)
    crafted = publish(bench, poison, dataset)
    bench.checkpoint(pool.id).discard()
    return crafted


def _attack(bench: Bench, dataset: Dataset, pool: Pool) -> torch.Tensor:
    name = pool.settings.entry.name
    generator = generator_for(bench.seed, "craft", name, pool.spec["trial"])
    checkpoint = CraftCheckpoint(bench, name, pool.id, [generator])

    def surrogate() -> Classifier:
        if not pool.settings.entry.trains:
            raise UsageError(f"{name}: expected trains=True in the entry, got use of a surrogate")
        recipe, seeds = pool.settings.recipe, own_seeds(pool.surrogate)
        return trained_models(bench, dataset, recipe, pool.surrogate, seeds=seeds)[0]

    task = AttackTask(
        images=dataset.train.images.to(bench.device).float().div_(255),
        labels=dataset.train.labels.to(bench.device),
        validation=LabelledImages(
            dataset.validation.images.to(bench.device).float().div_(255),
            dataset.validation.labels.to(bench.device),
        ),
        num_classes=dataset.num_classes,
        surrogate=surrogate,
        generator=generator,
        report=checkpoint.report,
        checkpoint=checkpoint,
    )
    return crafted_by(pool.settings, task, dataset.train.images, bench.say)
