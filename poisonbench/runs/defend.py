"""Defending: train on poisoned data under a defense, and record everything about it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from poisonbench.config import as_json
from poisonbench.data.mixing import Selection
from poisonbench.data.poison import Poison, read_poison
from poisonbench.data.splits import Dataset, Split
from poisonbench.errors import DivergedError, UsageError
from poisonbench.files import write_bytes
from poisonbench.models import build_model, check_model
from poisonbench.registry import defenses, find
from poisonbench.results.records import RunRecord, read_record, spec_id
from poisonbench.runs.bench import Bench, check_trial, default_model
from poisonbench.runs.craft import LOOP_NUMBER, craft, pool_spec
from poisonbench.runs.environment import environment, peak_memory, reset_peak_memory, utc_now
from poisonbench.runs.settings import Settings, read_settings
from poisonbench.seeds import Seeds
from poisonbench.training.evaluation import accuracy_by_class
from poisonbench.training.fit import fit
from poisonbench.training.state import Defense, FitResult


@dataclass(frozen=True)
class PoisonChoice:
    """Which poison a run trains on.

    Attributes:
        attacks: names in the order of their shares; none with a path.
        path: an artefact to use as it is, instead of ``attacks``.
        rho: share of the training images that are poisoned; 0 trains on clean data.
        selection: how shares are drawn.
        trial: the poison's trial. By default all trials of a table train on one poison, so their
            spread is the training's.
    """

    attacks: tuple[str, ...] = ()
    path: Path | None = None
    rho: float = 0.6
    selection: Selection = "stratified"
    trial: int = 0


@dataclass(frozen=True)
class Defended:
    """A record and where it lies; ``is_new`` is false when the run had been done before."""

    record: RunRecord
    path: Path
    is_new: bool


def defend(
    bench: Bench,
    method: str,
    dataset: Dataset,
    choice: PoisonChoice,
    *,
    trial: int = 0,
    profile: str = "paper",
    values: Mapping[str, str] | None = None,
    model: str | None = None,
    save_model: bool = False,
) -> Defended:
    """Train one classifier under a defense, or find the record of having done so.

    Args:
        bench: where.
        method: the defense's name.
        dataset: what to train on.
        choice: its poison; attacks that are missing are crafted and kept.
        trial: seeds initial weights, batches and augmentation, the same for every defense.
        profile: the defense's profile.
        values: option texts of the defense or of the recipe.
        model: the network; by default the paper's for this kind of data.
        save_model: keep the trained weights in the store.

    Raises:
        PoisonbenchError: see :mod:`poisonbench.errors`; nothing half-made is left behind.
    """
    settings, defense, spec = request(
        bench, method, dataset, choice, trial=trial, profile=profile, values=values, model=model
    )
    bench.store.check_writable()
    poison, digest, origin = _poison(bench, dataset, choice)
    if poison is not None:
        spec["poison"]["digest"] = digest
    run_id = spec_id(spec)
    path = bench.store.run_path(run_id)
    model_path = bench.store.model_path(run_id)
    if path.exists() and (model_path.exists() or not save_model):
        return Defended(read_record(path), path, False)
    measured, weights = _run(bench, settings, defense, dataset, poison, spec, run_id)
    overrides = settings.overrides | _choices(choice, model, dataset)
    labels = {
        "variant": "custom" if overrides else profile,
        "profile": profile,
        "overrides": {key: as_plain(value) for key, value in overrides.items()},
        "poison": origin,
        "presets": list(dataset.presets),
        "is_paper_dataset": dataset.is_paper,
        "dataset": dataset.name,
        "sizes": {
            "train": len(dataset.train),
            "validation": len(dataset.validation),
            "test": len(dataset.test),
        },
    }
    record = RunRecord(id=run_id, spec=spec, labels=labels, **measured)
    if save_model:
        write_bytes(model_path, save(weights))
    bench.store.write_record(record)
    bench.checkpoint(run_id).discard()
    return Defended(record, path, True)


def request(
    bench: Bench,
    method: str,
    dataset: Dataset,
    choice: PoisonChoice,
    *,
    trial: int = 0,
    profile: str = "paper",
    values: Mapping[str, str] | None = None,
    model: str | None = None,
) -> tuple[Settings, Defense, dict[str, Any]]:
    """What :func:`defend` would run: settings, defense, and the spec as far as it is known by now.

    The digest of a poison that attacks make is known once they are crafted, and not in the spec.

    Raises:
        PoisonbenchError: as :func:`defend`.
    """
    check_trial(trial)
    settings = read_settings(find("a defense", defenses(), method), dataset, profile, values or {})
    try:
        defense: Defense = settings.module.build(settings.config, settings.recipe)
    except ValueError as error:
        raise UsageError(f"{method}: {error}") from None
    if not 0 <= choice.rho <= 1:
        raise UsageError(f"--rho: expected a poison ratio in [0, 1], got {choice.rho:g}")
    network = model or default_model(dataset)
    check_model(network, dataset.image_shape)
    spec: dict[str, Any] = {
        "kind": "defend",
        "loop": LOOP_NUMBER,
        "dataset": {"name": dataset.name.partition(":")[0], "digest": dataset.digest},
        "poison": _about(dataset, choice),
        "method": method,
        "recipe_number": settings.module.RECIPE_NUMBER,
        "config": as_json(settings.config),
        "model": network,
        "training": as_json(settings.recipe),
        "seed": bench.seed,
        "trial": trial,
    }
    return settings, defense, spec


def needed_pools(bench: Bench, dataset: Dataset, choice: PoisonChoice) -> dict[str, dict[str, Any]]:
    """By attack, the specs of the poisons of every image that a run's poison is drawn from."""
    names = choice.attacks if choice.path is None and choice.rho > 0 else ()
    return {name: pool_spec(bench, name, dataset, choice.trial)[1] for name in names}


def _run(
    bench: Bench,
    settings: Settings,
    defense: Defense,
    dataset: Dataset,
    poison: Poison | None,
    spec: dict[str, Any],
    run_id: str,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Train and evaluate: a record's measured fields, and the weights."""
    started, clock = utc_now(), time.monotonic()
    # Before the run: a checkout may move on while it lasts.
    surroundings = environment(bench.device, settings.recipe.precision) | {"plan": bench.plan}
    reset_peak_memory(bench.device)
    train = dataset.train if poison is None else poison.apply(dataset.train)
    seeds = Seeds(bench.seed, spec["trial"])
    classifier = build_model(
        spec["model"],
        dataset.image_shape,
        dataset.num_classes,
        dataset.mean,
        dataset.std,
        seeds.generator("initial weights"),
    )
    bench.say(
        f"training {settings.entry.name} on {dataset.name}, "
        f"{describe_poison(spec['poison'])}, trial {spec['trial']}"
    )
    try:
        result = fit(
            classifier,
            train,
            dataset.validation,
            settings.recipe,
            seeds,
            device=bench.device,
            defense=defense,
            checkpoint=bench.checkpoint(run_id),
            report=bench.report,
            should_stop=bench.stopping.is_set,
            name=settings.entry.name,
        )
    except DivergedError as error:
        bench.store.write_failure(run_id, spec, str(error))
        bench.checkpoint(run_id).discard()
        raise
    tested = time.monotonic()
    test_accuracy, by_class = accuracy_by_class(
        classifier, dataset.test.to(bench.device), dataset.num_classes
    )
    done = time.monotonic()
    seconds = {**result.seconds, "test": done - tested}
    measured: dict[str, Any] = {
        "metrics": {
            "test_accuracy": test_accuracy,
            "per_class_accuracy": by_class,
            "validation_accuracy": result.curve[-1]["validation_accuracy"],
            "attack_success": None,
            "poison": _bystander(poison, defense, dataset.train),
        },
        "curve": result.curve,
        "notes": result.notes,
        "digests": result.digests,
        "cost": {
            "seconds": {**seconds, "total": sum(seconds.values())},
            "session_seconds": done - clock,
            "images_per_second": _speed(result, train, settings.recipe.epochs),
            "peak_memory_bytes": peak_memory(bench.device),
            "interruptions": result.interruptions,
        },
        "environment": surroundings | {"started": started, "finished": utc_now()},
        "warnings": _warnings(dataset, by_class),
    }
    weights = {key: value.cpu().contiguous() for key, value in classifier.state_dict().items()}
    return measured, weights


def _about(dataset: Dataset, choice: PoisonChoice) -> dict[str, Any] | None:
    """What the spec says about the poison; nothing for a clean run."""
    if choice.path is not None:
        poison = read_poison(choice.path, dataset)
        return {
            "attacks": poison.card["attacks"],
            "rho": len(poison) / len(dataset.train),
            "selection": None,
            "trial": None,
            "digest": poison.digest,
        }
    if choice.rho == 0:
        return None
    return {
        "attacks": list(choice.attacks),
        "rho": choice.rho,
        "selection": choice.selection,
        "trial": choice.trial,
    }


def _poison(
    bench: Bench, dataset: Dataset, choice: PoisonChoice
) -> tuple[Poison | None, str | None, dict[str, Any] | None]:
    """The poison, its digest, and where it came from; nothing for a clean run."""
    if choice.path is not None:
        poison = read_poison(choice.path, dataset)
        return poison, poison.digest, {"id": None, "made_by": poison.card["spec"]}
    if choice.rho == 0:
        return None, None, None
    crafted = craft(
        bench,
        choice.attacks,
        dataset,
        rho=choice.rho,
        selection=choice.selection,
        trial=choice.trial,
    )
    origin = {"id": crafted.id, "pools": crafted.pools}
    return crafted.poison, crafted.poison.digest, origin


def _choices(choice: PoisonChoice, model: str | None, dataset: Dataset) -> dict[str, Any]:
    """What was chosen apart from the method's settings: a paper's table takes none of it."""
    chosen: dict[str, Any] = {}
    if model not in (None, default_model(dataset)):
        chosen["model"] = model
    if choice.path is not None:
        chosen["poison"] = "artefact"
    elif choice.rho > 0 and choice.selection != "stratified":
        chosen["selection"] = choice.selection
    if choice.path is None and choice.rho > 0 and choice.trial != 0:
        chosen["poison_trial"] = choice.trial
    return chosen


def _bystander(poison: Poison | None, defense: Defense, train: Split) -> dict[str, Any] | None:
    """What the poisons' places say about the defense, which never saw them."""
    if poison is None:
        return None
    figures: dict[str, Any] = {"count": len(poison), "share": len(poison) / len(train)}
    if "selected" in defense.memory:
        is_poison = torch.zeros(len(train), dtype=torch.bool)
        is_poison[poison.indices] = True
        figures["share_of_selected"] = float(
            is_poison[defense.memory["selected"].cpu()].float().mean()
        )
    return figures


def _speed(result: FitResult, train: Split, epochs: int) -> float:
    return len(train) * epochs / max(result.seconds["training"], 1e-9)


def _warnings(dataset: Dataset, by_class: Sequence[float]) -> list[str]:
    absent = [
        name
        for name, count in zip(
            dataset.class_names,
            torch.bincount(dataset.test.labels, minlength=dataset.num_classes).tolist(),
            strict=True,
        )
        if count == 0
    ]
    never = [name for name, share in zip(dataset.class_names, by_class, strict=True) if share == 0]
    sentences = [f"class {name} has no test images" for name in absent]
    return sentences + [f"class {n} is never classified right" for n in never if n not in absent]


def describe_poison(about: dict[str, Any] | None) -> str:
    """``{"attacks": ["pgd", "dap"], "rho": 0.6}`` as ``"pgd+dap at rho 0.6"``."""
    return f"{'+'.join(about['attacks'])} at rho {about['rho']:g}" if about else "clean"


def as_plain(value: Any) -> Any:
    """Tuples as lists, for JSON."""
    return list(value) if isinstance(value, tuple) else value
