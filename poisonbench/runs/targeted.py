"""Targeted attacks: from a trial to its target and its poisons."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from poisonbench.attacks.base import TargetedTask
from poisonbench.config import as_json, options_of, parse_value, resolve
from poisonbench.data.goals import draw_goal, draw_poison_rows
from poisonbench.data.mixing import Selection
from poisonbench.data.poison import make_poison, read_poison
from poisonbench.data.splits import Dataset
from poisonbench.errors import UsageError
from poisonbench.models import check_model
from poisonbench.models.classifier import Classifier
from poisonbench.registry import Entry, attacks
from poisonbench.results.records import spec_id
from poisonbench.runs.bench import Bench, check_trial, default_model
from poisonbench.runs.craft import Crafted, craft, publish
from poisonbench.runs.models import model_spec, own_seeds, trained_models
from poisonbench.runs.settings import Settings, read_settings
from poisonbench.seeds import generator_for
from poisonbench.targeting import PROFILES, Goal, Targeting
from poisonbench.training.evaluation import logits_of
from poisonbench.training.recipe import Recipe

#: Clean models that an easy target is chosen by.
NUM_CONTROLS = 3


@dataclass(frozen=True)
class Targeted:
    """Targeting settings, which of them the user set apart from the defaults, and as what texts."""

    targeting: Targeting
    overrides: dict[str, Any]
    texts: dict[str, str]


def read_targeting(
    values: Mapping[str, str], dataset: Dataset, scenario: str
) -> tuple[Targeted, dict[str, str]]:
    """The targeting settings among option texts, and the texts that are left.

    Args:
        values: option texts by field name.
        dataset: names the presets.
        scenario: the attack's own.

    Raises:
        UsageError: a bad value.
    """
    kinds = {option.name: option.kind for option in options_of(Targeting)}
    given = {
        name: parse_value(text, kinds[name], f"--{name.replace('_', '-')}")
        for name, text in values.items()
        if name in kinds
    }
    profiles = {"paper": {**PROFILES["paper"], "*": {"scenario": scenario}}}
    chosen = given.get("scenario", scenario)
    settings: dict[str, Any] = {
        "profile": "paper",
        "presets": [name for preset in dataset.presets for name in (preset, f"{preset}/{chosen}")],
        "owner": "a targeted attack",
    }
    built = resolve(Targeting, profiles, overrides=given, **settings)
    plain = resolve(Targeting, profiles, overrides={}, **settings)
    overrides = {
        field.name: getattr(built, field.name)
        for field in fields(Targeting)
        if field.name != "rho" and getattr(built, field.name) != getattr(plain, field.name)
    }
    texts = {name: text for name, text in values.items() if name in kinds}
    rest = {name: text for name, text in values.items() if name not in kinds}
    return Targeted(built, overrides, texts), rest


def find_goal(
    bench: Bench,
    dataset: Dataset,
    targeting: Targeting,
    recipe: Recipe,
    trial: int,
    model: str | None,
) -> Goal:
    """The target of a trial: the same for every attack and every defense.

    Raises:
        UsageError: what was given does not exist or does not fit.
    """
    generator = generator_for(bench.seed, "target", trial)
    probabilities = None
    if targeting.targets == "easy" and targeting.target is None:
        probabilities = _clean_probabilities(bench, dataset, recipe, model)
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
    bench: Bench,
    name: str,
    dataset: Dataset,
    *,
    trials: Sequence[int] = (0,),
    profile: str = "paper",
    values: Mapping[str, str] | None = None,
    model: str | None = None,
) -> list[Crafted]:
    """One attack's poisons for the targets of some trials; those that are missing side by side.

    Args:
        bench: where.
        name: of a targeted attack.
        dataset: what to poison.
        trials: each draws its own target, poisons and randomness.
        profile: the attack's profile.
        values: option texts of the attack, of its surrogates' recipe, or of the targeting.
        model: the surrogates' network; by default the paper's for this kind of data.

    Raises:
        UsageError: bad options, a target that does not exist, too few images to poison.
    """
    for trial in trials:
        check_trial(trial)
    entry = attacks()[name]
    targeted, rest = read_targeting(values or {}, dataset, entry.scenario)
    settings = read_settings(entry, dataset, profile, rest, model)
    targeting = targeted.targeting
    if targeting.rho == 0:
        raise UsageError("--rho: expected a share over 0 to craft, got 0; it is for clean controls")
    check_model(model or default_model(dataset), dataset.image_shape)
    _check_before_training(bench, dataset, targeting, trials)
    bench.store.check_writable()
    specs = {
        trial: targeted_spec(bench, dataset, settings, targeting, trial, model) for trial in trials
    }
    ids = {trial: spec_id(spec) for trial, spec in specs.items()}
    missing = [trial for trial in trials if not bench.store.poison_path(ids[trial]).exists()]
    made = {}
    if missing:
        jobs = []
        for trial in missing:
            goal = find_goal(bench, dataset, targeting, settings.recipe, trial, model)
            jobs.append(_Job(trial, goal, poison_rows(bench, dataset, targeting, goal, trial)))
        bench.say(f"crafting {name} on {dataset.name} for {len(missing)} target(s)")
        images = _attack(bench, settings, dataset, specs[missing[0]]["surrogate"], jobs)
        for job, poisoned in zip(jobs, images, strict=True):
            poison = make_poison(
                poisoned,
                job.rows,
                dataset,
                attack=name,
                epsilon=getattr(settings.config, "budget", settings.config.epsilon),
                spec=specs[job.trial],
                goal=job.goal.as_json(),
            )
            made[job.trial] = publish(bench, poison, dataset, ids[job.trial])
    return [made.get(trial) or _stored(bench, ids[trial], dataset) for trial in trials]


def craft_trials(
    bench: Bench,
    names: Sequence[str],
    dataset: Dataset,
    trials: Sequence[int],
    *,
    rho: float | None = None,
    selection: Selection = "stratified",
    profile: str = "paper",
    values: Mapping[str, str] | None = None,
    model: str | None = None,
) -> list[Crafted]:
    """Some trials of whatever the names stand for: see :func:`craft` and :func:`craft_targeted`.

    Raises:
        UsageError: bad names, ratio or options.
    """
    if is_targeted(names):
        own = {} if rho is None else {"rho": str(rho)}
        return craft_targeted(
            bench,
            names[0],
            dataset,
            trials=trials,
            profile=profile,
            values={**(values or {}), **own},
            model=model,
        )
    return [
        craft(
            bench,
            names,
            dataset,
            rho=rho,
            selection=selection,
            trial=trial,
            profile=profile,
            values=values,
            model=model,
        )
        for trial in trials
    ]


def targeted_spec(
    bench: Bench,
    dataset: Dataset,
    settings: Settings,
    targeting: Targeting,
    trial: int,
    model: str | None,
) -> dict[str, Any]:
    """All that determines a trial's poison; the target is drawn from what stands here."""
    return {
        "kind": "craft",
        "attack": settings.entry.name,
        "recipe_number": settings.module.RECIPE_NUMBER,
        "config": as_json(settings.config),
        "dataset": dataset.digest,
        "targeting": as_json(targeting),
        "surrogate": model_spec(bench, dataset, settings.recipe, "surrogate", 0, model),
        "seed": bench.seed,
        "trial": trial,
    }


@dataclass(frozen=True)
class _Job:
    """One target, and what to poison."""

    trial: int
    goal: Goal
    rows: Tensor


def _attack(
    bench: Bench,
    settings: Settings,
    dataset: Dataset,
    surrogate: dict[str, Any],
    jobs: Sequence[_Job],
) -> Tensor:
    def report(done: int, total: int) -> None:
        bench.abort_if_stopping()
        bench.report(settings.entry.name, done, total)

    def snapshots(number: int, epochs: Sequence[int]) -> list[Classifier]:
        spec = surrogate | ({"number": number} if number else {})
        return trained_models(
            bench, dataset, settings.recipe, spec, seeds=own_seeds(spec), epochs=epochs
        )

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
        epochs=settings.recipe.epochs,
        snapshots=snapshots,
        generators=[
            generator_for(bench.seed, "craft", settings.entry.name, job.trial) for job in jobs
        ],
        report=report,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        images: Tensor = settings.module.craft(task, settings.config)
    for warning in caught:
        bench.say(f"warning: {warning.message}")
    return images


def _stored(bench: Bench, poison_id: str, dataset: Dataset) -> Crafted:
    path = bench.store.poison_path(poison_id)
    return Crafted(read_poison(path, dataset), poison_id, path, False)


def _check_before_training(
    bench: Bench, dataset: Dataset, targeting: Targeting, trials: Sequence[int]
) -> None:
    """Find bad targets and small classes before any model is trained for easy ones."""
    for trial in trials:
        random = replace(targeting, targets="random")
        goal = draw_goal(dataset, random, generator_for(bench.seed, "target", trial))
        poison_rows(bench, dataset, targeting, goal, trial)


def _clean_probabilities(
    bench: Bench, dataset: Dataset, recipe: Recipe, model: str | None
) -> Tensor:
    """(M, N, K) of the control models on the test split."""
    images = dataset.test.images.to(bench.device)
    found = []
    for number in range(NUM_CONTROLS):
        spec = model_spec(bench, dataset, recipe, "control", 0, model, number)
        (control,) = trained_models(bench, dataset, recipe, spec, seeds=own_seeds(spec))
        found.append(logits_of(control, images).softmax(1).cpu())
    return torch.stack(found)


def is_targeted(names: Sequence[str]) -> Entry | None:
    """The entry when the one attack named is targeted."""
    entry = attacks()[names[0]] if len(names) == 1 else None
    return entry if entry is not None and entry.scenario else None
