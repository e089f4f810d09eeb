"""How the victim of a targeted attack is trained, and whether it fell for the attack."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from msgspec import structs
from torch import Tensor

from poisonbench.core.errors import check_returned
from poisonbench.core.seeds import Seeds, generator_for
from poisonbench.data.splits import Dataset
from poisonbench.data.targets import draw_transfer_rows
from poisonbench.models.classifier import Classifier, renew_head
from poisonbench.results.records import TargetAnswer
from poisonbench.runs.context import RunContext
from poisonbench.runs.method_settings import Settings
from poisonbench.runs.trained_models import fresh_network, lengthen, model_spec, trained_models
from poisonbench.specs import MethodSpec, ModelSpec
from poisonbench.targeting import STAGE_CHANGES, Goal, Targeting
from poisonbench.training.evaluation import logits_of
from poisonbench.training.recipe import Recipe
from poisonbench.training.state import Defense

if TYPE_CHECKING:
    from poisonbench.runs.defend import ResolvedRun

#: Raised when the second stage's results change for the same settings.
STAGE_NUMBER = 2


def stage_recipe(targeting: Targeting | None, settings: Settings) -> Recipe:
    """How the victim is trained on the poisoned set: the recipe's, with the scenario's changes."""
    if targeting is None:
        return settings.recipe
    changes = STAGE_CHANGES.get(targeting.scenario, {})
    own = {name: value for name, value in changes.items() if name not in settings.given}
    return lengthen(replace(settings.recipe, **own), targeting.stage_epochs)


def stage_overrides(targeting: Targeting, settings: Settings) -> dict[str, Any]:
    """What the user set to the recipe's value where the scenario has another."""
    changes = STAGE_CHANGES.get(targeting.scenario, {})
    return {
        name: getattr(settings.recipe, name)
        for name, value in changes.items()
        if name in settings.given and getattr(settings.recipe, name) != value
    }


def stage_rows(
    context: RunContext, dataset: Dataset, targeting: Targeting, rows: Tensor, trial: int
) -> Tensor:
    """The rows of the training split that a trial's victim is trained on, poisons (P,) among them.

    Raises:
        UsageError: the transfer set has no room for the poisons.
    """
    if targeting.scenario != "transfer":
        return torch.arange(len(dataset.train))
    generator = generator_for(context.seed, "transfer rows", trial)
    return draw_transfer_rows(dataset.train.labels, rows, targeting.transfer_share, generator)


def start_of_stage(context: RunContext, run: ResolvedRun, rows: Tensor) -> Classifier:
    """The classifier that meets the poisons: fresh, or trained on clean data.

    "transfer" pre-trains on all images outside the transfer set, whose rows are given, freezes the
    features and draws a new head; "finetune" pre-trains on the clean training split. Every defense
    of a trial starts from the same one, but for those that pretrain in a way of their own.
    """
    targeting, recipe, spec = run.poison.targeting, run.settings.pretraining, run.spec
    seeds = Seeds(context.seed, spec.trial)
    if targeting is None or targeting.scenario == "scratch":
        return fresh_network(run.dataset, spec.model, seeds)
    is_transfer = targeting.scenario == "transfer"
    train = run.dataset.train.without(rows) if is_transfer else run.dataset.train
    about = start_spec(context, run, train.digest() if is_transfer else None)
    pretraining = run.defense.pretraining()
    fits = pretraining is None or isinstance(pretraining, Defense)
    check_returned("pretraining", fits, "a Defense or None", pretraining)
    (start,) = trained_models(
        context, run.dataset, recipe, about, seeds=seeds, train=train, defense=pretraining
    )
    start.requires_grad_(True)
    if is_transfer:
        renew_head(start, seeds.generator("transfer head"))
    start.hold(features=is_transfer, norms=not targeting.norm_drift)
    return start


def start_spec(context: RunContext, run: ResolvedRun, rows: str | None) -> ModelSpec:
    """What determines the network that a stage starts from.

    ``rows`` is the digest of the images that it is trained on, null of the whole training split.
    """
    recipe, spec = run.settings.pretraining, run.spec
    kind = "pretrained" if rows is None else "extractor"
    about = model_spec(context, run.dataset, recipe, kind, spec.trial, spec.model)
    defense = None
    if run.defense.pretraining() is not None:
        defense = MethodSpec(method=spec.method, version=spec.version, config=spec.config)
    return structs.replace(about, rows=rows, defense=defense)


def judge(model: Classifier, dataset: Dataset, goal: Goal, device: torch.device) -> TargetAnswer:
    """What a victim says of the target: its class, and how sure it is of the classes at stake."""
    image = dataset.test.images[goal.target : goal.target + 1].to(device)
    probabilities = logits_of(model, image).softmax(1)[0].tolist()
    prediction = max(range(len(probabilities)), key=probabilities.__getitem__)
    return TargetAnswer(
        prediction=prediction,
        confidence=probabilities[prediction],
        success=prediction == goal.intended_class,
        confidence_of_own_class=probabilities[goal.target_class],
        confidence_of_intended_class=probabilities[goal.intended_class],
    )
