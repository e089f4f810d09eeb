"""Triggers: rebuilt from what a poison's card says, put on test images, and judged."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from poisonbench.attacks.base import TriggerTask
from poisonbench.core.errors import ArtefactError, DivergedError, UsageError, check_returned
from poisonbench.core.seeds import generator_for, seed_for
from poisonbench.data.budget import quantise
from poisonbench.data.mixing import draw_share
from poisonbench.data.poison import Poison
from poisonbench.data.splits import Dataset, Split, digest_tensors
from poisonbench.entries import AttackEntry
from poisonbench.models.classifier import Classifier
from poisonbench.registry import attacks, find
from poisonbench.results.records import TriggerAnswer
from poisonbench.runs.method_settings import Settings, read_settings
from poisonbench.specs import CraftSpec
from poisonbench.targeting import Trigger
from poisonbench.training.evaluation import logits_of


def stamp_of(
    settings: Settings, spec: CraftSpec, pattern: Tensor | None = None
) -> Callable[[Tensor], Tensor]:
    """The trigger of a poison: images (N, C, H, W) in [0, 1] to the same, always in one way.

    ``pattern`` (C, H, W) is a learned one's.
    """
    name = settings.entry.name

    def stamp(images: Tensor) -> Tensor:
        source: Any = generator_for(spec.seed, "trigger", name, spec.trial)
        if _learns(settings):
            source = torch.zeros_like(images[0])
            if pattern is not None:
                # A stamp that writes into it changes no other image's.
                source = pattern.to(images.device, copy=True)
        stamped: Tensor = settings.module.stamp(images, settings.config, source)
        fits = hasattr(stamped, "detach") and stamped.shape == images.shape
        shape = tuple(images.shape)
        check_returned(name, fits, f"images of shape {shape} from stamp", stamped)
        return stamped

    return stamp


def drawn_rows(dataset: Dataset, settings: Settings, spec: CraftSpec) -> Tensor:
    """The rows (P,) of the training split that get a trigger, as a mix of one attack draws them.

    Raises:
        UsageError: none, or more than the target class has, where the poisons are of that class.
    """
    config, share = settings.config, spec.share
    assert share is not None
    if share.rho * len(dataset.train) < 1:
        raise UsageError(
            f"--rho: expected a poison or more, got {share.rho:g} of {len(dataset.train):,} images "
            f"with {settings.entry.name}; raise --rho"
        )
    seed = seed_for(spec.seed, "mix", spec.trial)
    only = config.target_class if config.keeps_labels else None
    return draw_share(dataset.train.labels.cpu(), share.rho, seed, share.selection, only)


def check_trigger(dataset: Dataset, settings: Settings, spec: CraftSpec) -> None:
    """Find a trigger that does not fit the data set before anything is crafted.

    Raises:
        UsageError: too few images to poison, no such source class, or what the attack refuses.
    """
    source, classes = settings.config.source, dataset.num_classes
    if source is not None and source >= classes:
        raise UsageError(f"--source-class: expected a class in 0..{classes - 1}, got {source}")
    drawn_rows(dataset, settings, spec)
    stamp_of(settings, spec)(dataset.test.images[:1].cpu().float() / 255)


def chosen_rows(dataset: Dataset, settings: Settings, task: TriggerTask, count: int) -> Tensor:
    """The rows (count,) of the training split that an attack chooses among the task's images."""
    name = settings.entry.name
    chosen: Tensor = settings.module.choose(task, settings.config, count)
    fits = (
        hasattr(chosen, "detach")
        and chosen.shape == (count,)
        and chosen.dtype == torch.int64
        and bool((chosen.diff() > 0).all())
        and (not count or 0 <= int(chosen[0]) <= int(chosen[-1]) < len(task.images))
    )
    about = f"{count} of {len(task.images)} images, as int64 in rising order, from choose"
    check_returned(name, fits, about, chosen)
    return task.rows[chosen].cpu()


def _learns(settings: Settings) -> bool:
    return isinstance(settings.entry, AttackEntry) and settings.entry.learns_trigger


def learned_trigger(settings: Settings, task: TriggerTask) -> Tensor | None:
    """The pattern (C, H, W) that an attack learns; None of one that learns none.

    Raises:
        DivergedError: a value of it is not finite.
    """
    if not _learns(settings):
        return None
    pattern: Tensor = settings.module.learn(task, settings.config)
    name, shape = settings.entry.name, tuple(task.images.shape[1:])
    fits = hasattr(pattern, "detach") and pattern.shape == shape
    check_returned(name, fits, f"a pattern of shape {shape} from learn", pattern)
    if not bool(pattern.isfinite().all()):
        raise DivergedError(f"{name}: expected a finite pattern, got another; choose a lower rate")
    return pattern.detach().float().cpu().contiguous()


def triggered_test(
    dataset: Dataset, settings: Settings, spec: CraftSpec, pattern: Tensor | None = None
) -> Split:
    """The test images that it is judged by, stamped on the CPU, with their own labels.

    They are those of the source class, or of all but the target; they are rounded as poisons are,
    and kept in the attack's budget for them.

    Raises:
        UsageError: there is none.
    """
    config, labels = settings.config, dataset.test.labels
    is_other = labels != config.target_class
    others = (is_other if config.source is None else labels == config.source).nonzero().flatten()
    if not len(others):
        option, which = ("--target-class", "another class")
        if config.source is not None:
            option, which = "--source-class", f"class {config.source}"
        raise UsageError(f"{option}: expected test images of {which}, got none; choose another")
    clean = dataset.test.rows(others).to(torch.device("cpu"))
    stamped = stamp_of(settings, spec, pattern)(clean.images.float() / 255)
    return Split(quantise(stamped, clean.images, config.test_budget, config.norm), clean.labels)


def trigger_of(settings: Settings, test: Split) -> Trigger:
    """What a poison's card states of its trigger, with the triggered test images."""
    return Trigger(
        target_class=settings.config.target_class,
        labels="clean" if settings.config.keeps_labels else "dirty",
        test_digest=digest_tensors(test.images),
        source_class=settings.config.source,
    )


def rebuilt_test(dataset: Dataset, poison: Poison) -> Split | None:
    """The triggered test images that a poison's card describes; None of a poison without a trigger.

    Raises:
        ArtefactError: they are not those that the card has the digest of, or the attack has other
            settings than the card.
        UsageError: the attack is not installed.
    """
    if poison.trigger is None:
        return None
    spec = poison.card.spec
    assert isinstance(spec, CraftSpec)
    entry = find("an attack", attacks(), spec.attack)
    try:
        return _rebuilt(dataset, poison, poison.trigger, spec, entry)
    except UsageError as error:
        raise ArtefactError(
            f"{poison.path}: expected a card with settings that {entry.name} takes on "
            f"{dataset.name}, got others: {error}; delete it and craft it again"
        ) from None


def _rebuilt(
    dataset: Dataset, poison: Poison, trigger: Trigger, spec: CraftSpec, entry: AttackEntry
) -> Split:
    own = {name: _setting(value) for name, value in spec.config.items()}
    settings = read_settings(entry, dataset, "paper", own)
    if not entry.has_trigger:
        raise ArtefactError(
            f"{poison.path}: expected the poison of an attack with a trigger, got {entry.name}'s"
        )
    if _learns(settings) != (poison.pattern is not None):
        raise ArtefactError(
            f"{poison.path}: expected the pattern that {entry.name} has learned, and none of an "
            "attack that learns none, got otherwise; delete it and craft it again"
        )
    test = triggered_test(dataset, settings, spec, poison.pattern)
    rebuilt = trigger_of(settings, test)
    if rebuilt != trigger:
        raise ArtefactError(
            f"{poison.path}: expected triggered test images with digest "
            f"{trigger.test_digest[:16]}, as the card states, got {rebuilt.test_digest[:16]}"
            f" from version {settings.module.VERSION} of {entry.name} by the card's settings; "
            "delete it and craft it again"
        )
    return test


def judge(
    model: Classifier, test: Split, trigger: Trigger, device: torch.device
) -> tuple[TriggerAnswer, Tensor]:
    """How many triggered test images a victim gives the target class, and which, (M,) bool."""
    predictions = logits_of(model, test.images.to(device)).argmax(1)
    hit = (predictions == trigger.target_class).cpu()
    return TriggerAnswer(successes=int(hit.sum()), count=len(hit)), hit


def _setting(value: Any) -> Any:
    """A setting's value out of JSON."""
    return tuple(value) if isinstance(value, list) else value
