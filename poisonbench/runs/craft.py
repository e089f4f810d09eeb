"""Crafting: from a request to artefacts in the store, made once and found again."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from poisonbench.attacks.base import AttackTask, LabelledImages, TriggerTask
from poisonbench.core.errors import UsageError
from poisonbench.core.seeds import generator_for, seed_for
from poisonbench.data.mixing import mix
from poisonbench.data.splits import Dataset, Split
from poisonbench.entries import shown_name
from poisonbench.models import build_model
from poisonbench.models.classifier import Classifier
from poisonbench.requests import CraftRequest
from poisonbench.runs.context import RunContext
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
from poisonbench.runs.trigger import (
    drawn_rows,
    learned_trigger,
    stamp_of,
    trigger_of,
    triggered_test,
)


def craft(context: RunContext, request: CraftRequest, trials: Sequence[int] = ()) -> list[Crafted]:
    """Craft a poison, or find it; several trials of a targeted attack side by side.

    ``trials`` are crafted instead of the request's own.

    Raises:
        PoisonbenchError: see :mod:`poisonbench.core.errors`; every option is read before the
            first attack is crafted, which may take hours.
    """
    context = context.seeded(request.seed)
    dataset = context.dataset(request.dataset)
    poisons = [
        resolve_crafting(context, dataset, request.at(trial).poison)
        for trial in trials or [request.poison.trial]
    ]
    if poisons[0].targeting is not None:
        return craft_targeted(context, dataset, poisons)
    return [craft_mix(context, dataset, poison) for poison in poisons]


def craft_mix(context: RunContext, dataset: Dataset, poison: ResolvedPoison) -> Crafted:
    """One attack's poison of all that it gets, or several attacks' mix at a ratio rho."""
    crafted = {name: _craft_pool(context, dataset, pool) for name, pool in poison.pools.items()}
    if poison.rho is None or poison.request.has_trigger:
        return next(iter(crafted.values()))
    mixed = mix(
        {name: pool.poison for name, pool in crafted.items()},
        dataset,
        rho=poison.rho,
        seed=seed_for(context.seed, "mix", poison.request.trial),
        selection=poison.request.selection,
    )
    return publish(context, mixed, dataset)


def _craft_pool(context: RunContext, dataset: Dataset, pool: Pool) -> Crafted:
    """An attack's poison of every training image, or of those that its trigger is put on."""
    if context.store.poison_path(pool.id).exists():
        # A kill may have come between publishing and discarding.
        context.checkpoint(pool.id).discard()
        return stored(context, pool.id, dataset)
    context.store.check_writable()
    settings, train, goal, rows = (
        pool.settings,
        dataset.train,
        None,
        torch.arange(len(dataset.train)),
    )
    name, recipe = settings.entry.name, settings.recipe
    extra: dict[str, Any] = {}
    if pool.spec.share is not None:
        rows = drawn_rows(dataset, settings, pool.spec)
        train, extra = train.rows(rows), {"stamp": stamp_of(settings, pool.spec)}
    generator = generator_for(context.seed, "craft", name, pool.spec.trial)

    def surrogate() -> Classifier:
        if not settings.entry.trains:
            raise UsageError(f"{name}: expected trains=True in the entry, got use of a surrogate")
        under = pool.surrogate_defense
        return trained_models(context, dataset, recipe, pool.surrogate, defense=under)[0]

    def untrained() -> Classifier:
        if not settings.entry.trains_itself:
            raise UsageError(
                f"{name}: expected trains_itself=True in the entry, got use of an untrained network"
            )
        shape, classes = dataset.image_shape, dataset.num_classes
        statistics = dataset.mean, dataset.std
        model = build_model(pool.surrogate.model, shape, classes, *statistics, generator)
        return model.to(device=context.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    with crafting(context, dataset, name, pool.id, [generator]) as checkpoint:
        about = f"{len(train):,} images{pool.surrogate_text}"
        context.say(f"crafting {name} on {shown_name(dataset.name)} ({about})")
        kind = TriggerTask if extra else AttackTask
        task = kind(
            images=_pixels(context, train),
            labels=train.labels.to(context.device),
            validation=LabelledImages(
                _pixels(context, dataset.validation), dataset.validation.labels.to(context.device)
            ),
            num_classes=dataset.num_classes,
            surrogate=surrogate,
            untrained=untrained,
            generator=generator,
            report=checkpoint.report,
            checkpoint=checkpoint,
            assumed=pool.against and pool.against.config,
            **extra,
        )
        pattern = None
        if isinstance(task, TriggerTask):
            pattern = learned_trigger(settings, task)
            if pattern is not None:
                seen = pattern.to(context.device)
                task = replace(task, pattern=seen, stamp=stamp_of(settings, pool.spec, seen))
            goal = trigger_of(settings, triggered_test(dataset, settings, pool.spec, pattern))
        images = crafted_by(settings, task, train.images, context.say)
        # Of a large data set it takes as much memory as what follows.
        del task
        return publish_pool(context, dataset, pool, images, rows, goal, pattern)


def _pixels(context: RunContext, split: Split) -> torch.Tensor:
    """A split's images on the device, in [0, 1]."""
    return split.images.to(context.device).float().div_(255)
