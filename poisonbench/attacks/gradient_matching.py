"""GM: gradient matching, "Witches' Brew": poisons whose gradient points the way of the target's.

Source      Geiping et al., "Witches' Brew: Industrial Scale Data Poisoning via Gradient Matching",
            ICLR 2021, Algorithm 1 and equation (4); HINT (arXiv 2309.08549), section V-A2.
Code        JonasGeiping/poisoning-gradient-matching @ 90bd7d2, which HINT used.
Goal        targeted: whoever trains on the poisons from scratch takes one test image for the
            intended class.
Cost        steps x restarts x surrogates passes over the poisons, each as dear as two or three
            training steps where convolutions are all (a second backward pass goes through the
            first), and up to eight on the small network (docs/benchmarks.md).

Given surrogates f trained on clean data, base images of the intended class and a target image:

1.  The goal of each surrogate: the gradient, with respect to all its parameters, of the
    cross-entropy of the target image at the intended class; not augmented, computed once.
2.  Brew (``attacks/shared/targeted_optimiser.py``) with the loss 1 - cos(gradient of the mean
    cross-entropy of the augmented poisons at their labels, goal), one cosine over all parameters
    together. Training on the poisons then lowers the target's loss at the intended class too.

--against puts a defense in the loop (``attacks/shared/adaptive.py``), between the poisons and their
augmentation; starts are clamped to [0, 1] then.

Surrogates are in eval mode: with the statistics of the batch of poisons in batch norm the attack
hardly works (2 of 16 targets instead of 13, on MNIST).

Deviations  those of brewing. The sample's surrogates are at several stages of training, which do
            more than restarts do.
"""

import warnings
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from poisonbench.attacks.base import TargetedTask
from poisonbench.attacks.shared.adaptive import (
    EPIC_WEIGHT,
    IN_THE_LOOP,
    Against,
    assumed_defense,
    class_gradients,
    gradient_distance,
    looks_at,
)
from poisonbench.attacks.shared.matching import matching_loss, parameter_gradient
from poisonbench.attacks.shared.targeted_optimiser import (
    DATA_PRESETS,
    BrewingConfig,
    brewing_work,
    optimise_poisons,
    surrogate_models,
)
from poisonbench.core.settings import Profiles, setting
from poisonbench.core.work import Sizes, Work
from poisonbench.training.recipe import Recipe

VERSION = 1
ADAPTIVE_VERSION = 2

PROFILES: Profiles = {
    "paper": {
        **DATA_PRESETS,
        "mnist-sample": {
            **DATA_PRESETS["mnist-sample"],
            "steps": 20,
            "surrogates": 4,
            "stagger": "full",
        },
        # Scaled to two cores; enough for both of two easy held-out targets, with 5 % of the images
        # (docs/findings.md, "The presets in colour").
        "cifar10@10000": {"steps": 100, "restarts": 1},
    }
}

#: A gradient of the poisons shorter than this is mostly rounding, and so is its direction.
_SHORT = 1e-6


@dataclass(frozen=True, kw_only=True)
class Config(BrewingConfig):
    """Settings of gradient matching; the defaults are HINT's for CIFAR-10."""

    against: Against = setting("none", IN_THE_LOOP, extension=True)


def work(config: Config, recipe: Recipe, sizes: Sizes) -> Work:
    """The steps of all restarts."""
    looks = looks_at(config.against)
    return brewing_work("matching", config, recipe, replace(sizes, images=looks * sizes.images))


def craft(task: TargetedTask, config: Config) -> Tensor:
    """Poisoned images (T, P, C, H, W) float32 in [0, 1] for the task's images."""
    models = surrogate_models(task, config)

    # 1. Goals (T, D) of length 1, a surrogate each.
    goals = []
    for model in models:
        pairs = zip(task.targets, task.intended, strict=True)
        rows = [
            parameter_gradient(model, image[None], label[None], precision=config.precision)
            for image, label in pairs
        ]
        goals.append(F.normalize(torch.stack(rows), eps=1e-12))
    shortest = torch.full((), torch.inf, device=task.images.device)

    defenses = [
        assumed_defense(config.against, task.assumed, generator) for generator in task.generators
    ]
    train, centres = task.train, []
    if config.against == "epic":
        centres = [
            class_gradients(model, train.images, train.labels, task.num_classes) for model in models
        ]

    # 2. Brew. Targets take turns: their gradients are as large as the model.
    def objective(number: int, images: Tensor, targets: Tensor) -> Tensor:
        losses = []
        groups = zip(images, task.labels[targets], goals[number][targets], strict=True)
        for poisons, own_labels, goal in groups:
            labels = own_labels.repeat(len(poisons) // len(own_labels))
            gradient = parameter_gradient(
                models[number], poisons, labels, create_graph=True, precision=config.precision
            )
            loss = matching_loss(gradient, goal)
            if centres:
                distance = gradient_distance(models[number](poisons), labels, centres[number])
                loss = loss + EPIC_WEIGHT * distance.mean()
            losses.append(loss)
            torch.minimum(shortest, gradient.detach().norm(), out=shortest)
        return torch.stack(losses)

    def view(images: Tensor, targets: Tensor) -> Tensor:
        pairs = zip(images, targets.tolist(), strict=True)
        return torch.stack([defenses[target].view(poisons, 0) for poisons, target in pairs])

    poisons = optimise_poisons(
        task,
        config,
        objective,
        models,
        None if config.against == "none" else view,
        view_draws=any(defense.images_in_a_pass for defense in defenses),
    )
    if float(shortest) < _SHORT:
        warnings.warn(
            f"gm: expected a gradient of the poisons of norm {_SHORT:g} or more, got "
            f"{float(shortest):.1g}: the surrogate fits them too well to tell a direction; use "
            "--stagger full or surrogates trained for fewer epochs",
            stacklevel=2,
        )
    return poisons
