"""Targeted attacks: from a trial to its target and its poisons."""

from collections.abc import Iterable, Sequence

import torch
from msgspec import structs
from torch import Tensor

from poisonbench.attacks.base import TargetedTask
from poisonbench.core.canonical import spec_id
from poisonbench.core.seeds import Seeds, generator_for
from poisonbench.core.settings import as_json
from poisonbench.data.splits import Dataset
from poisonbench.data.targets import draw_goal, draw_poison_rows, draw_transfer_rows
from poisonbench.entries import shown_name
from poisonbench.models.classifier import Classifier, renew_head
from poisonbench.runs.context import RunContext
from poisonbench.runs.craft_checkpoint import CraftCheckpoint, crafted_by, crafting
from poisonbench.runs.poison import Crafted, ResolvedPoison, found, publish_pool
from poisonbench.runs.pools import Pool
from poisonbench.runs.trained_models import lengthen, model_spec, own_seeds, trained_models
from poisonbench.specs import ModelSpec, TrainingSpec
from poisonbench.targeting import Goal, Targeting, own_targeting
from poisonbench.training.evaluation import logits_of
from poisonbench.training.recipe import Recipe

#: How many agree before a target is called easy.
NUM_CONTROLS = 3


def draw_target(
    context: RunContext, dataset: Dataset, poison: ResolvedPoison, trial: int
) -> tuple[Goal, Tensor]:
    """A trial's target, and the rows (P,) of the training split that become poisons.

    They are the same for every attack and every defense. An easy target is one to models that are
    trained by the recipe of the attack's surrogate.

    Raises:
        UsageError: what was given does not exist or does not fit, or the poison class has too few
            images.
    """
    targeting = poison.targeting
    assert targeting is not None
    probabilities = None
    if targeting.targets == "easy" and targeting.target is None:
        (pool,) = poison.pools.values()
        recipe, network = pool.settings.recipe, poison.request.surrogate
        probabilities = _clean_probabilities(context, dataset, targeting, recipe, network)
    seeds = Seeds(context.seed, trial)
    goal = draw_goal(dataset, targeting, seeds.generator("target"), probabilities)
    generator = seeds.generator("poison rows")
    return goal, draw_poison_rows(dataset.train.labels, goal, targeting, generator)


def craft_targeted(
    context: RunContext, dataset: Dataset, poisons: Sequence[ResolvedPoison]
) -> list[Crafted]:
    """One attack's poisons for the targets of some trials; those that are missing side by side.

    They differ in their trial alone; each draws its own target, poisons and randomness.

    Raises:
        UsageError: a target that does not exist, too few images to poison.
    """
    first = poisons[0]
    (name,) = first.request.attacks
    pools = {poison.request.trial: poison.pools[name] for poison in poisons}
    context.store.check_writable()
    missing = {
        trial: pool
        for trial, pool in pools.items()
        if not context.store.poison_path(pool.id).exists()
    }
    crafted = {}
    if missing:
        pool = first.pools[name]
        targets = {trial: draw_target(context, dataset, first, trial) for trial in missing}
        context.say(
            f"crafting {name} on {shown_name(dataset.name)} for {len(missing)} target(s)"
            f"{pool.surrogate_text}"
        )
        generators = [generator_for(context.seed, "craft", name, trial) for trial in missing]
        together = _together(missing.values())
        with crafting(context, dataset, name, together, generators) as checkpoint:
            images = _attack(context, dataset, pool, list(targets.values()), checkpoint)
            for (trial, (goal, rows)), poisoned in zip(targets.items(), images, strict=True):
                crafted[trial] = publish_pool(
                    context, dataset, missing[trial], poisoned, rows, goal
                )
    else:
        # A kill may have come between publishing and discarding.
        context.checkpoint(_together(pools.values())).discard()
    return [crafted.get(trial) or found(context, pool, dataset) for trial, pool in pools.items()]


def _attack(
    context: RunContext,
    dataset: Dataset,
    pool: Pool,
    targets: Sequence[tuple[Goal, Tensor]],
    checkpoint: CraftCheckpoint,
) -> Tensor:
    recipe = pool.settings.recipe

    def snapshots(number: int, epochs: Sequence[int]) -> list[Classifier]:
        spec = structs.replace(pool.surrogate, number=number)
        under = pool.surrogate_defense
        return trained_models(context, dataset, recipe, spec, epochs=epochs, defense=under)

    # This process goes on to train on the data set, whatever an attack writes into its task.
    train = dataset.train.to(context.device, copy=True)
    rows = torch.stack([poisoned for _, poisoned in targets]).to(context.device)
    images = dataset.test.images[[goal.target for goal, _ in targets]].to(context.device)
    task = TargetedTask(
        images=train.images[rows].float().div_(255),
        labels=train.labels[rows],
        rows=rows,
        targets=images.float().div_(255),
        intended=torch.tensor([goal.intended_class for goal, _ in targets], device=context.device),
        train=train,
        num_classes=dataset.num_classes,
        epochs=recipe.epochs,
        snapshots=snapshots,
        generators=list(checkpoint.generators.values()),
        report=checkpoint.report,
        checkpoint=checkpoint,
        assumed=pool.against and pool.against.config,
    )
    return crafted_by(pool.settings, task, train.images[rows], context.say)


def _together(pools: Iterable[Pool]) -> str:
    """The name of the checkpoint of poisons that are crafted in one call."""
    ids = [pool.id for pool in pools]
    return ids[0] if len(ids) == 1 else spec_id({"kind": "craft together", "poisons": ids})


def _clean_probabilities(
    context: RunContext, dataset: Dataset, targeting: Targeting, recipe: Recipe, model: str | None
) -> Tensor:
    """What control models, trained by a recipe, say of the test split, (M, N, K).

    They share no seed with attacker or victim. For the scenario "transfer" they are heads on frozen
    features, as its victims are: such a head is less sure of itself than the network that it came
    from, and a target that is easy for the one is often lost without an attack for the other. What
    a poison does not depend on, its target must not either: the transfer set has the data set's
    own share and batch norm does not drift, whatever this victim's settings are.
    """
    images = dataset.test.images.to(context.device)
    probabilities = []
    for number in range(NUM_CONTROLS):
        spec = model_spec(context, dataset, recipe, "control", 0, model, number)
        if targeting.scenario == "transfer":
            control = _transferred(context, dataset, targeting, recipe, spec)
        else:
            (control,) = trained_models(context, dataset, recipe, spec)
        probabilities.append(logits_of(control, images).softmax(1).cpu())
    return torch.stack(probabilities)


def _transferred(
    context: RunContext, dataset: Dataset, targeting: Targeting, recipe: Recipe, spec: ModelSpec
) -> Classifier:
    """A new head, trained on a clean transfer set, on features trained on the other images."""
    seeds = own_seeds(spec)
    none = torch.zeros(0, dtype=torch.int64)
    share = own_targeting(dataset.presets, "transfer").transfer_share
    generator = seeds.generator("transfer rows")
    rows = draw_transfer_rows(dataset.train.labels, none, share, generator)
    rest, transfer = dataset.train.without(rows), dataset.train.rows(rows)
    about = structs.replace(spec, kind="control extractor", rows=rest.digest())
    (start,) = trained_models(context, dataset, recipe, about, seeds=seeds, train=rest)
    renew_head(start, seeds.generator("transfer head"))
    start.hold(features=True, norms=True)
    last = lengthen(recipe, targeting.stage_epochs)
    about = structs.replace(about, kind="control head", head=TrainingSpec(**as_json(last)))
    (control,) = trained_models(
        context, dataset, last, about, seeds=seeds, train=transfer, start=start
    )
    return control
