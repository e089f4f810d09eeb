"""Figure 1 of the HINT paper: its healthy noise on clean and on poisoned training images.

The noise is made by the defense itself, in its first round, on the model that it has at that
moment: plainly trained on the poisoned data until the first scheduled epoch. The influence of a
pixel is that of an image with its label, so the prediction may well turn towards that label: a
control makes the same noise, on the same images, with a wrong label each.

Shapes: S selected images, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from poisonbench.core.errors import UsageError
from poisonbench.core.seeds import Seeds, generator_for
from poisonbench.core.settings import as_json
from poisonbench.data.splits import Dataset, Split, other_labels
from poisonbench.defenses.hint import Hint
from poisonbench.figures.drawing import Figure
from poisonbench.figures.images import answer
from poisonbench.figures.noise_grid import noise_grid
from poisonbench.models import check_model
from poisonbench.models.classifier import Classifier
from poisonbench.registry import defenses
from poisonbench.requests import CraftRequest, PoisonRequest, RunRequest, Values
from poisonbench.runs.craft import craft
from poisonbench.runs.method_settings import Settings, read_settings
from poisonbench.runs.trained_models import LOOP_NUMBER, trained_models
from poisonbench.runs.workspace import Bench, default_model
from poisonbench.training.evaluation import logits_of
from poisonbench.training.state import TrainingSet, TrainingState


@dataclass(frozen=True)
class Outcome:
    """What one noise does to the selected images.

    Attributes:
        labels: (S,) the labels that the noise was made with.
        noise: (S, C, H, W) as applied, in pixels of [0, 1].
        images: (S, C, H, W) with the noise, in [0, 1].
        probabilities: (S, K) of the model on them.
    """

    labels: Tensor
    noise: Tensor
    images: Tensor
    probabilities: Tensor


def healthy_noise(
    bench: Bench,
    dataset: Dataset,
    mix: PoisonRequest,
    *,
    trial: int = 0,
    images: int = 4,
    wrong_label: bool = False,
    profile: str = "paper",
    values: Values | None = None,
) -> Figure:
    """Image, noise and noisy image with predictions, for some images of HINT's selection.

    Parameters: the figure's options.

    Args:
        bench: where; poisons and the model that are missing are made and kept.
        dataset: what to train on.
        mix: its poison.
        trial: seeds the model and the choice of images.
        images: how many to show; half of them clean where there are clean ones.
        wrong_label: show the control as well.
        profile: HINT's profile.
        values: settings of HINT or of the recipe.

    Raises:
        UsageError: bad options.
    """
    run = RunRequest(method="hint", poison=mix, profile=profile, settings=values or {}, trial=trial)
    settings = read_settings(defenses()["hint"], dataset, run.profile, run.settings)
    try:
        defense: Hint = settings.module.build(settings.config, settings.recipe)
    except ValueError as error:
        raise UsageError(f"hint: {error}") from None
    if images < 1:
        raise UsageError(f"--images: expected 1 or more, got {images}")
    network = default_model(dataset)
    check_model(network, dataset.image_shape)
    bench.store.check_writable()
    train, about, owners = _poisoned(bench, dataset, mix)
    seeds = Seeds(bench.seed, trial)
    spec = _model_spec(bench, dataset, settings, about, network, trial)
    recipe = replace(settings.recipe, epochs=min(settings.config.schedule))
    (model,) = trained_models(bench, dataset, recipe, spec, seeds=seeds, train=train)
    bench.abort_if_stopping()
    bench.say("HINT's first round" + (", with true and with wrong labels" if wrong_label else ""))
    train = train.to(bench.device)
    notes: list[dict[str, Any]] = []
    healthy = _round(model, train, dataset.validation, defense, seeds, notes)
    rows = defense.memory["selected"]
    outcomes = {"healthy": _outcome(model, train, rows, train.labels, healthy)}
    if wrong_label:
        wrong = other_labels(
            train.labels, dataset.num_classes, generator_for(bench.seed, "wrong labels", trial)
        )
        # The direction does not depend on training labels: only the images' own influence does.
        relabelled = Split(train.images, wrong)
        changed = _round(model, relabelled, dataset.validation, defense, seeds, [])
        outcomes["wrong_label"] = _outcome(model, train, rows, wrong, changed)
    chosen = train.rows(rows)
    before = logits_of(model, chosen.images).softmax(1)
    owners = owners.to(rows.device)[rows]
    places = _choose(before, chosen.labels, owners >= 0, images, bench.seed, trial)
    numbers: dict[str, Any] = {
        "figure": "1",
        "dataset": {"name": dataset.name.partition(":")[0], "digest": dataset.digest},
        "poison": about,
        "seed": bench.seed,
        "trial": trial,
        "config": as_json(settings.config),
        "model": {"epochs": min(settings.config.schedule), "spec": spec},
        "round": notes[0],
        "images": [
            {
                "row": int(rows[place]),
                "poisoned_by": mix.attacks[owners[place]] if owners[place] >= 0 else None,
                **_image_numbers(place, chosen, before, outcomes, dataset),
            }
            for place in places.tolist()
        ],
        "all_selected": {
            name: _summary(keep, chosen.labels, before, outcomes)
            for name, keep in (
                ("all", owners == owners),
                ("clean", owners < 0),
                ("poisoned", owners >= 0),
            )
            if keep.any()
        },
    }
    pictures = {
        name: (outcome.noise[places], outcome.images[places]) for name, outcome in outcomes.items()
    }
    return Figure(noise_grid(numbers, chosen.images[places], pictures), numbers)


def _poisoned(
    bench: Bench, dataset: Dataset, mix: PoisonRequest
) -> tuple[Split, dict[str, Any] | None, Tensor]:
    """The training split with its poison, what names that, and each row's attack or -1, (N,)."""
    owners = torch.full((len(dataset.train),), -1)
    if mix.rho == 0:
        return dataset.train, None, owners
    request = CraftRequest(dataset=dataset.name, poison=mix, seed=bench.seed)
    poison = craft(bench, request)[0].poison
    owners[poison.indices] = poison.sources.long()
    about = {"attacks": list(mix.attacks), "rho": mix.rho, "digest": poison.digest}
    return poison.apply(dataset.train), about, owners


def _model_spec(
    bench: Bench,
    dataset: Dataset,
    settings: Settings,
    about: dict[str, Any] | None,
    network: str,
    trial: int,
) -> dict[str, Any]:
    epochs = min(settings.config.schedule)
    return {
        "kind": "before HINT's first round",
        "loop": LOOP_NUMBER,
        "dataset": dataset.digest,
        "poison": about["digest"] if about else None,
        "model": network,
        "training": as_json(replace(settings.recipe, epochs=epochs)),
        "seed": bench.seed,
        "trial": trial,
    }


def _round(
    model: Classifier,
    train: Split,
    validation: Split,
    defense: Hint,
    seeds: Seeds,
    notes: list[dict[str, Any]],
) -> Tensor:
    """The images of HINT's first round, (S, C, H, W) float32 in [0, 1]."""
    epoch = min(defense.config.schedule)
    original = TrainingSet(train.images, train.labels)
    state = TrainingState(
        epoch=epoch,
        step=0,
        model=model,
        original=original,
        train=original,
        validation=validation.to(train.labels.device),
        batch_rows=None,
        generator=lambda purpose: seeds.generator("defense", purpose, epoch, 0),
        note=notes.append,
        # HINT looks at the model that it is given and trains no other.
        train_copy=lambda purpose, split: model,
    )
    return defense.start_epoch(state).images[defense.memory["selected"]]


def _outcome(
    model: Classifier, train: Split, rows: Tensor, labels: Tensor, images: Tensor
) -> Outcome:
    noise = images - train.images[rows].float().div_(255)
    return Outcome(labels[rows], noise, images, logits_of(model, images).softmax(1))


def _choose(
    before: Tensor, labels: Tensor, poisoned: Tensor, count: int, seed: int, trial: int
) -> Tensor:
    """Places among the selected: clean ones, then poisoned ones, misclassified ones first.

    Within that the draw is random. Where one kind is lacking the other fills in.
    """
    order = torch.randperm(len(labels), generator=generator_for(seed, "figure 1", trial))
    order = order.to(labels.device)
    right = before.argmax(1) == labels
    order = order[right[order].int().argsort(stable=True)]
    clean, bad = order[~poisoned[order]], order[poisoned[order]]
    num_clean = max(min(len(clean), math.ceil(count / 2)), count - len(bad))
    return torch.cat([clean[:num_clean], bad[: count - min(num_clean, len(clean))]])


def _image_numbers(
    place: int,
    chosen: Split,
    before: Tensor,
    outcomes: dict[str, Outcome],
    dataset: Dataset,
) -> dict[str, Any]:
    label = int(chosen.labels[place])
    numbers: dict[str, Any] = {
        "label": dataset.class_names[label],
        "before": answer(before[place], label, dataset.class_names),
    }
    for name, outcome in outcomes.items():
        size = outcome.noise[place].abs()
        numbers[name] = {
            "noise_made_with": dataset.class_names[int(outcome.labels[place])],
            "max_abs_noise": float(size.max()),
            "mean_abs_noise": float(size.double().mean()),
            "shown_times": _factor(float(size.max())),
            "after": answer(outcome.probabilities[place], label, dataset.class_names),
        }
    return numbers


def _factor(largest: float) -> float | None:
    """What makes a noise fill half of the range of grey, to two digits; None of no noise."""
    return float(f"{0.5 / largest:.2g}") if largest > 0 else None


def _summary(
    keep: Tensor, labels: Tensor, before: Tensor, outcomes: dict[str, Outcome]
) -> dict[str, Any]:
    """Shares over the selected images that are kept, (S,) bool."""
    labels, before = labels[keep], before[keep]
    true = before.gather(1, labels[:, None])[:, 0]
    right = before.argmax(1) == labels
    numbers: dict[str, Any] = {
        "images": len(labels),
        "right_before": float(right.double().mean()),
        "mean_true_confidence_before": float(true.double().mean()),
    }
    for name, outcome in outcomes.items():
        after = outcome.probabilities[keep]
        confidence = after.gather(1, labels[:, None])[:, 0]
        is_right = after.argmax(1) == labels
        numbers[name] = {
            "right_after": float(is_right.double().mean()),
            "turned_right": int((is_right & ~right).sum()),
            "turned_wrong": int((right & ~is_right).sum()),
            "mean_true_confidence_after": float(confidence.double().mean()),
            "true_confidence_rises": float((confidence > true).double().mean()),
        }
    return numbers
