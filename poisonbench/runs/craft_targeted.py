"""Targeted attacks: from a trial to its target and its poisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from msgspec import structs
from torch import Tensor

from poisonbench.attacks.base import TargetedTask
from poisonbench.core.canonical import spec_id
from poisonbench.core.errors import DivergedError, UsageError
from poisonbench.core.seeds import generator_for
from poisonbench.data.poison import make_poison
from poisonbench.data.splits import Dataset
from poisonbench.data.targets import draw_goal, draw_poison_rows
from poisonbench.models.classifier import Classifier
from poisonbench.runs.craft_checkpoint import CraftCheckpoint, crafted_by
from poisonbench.runs.easy_targets import clean_probabilities
from poisonbench.runs.poison import Crafted, Pool, ResolvedPoison, publish, stored
from poisonbench.runs.trained_models import own_seeds, trained_models
from poisonbench.runs.workspace import Bench
from poisonbench.targeting import Goal, Targeting


def find_goal(bench: Bench, dataset: Dataset, poison: ResolvedPoison, trial: int) -> Goal:
    """The target of a trial: the same for every attack and every defense.

    Args:
        bench: where.
        dataset: whose test split the target is of.
        poison: a targeted one; an easy target is one to models that are trained by the recipe of
            its attack's surrogate.
        trial: the target's.

    Raises:
        UsageError: what was given does not exist or does not fit.
    """
    assert poison.targeted is not None
    targeting = poison.targeted.targeting
    generator = generator_for(bench.seed, "target", trial)
    probabilities = None
    if targeting.targets == "easy" and targeting.target is None:
        (pool,) = poison.pools.values()
        network = poison.request.surrogate
        probabilities = clean_probabilities(
            bench, dataset, targeting, pool.settings.recipe, network
        )
    return draw_goal(dataset, targeting, generator, probabilities)


def poison_rows(
    bench: Bench, dataset: Dataset, targeting: Targeting, goal: Goal, trial: int
) -> Tensor:
    """The rows (P,) of the training split that become poisons.

    Raises:
        UsageError: the poison class has too few images.
    """
    generator = generator_for(bench.seed, "poison rows", trial)
    return draw_poison_rows(dataset.train.labels, goal, targeting, generator)


def craft_targeted(
    bench: Bench, dataset: Dataset, poisons: Sequence[ResolvedPoison]
) -> list[Crafted]:
    """One attack's poisons for the targets of some trials; those that are missing side by side.

    Args:
        bench: where.
        dataset: what to poison.
        poisons: that differ in their trial alone; each draws its own target, poisons and
            randomness.

    Raises:
        UsageError: a target that does not exist, too few images to poison.
    """
    first, targeted = poisons[0], poisons[0].targeted
    assert targeted is not None
    targeting = targeted.targeting
    (name,) = first.request.attacks
    pools = {poison.request.trial: poison.pools[name] for poison in poisons}
    check_targets(bench, dataset, targeting, list(pools))
    bench.store.check_writable()
    missing = {
        trial: pool
        for trial, pool in pools.items()
        if not bench.store.poison_path(pool.id).exists()
    }
    crafted = {}
    if missing:
        jobs = []
        for trial in missing:
            goal = find_goal(bench, dataset, first, trial)
            jobs.append(_Job(trial, goal, poison_rows(bench, dataset, targeting, goal, trial)))
        settings = first.pools[name].settings
        surrogate = first.pools[name].surrogate_text
        bench.say(f"crafting {name} on {dataset.name} for {len(missing)} target(s){surrogate}")
        craft_id = together([pool.id for pool in missing.values()])
        try:
            images = _attack(bench, dataset, first.pools[name], jobs, craft_id)
        except DivergedError:
            bench.checkpoint(craft_id).discard()
            raise
        for job, poisoned in zip(jobs, images, strict=True):
            poison = make_poison(
                poisoned,
                job.rows,
                dataset,
                attack=name,
                epsilon=settings.config.budget,
                spec=missing[job.trial].spec,
                goal=job.goal.as_json(),
            )
            crafted[job.trial] = publish(bench, poison, dataset)
        bench.checkpoint(craft_id).discard()
    else:
        # A kill may have come between publishing and discarding.
        bench.checkpoint(together([pool.id for pool in pools.values()])).discard()
    return [crafted.get(trial) or stored(bench, pool.id, dataset) for trial, pool in pools.items()]


@dataclass(frozen=True)
class _Job:
    """One target, and what to poison."""

    trial: int
    goal: Goal
    rows: Tensor


def _attack(
    bench: Bench, dataset: Dataset, pool: Pool, jobs: Sequence[_Job], craft_id: str
) -> Tensor:
    name, recipe = pool.settings.entry.name, pool.settings.recipe
    generators = [generator_for(bench.seed, "craft", name, job.trial) for job in jobs]
    checkpoint = CraftCheckpoint(bench, name, craft_id, generators)

    def snapshots(number: int, epochs: Sequence[int]) -> list[Classifier]:
        spec = pool.surrogate | ({"number": number} if number else {})
        return trained_models(bench, dataset, recipe, spec, seeds=own_seeds(spec), epochs=epochs)

    train = dataset.train.to(bench.device)
    rows = torch.stack([job.rows for job in jobs]).to(bench.device)
    targets = dataset.test.images[[job.goal.target for job in jobs]].to(bench.device)
    task = TargetedTask(
        images=train.images[rows].float().div_(255),
        labels=train.labels[rows],
        rows=rows,
        targets=targets.float().div_(255),
        intended=torch.tensor([job.goal.intended_class for job in jobs], device=bench.device),
        train=train,
        num_classes=dataset.num_classes,
        epochs=recipe.epochs,
        snapshots=snapshots,
        generators=generators,
        report=checkpoint.report,
        checkpoint=checkpoint,
    )
    return crafted_by(pool.settings, task, train.images[rows], bench.say)


def together(ids: Sequence[str]) -> str:
    """The name of the checkpoint of poisons that are crafted in one call."""
    return ids[0] if len(ids) == 1 else spec_id({"kind": "craft together", "poisons": list(ids)})


def check_targets(
    bench: Bench, dataset: Dataset, targeting: Targeting, trials: Sequence[int]
) -> None:
    """Find bad targets and small classes before any model is trained.

    Raises:
        UsageError: what was given does not exist or does not fit, or too few images to poison.
    """
    for trial in trials:
        random = replace(targeting, targets="random")
        goal = draw_goal(dataset, random, generator_for(bench.seed, "target", trial))
        given = (targeting.target, targeting.intended_class, targeting.poison_class)
        if targeting.targets == "random" or any(value is not None for value in given):
            poison_rows(bench, dataset, targeting, goal, trial)
            continue
        # Which class an easy target's poisons are of, clean models will say: one must have room.
        reasons = []
        for label in range(dataset.num_classes):
            try:
                goal = structs.replace(goal, poison_class=label)
                poison_rows(bench, dataset, targeting, goal, trial)
            except UsageError as error:
                reasons.append(error)
        if len(reasons) == dataset.num_classes:
            raise reasons[0]
