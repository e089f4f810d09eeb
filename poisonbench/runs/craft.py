"""Crafting: from a request to artefacts in the store, made once and found again."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from msgspec import structs
from torch import Tensor

from poisonbench.attacks.base import AttackTask, LabelledImages, TriggerTask
from poisonbench.core.canonical import spec_id
from poisonbench.core.errors import UsageError
from poisonbench.core.seeds import generator_for, seed_for
from poisonbench.data.mixing import mix
from poisonbench.data.splits import Dataset, Split, digest_tensors
from poisonbench.entries import AttackEntry, shown_name
from poisonbench.models import build_model
from poisonbench.models.classifier import Classifier
from poisonbench.requests import CraftRequest
from poisonbench.runs.context import RunContext
from poisonbench.runs.craft_checkpoint import CraftCheckpoint, crafted_by, crafting
from poisonbench.runs.craft_targeted import craft_targeted
from poisonbench.runs.poison import (
    Crafted,
    ResolvedPoison,
    found,
    publish,
    publish_pool,
    resolve_crafting,
)
from poisonbench.runs.pools import Pool
from poisonbench.runs.trained_models import trained_models
from poisonbench.runs.trigger import (
    chosen_rows,
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
        return found(context, pool, dataset)
    context.store.check_writable()
    name, train = pool.settings.entry.name, dataset.train
    generator = generator_for(context.seed, "craft", name, pool.spec.trial)
    with crafting(context, dataset, name, pool.id, [generator]) as checkpoint:
        rows = torch.arange(len(train))
        if pool.spec.share is not None:
            rows = drawn_rows(dataset, pool.settings, pool.spec)
        about = f"{len(rows):,} images{pool.surrogate_text}"
        context.say(f"crafting {name} on {shown_name(dataset.name)} ({about})")
        if pool.spec.share is not None:
            return _craft_trigger(context, dataset, pool, rows, checkpoint)
        task = AttackTask(**_seen(context, dataset, pool, train, checkpoint))
        images = crafted_by(pool.settings, task, train.images, context.say)
        # Of a large data set it takes as much memory as what follows.
        del task
        return publish_pool(context, dataset, pool, images, rows)


def _craft_trigger(
    context: RunContext, dataset: Dataset, pool: Pool, rows: Tensor, checkpoint: CraftCheckpoint
) -> Crafted:
    """The poison of an attack with a trigger: of the rows, or of as many that it chooses."""
    settings, spec, train = pool.settings, pool.spec, dataset.train
    entry, config = settings.entry, settings.config
    assert isinstance(entry, AttackEntry)
    trained = _Retraining(context, dataset, pool, rows)

    def task_of(rows: Tensor) -> TriggerTask:
        return TriggerTask(
            **_seen(context, dataset, pool, train.rows(rows), checkpoint),
            rows=rows.to(context.device, copy=True),
            train=train.to(context.device, copy=True),
            trained=replace(trained, rows=rows),
            stamp=stamp_of(settings, spec),
        )

    if entry.chooses_images and not config.control:
        of_target = (train.labels.cpu() == config.target_class).nonzero().flatten()
        rows = chosen_rows(dataset, settings, task_of(of_target), len(rows))
    task = task_of(rows)
    pattern = learned_trigger(settings, task)
    if pattern is not None:
        seen = pattern.to(context.device, copy=True)
        task = replace(task, pattern=seen, stamp=stamp_of(settings, spec, seen))
    goal = trigger_of(settings, triggered_test(dataset, settings, spec, pattern))
    images = task.images
    if not config.control:
        images = crafted_by(settings, task, train.images[rows], context.say)
    crafted = publish_pool(context, dataset, pool, images, rows, goal, pattern)
    # No other poison has a use for networks that were trained on this one's first steps.
    for model in trained.on_poisons:
        context.store.model_path(model).unlink(missing_ok=True)
    return crafted


def _seen(
    context: RunContext, dataset: Dataset, pool: Pool, images: Split, checkpoint: CraftCheckpoint
) -> dict[str, Any]:
    """What an untargeted attack and one with a trigger get to see, by the task's names.

    All of it is copied: this process goes on to train on the data set, whatever they write there.
    """
    settings = pool.settings
    name, device = settings.entry.name, context.device
    (generator,) = checkpoint.generators.values()

    def surrogate() -> Classifier:
        if not settings.entry.trains:
            raise UsageError(f"{name}: expected trains=True in the entry, got use of a surrogate")
        under = pool.surrogate_defense
        return trained_models(context, dataset, settings.recipe, pool.surrogate, defense=under)[0]

    def untrained() -> Classifier:
        if not settings.entry.trains_itself:
            raise UsageError(
                f"{name}: expected trains_itself=True in the entry, got use of an untrained network"
            )
        shape, classes = dataset.image_shape, dataset.num_classes
        statistics = dataset.mean, dataset.std
        model = build_model(pool.surrogate.model, shape, classes, *statistics, generator)
        return model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    validation = dataset.validation
    return {
        "images": _pixels(context, images),
        "labels": images.labels.to(device, copy=True),
        "validation": LabelledImages(
            _pixels(context, validation), validation.labels.to(device, copy=True)
        ),
        "num_classes": dataset.num_classes,
        "surrogate": surrogate,
        "untrained": untrained,
        "generator": generator,
        "report": checkpoint.report,
        "checkpoint": checkpoint,
        "assumed": pool.against and pool.against.config,
    }


@dataclass
class _Retraining:
    """The attacker's models, trained anew while the poisons of some rows are made."""

    context: RunContext
    dataset: Dataset
    pool: Pool
    rows: Tensor
    #: The ids of those that were trained on poisons.
    on_poisons: set[str] = field(default_factory=set)

    def __call__(self, number: int, poisons: Tensor | None) -> Classifier:
        """The model of that number, with poisons in the place of the rows."""
        pool, train = self.pool, self.dataset.train
        spec = structs.replace(pool.surrogate, number=number)
        if poisons is not None:
            images = train.images.clone()
            images[self.rows] = (poisons.detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
            labels = train.labels.clone()
            if not pool.settings.config.keeps_labels:
                labels[self.rows] = pool.settings.config.target_class
            train = Split(images, labels)
            digest = digest_tensors(self.rows, images[self.rows], labels[self.rows])
            spec = structs.replace(spec, poison=digest)
            self.on_poisons.add(spec_id(spec))
        recipe = pool.settings.recipe
        return trained_models(self.context, self.dataset, recipe, spec, train=train)[0]


def _pixels(context: RunContext, split: Split) -> Tensor:
    """A split's images on the device, in [0, 1]."""
    return split.images.to(context.device).float().div_(255)
