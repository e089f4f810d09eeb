"""PGD: climb the loss of the true label; the images stay labelled as they are.

Source      Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR
            2018, section 2.1; used as a poison by HINT (arXiv 2309.08549), section V-A1, and,
            with restarts and augmentation, by Fowl et al., "Adversarial Examples Make Strong
            Poisons", NeurIPS 2021.
Code        HINT publishes none for its attacks; lhfowl/adversarial_poisons for Fowl et al.
Cost        steps x restarts forward and backward passes of the surrogate over the images; 40 steps
            on 49,000 CIFAR-10 images cost a third of a training run of ResNet-18.

Given a surrogate f trained on clean data, images x with labels y:

1.  Start at a uniformly random point of the ball around each x.
2.  Repeat ``steps`` times: x' <- project(x' + alpha * sign(grad of CE(f(x'), y))).
3.  With several restarts keep, for each image, the end point of the highest loss.

--against puts a defense in the loop (``attacks/shared/adaptive.py``).

Deviations  HINT states neither steps, step size, start nor restarts: 40 steps of epsilon / 10 from
            one random start are this project's choice. Fowl et al. take 250 steps of
            epsilon / 20 from a clamped Gaussian, 8 restarts and augmentation: set ``--steps 250
            --step-ratio 0.05 --restarts 8 --augment crop-flip`` for all but the Gaussian. Crops
            shift by whole pixels, theirs by fractions.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from poisonbench.attacks.base import AttackConfig, AttackTask
from poisonbench.attacks.shared.adaptive import IN_THE_LOOP, assumed_defense, looks_at
from poisonbench.core.settings import Profiles, setting
from poisonbench.core.work import Passes, Sizes, Work
from poisonbench.training.projected_gradient import (
    Ball,
    ProjectedGradient,
    draw_crop_flip,
    example_losses,
    warn_of_zero_gradients,
)
from poisonbench.training.recipe import Recipe

VERSION = 1

PROFILES: Profiles = {
    "paper": {
        "mnist": {"epsilon": 76 / 255},
        "mnist-sample": {"steps": 10, "step_ratio": 0.25},
        # Scaled to two cores, not yet tuned on validation images.
        "cifar10@10000": {"steps": 10, "step_ratio": 0.25},
    }
}


@dataclass(frozen=True, kw_only=True)
class Config(AttackConfig):
    """Settings of PGD; the defaults are for CIFAR-10."""

    steps: int = setting(40, "Gradient steps.", low=1)
    step_ratio: float = setting(0.1, "Length of a step as a share of epsilon.", over=0, high=2)
    restarts: int = setting(1, "Random starts; the highest loss is kept, image by image.", low=1)
    augment: Literal["none", "crop-flip"] = setting(
        "none", "Differentiate through a random crop and flip at each step."
    )
    precision: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "Arithmetic of the attack's passes; auto: bfloat16 where it is quicker."
    )
    against: Literal[
        "none", "jpeg", "jpeg:10", "grayscale", "epic", "friends", "ueraser", "hint"
    ] = setting("none", IN_THE_LOOP, extension=True)


def work(config: Config, recipe: Recipe, sizes: Sizes) -> Work:
    """The steps on one surrogate."""
    images = sizes.images * config.steps * config.restarts * looks_at(config.against)
    return Work(
        passes=(Passes(kind="pixels", images=images, precision=config.precision),),
        surrogates=((0, recipe.epochs),),
        memory=3 * sizes.pixels,
    )


def craft(task: AttackTask, config: Config) -> Tensor:
    """Poisoned images (P, C, H, W) float32 in [0, 1] for the task's images."""
    model, device = task.surrogate(), task.images.device
    ball = Ball(config.epsilon)
    ascent = ProjectedGradient(ball, config.steps, config.step_ratio, config.precision)
    defense = assumed_defense(config.against, task.assumed, task.generator)
    defense.meet(model, task.images, task.labels, task.num_classes)
    best_images = task.images
    best_losses = torch.full((len(task.images),), -torch.inf, device=device)
    for restart in range(config.restarts):
        # 1. A random start.
        start = ball.random_start(task.images, task.generator)

        # 2. Ascend.
        draws = None
        if config.augment == "crop-flip":
            draws = draw_crop_flip(config.steps, len(task.images), task.generator, device)
        images, zero_share = ascent.perturb(
            model,
            task.images,
            task.labels,
            start=start,
            draws=draws,
            hooks=defense,
            report=lambda done, total, before=restart: task.report(  # type: ignore[misc]
                before * total + done, config.restarts * total
            ),
        )
        warn_of_zero_gradients(zero_share, "pgd")
        if config.restarts == 1:
            return images

        # 3. Keep the highest loss.
        losses = example_losses(model, defense.seen(images), task.labels)
        better = losses > best_losses
        best_images = torch.where(better[:, None, None, None], images, best_images)
        best_losses = torch.maximum(losses, best_losses)
    return best_images
