"""Targeted attacks: from a trial to its target and its poisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from msgspec import structs
from torch import Tensor

from poisonbench.attacks.base import TargetedTask
from poisonbench.core.canonical import spec_id
from poisonbench.core.errors import DivergedError, UsageError
from poisonbench.core.seeds import generator_for
from poisonbench.core.settings import as_json, options_of, parse_value, resolve
from poisonbench.data.artefacts import read_poison
from poisonbench.data.mixing import Selection
from poisonbench.data.poison import make_poison
from poisonbench.data.splits import Dataset
from poisonbench.data.targets import draw_goal, draw_poison_rows
from poisonbench.models import check_model
from poisonbench.models.classifier import Classifier
from poisonbench.registry import Entry, attacks
from poisonbench.runs.craft import Crafted, craft, publish
from poisonbench.runs.craft_checkpoint import CraftCheckpoint, crafted_by
from poisonbench.runs.easy_targets import clean_probabilities
from poisonbench.runs.method_settings import Settings, read_settings
from poisonbench.runs.trained_models import model_spec, own_seeds, trained_models
from poisonbench.runs.workspace import Bench, check_trial, default_model
from poisonbench.targeting import PROFILES, Goal, Targeting
from poisonbench.training.recipe import Recipe

#: Settings of the victim that change no poison.
VICTIMS_OWN = ("transfer_share", "norm_drift")


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
    given: dict[str, Any] = {
        name: parse_value(text, kinds[name], f"--{name.replace('_', '-')}")
        for name, text in values.items()
        if name in kinds
    }
    profiles = {"paper": {**PROFILES["paper"], "*": {"scenario": scenario}}}
    chosen = given.get("scenario", scenario)
    if "transfer_share" in given and chosen != "transfer":
        raise UsageError(
            f"--transfer-share: expected --scenario transfer, got {chosen}; leave it out"
        )
    settings: dict[str, Any] = {
        "profile": "paper",
        "presets": [name for preset in dataset.presets for name in (preset, f"{preset}/{chosen}")],
        "owner": "a targeted attack",
    }
    built = resolve(Targeting, profiles, overrides=given, **settings)
    # What a scenario's preset says goes with the scenario, which is compared by itself.
    plain = resolve(Targeting, profiles, overrides={"scenario": chosen}, **settings)
    overrides = {
        field.name: getattr(built, field.name)
        for field in fields(Targeting)
        if field.name != "rho" and getattr(built, field.name) != getattr(plain, field.name)
    }
    if chosen != scenario:
        overrides["scenario"] = chosen
    texts = {name: text for name, text in values.items() if name in kinds}
    rest = {name: text for name, text in values.items() if name not in kinds}
    return Targeted(built, overrides, texts), rest


def read_targeting_of(
    entry: Entry, values: Mapping[str, str], dataset: Dataset
) -> tuple[Targeted, dict[str, str]]:
    """The same for an attack.

    Raises:
        UsageError: a bad value, or a scenario that the attack has no form for.
    """
    found, rest = read_targeting(values, dataset, own_scenario(entry, dataset))
    scenario = found.targeting.scenario
    if scenario in entry.not_in:
        raise UsageError(
            f"--scenario: expected another than {scenario} with {entry.name}, which leads the "
            "training of layers that are frozen there; choose bp, fc or cp, which are made for it"
        )
    return found, rest


def own_scenario(entry: Entry, dataset: Dataset) -> str:
    """A targeted attack's scenario: the paper's, or another for a data set too small for that."""
    small = getattr(entry.load(), "SCENARIO_BY_PRESET", {})
    found = [small[preset] for preset in dataset.presets if preset in small]
    return str(found[-1]) if found else entry.scenario


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
        probabilities = clean_probabilities(bench, dataset, targeting, recipe, model)
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
    targeted, rest = read_targeting_of(entry, values or {}, dataset)
    settings = read_settings(entry, dataset, profile, rest, model)
    targeting = targeted.targeting
    if targeting.rho == 0:
        raise UsageError("--rho: expected a share over 0 to craft, got 0; it is for clean controls")
    check_model(model or default_model(dataset), dataset.image_shape)
    check_targets(bench, dataset, targeting, trials)
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
        surrogate = specs[missing[0]]["surrogate"]
        craft_id = together([ids[trial] for trial in missing])
        try:
            images = _attack(bench, settings, dataset, surrogate, jobs, craft_id)
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
                spec=specs[job.trial],
                goal=job.goal.as_json(),
            )
            made[job.trial] = publish(bench, poison, dataset, ids[job.trial])
        bench.checkpoint(craft_id).discard()
    else:
        # A kill may have come between publishing and discarding.
        bench.checkpoint(together([ids[trial] for trial in trials])).discard()
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
        check_selection(selection, names[0])
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
    """All that determines a trial's poison; the target is drawn from what stands here.

    How the victim's set is made up around the poison is not among it.
    """
    shown = as_json(targeting)
    attacker = {name: value for name, value in shown.items() if name not in VICTIMS_OWN}
    return {
        "kind": "craft",
        "attack": settings.entry.name,
        "recipe_number": settings.module.VERSION,
        "config": as_json(settings.config),
        "dataset": dataset.digest,
        "targeting": attacker,
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
    craft_id: str,
) -> Tensor:
    name = settings.entry.name
    generators = [generator_for(bench.seed, "craft", name, job.trial) for job in jobs]
    checkpoint = CraftCheckpoint(bench, name, craft_id, generators)

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
        generators=generators,
        report=checkpoint.report,
        checkpoint=checkpoint,
    )
    return crafted_by(settings, task, bench.say)


def together(ids: Sequence[str]) -> str:
    """The name of the checkpoint of poisons that are crafted in one call."""
    return ids[0] if len(ids) == 1 else spec_id({"kind": "craft together", "poisons": list(ids)})


def _stored(bench: Bench, poison_id: str, dataset: Dataset) -> Crafted:
    path = bench.store.poison_path(poison_id)
    return Crafted(read_poison(path, dataset), poison_id, path, False)


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


def refuse_targeting(values: Mapping[str, str], got: str) -> None:
    """Raise UsageError if there is a targeting setting among option texts, beside what has none."""
    known = {option.name for option in options_of(Targeting)}
    for name in values:
        if name in known:
            raise UsageError(
                f"--{name.replace('_', '-')}: expected a targeted attack, got {got}, which has no "
                "target or scenario; leave it out"
            )


def check_selection(selection: str, name: str) -> None:
    """Raise UsageError unless the selection is the default: targeted poisons are of one class."""
    if selection != "stratified":
        raise UsageError(
            f"--selection: expected an untargeted attack, got {name}, whose poisons are of one "
            "class; leave it out"
        )


def is_targeted(names: Sequence[str]) -> Entry | None:
    """The entry when the one attack named is targeted."""
    entry = attacks()[names[0]] if len(names) == 1 else None
    return entry if entry is not None and entry.scenario else None
