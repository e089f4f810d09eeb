"""Crafting: from a request to artefacts in the store, made once and found again."""

from collections.abc import Sequence

import torch

from poisonbench.attacks.base import AttackTask, LabelledImages
from poisonbench.core.errors import UsageError
from poisonbench.core.seeds import generator_for, seed_for
from poisonbench.data.mixing import mix
from poisonbench.data.names import shown_name
from poisonbench.data.splits import Dataset, Split
from poisonbench.models.classifier import Classifier
from poisonbench.requests import CraftRequest
from poisonbench.runs.craft_checkpoint import crafted_by, crafting
from poisonbench.runs.craft_targeted import craft_targeted
from poisonbench.runs.poison import (
    Crafted,
    Pool,
    ResolvedPoison,
    publish,
    publish_pool,
    resolve_crafting,
    stored,
)
from poisonbench.runs.trained_models import trained_models
from poisonbench.runs.workspace import Bench


def craft(bench: Bench, request: CraftRequest, trials: Sequence[int] = ()) -> list[Crafted]:
    """Craft a poison, or find it; several trials of a targeted attack side by side.

    ``trials`` are crafted instead of the request's own.

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
    if poisons[0].targeting is not None:
        return craft_targeted(bench, dataset, poisons)
    return [craft_mix(bench, dataset, poison) for poison in poisons]


def craft_mix(bench: Bench, dataset: Dataset, poison: ResolvedPoison) -> Crafted:
    """One attack's poison of every training image, or several attacks' mix at a ratio rho."""
    crafted = {name: _craft_pool(bench, dataset, pool) for name, pool in poison.pools.items()}
    if poison.rho is None:
        return next(iter(crafted.values()))
    mixed = mix(
        {name: pool.poison for name, pool in crafted.items()},
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
    settings, train = pool.settings, dataset.train
    name, recipe = settings.entry.name, settings.recipe
    generator = generator_for(bench.seed, "craft", name, pool.spec.trial)

    def surrogate() -> Classifier:
        if not settings.entry.trains:
            raise UsageError(f"{name}: expected trains=True in the entry, got use of a surrogate")
        return trained_models(bench, dataset, recipe, pool.surrogate)[0]

    with crafting(bench, dataset, name, pool.id, [generator]) as checkpoint:
        about = f"{len(train):,} images{pool.surrogate_text}"
        bench.say(f"crafting {name} on {shown_name(dataset.name)} ({about})")
        task = AttackTask(
            images=_pixels(bench, train),
            labels=train.labels.to(bench.device),
            validation=LabelledImages(
                _pixels(bench, dataset.validation), dataset.validation.labels.to(bench.device)
            ),
            num_classes=dataset.num_classes,
            surrogate=surrogate,
            generator=generator,
            report=checkpoint.report,
            checkpoint=checkpoint,
        )
        images = crafted_by(settings, task, train.images, bench.say)
        # Of a large data set it takes as much memory as what follows.
        del task
        return publish_pool(bench, dataset, pool, images, torch.arange(len(train)))


def _pixels(bench: Bench, split: Split) -> torch.Tensor:
    """A split's images on the device, in [0, 1]."""
    return split.images.to(bench.device).float().div_(255)
