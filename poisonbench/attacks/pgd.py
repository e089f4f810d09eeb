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
from poisonbench.attacks.shared.adaptive import IN_THE_LOOP, Against, assumed_defense, looks_at
from poisonbench.attacks.shared.resuming import resume_counts
from poisonbench.core.settings import Profiles, setting
from poisonbench.core.work import Passes, Sizes, Work
from poisonbench.models.classifier import pass_size
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
        # Scaled to two cores; twice the steps do as much on validation images
        # (docs/findings.md, "The presets in colour").
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
    against: Against = setting("none", IN_THE_LOOP, extension=True)


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
    count = len(task.images)
    # Where this restart is, and the best of all of them.
    kept = {"points": task.images.clone(), "zero_share": torch.zeros((), device=device)}
    if config.restarts > 1:
        kept["best"] = task.images.clone()
        kept["losses"] = torch.full((count,), -torch.inf, device=device)
    if config.augment == "crop-flip":
        kept["shifts"] = torch.zeros(config.steps, count, 2, dtype=torch.int8, device=device)
        kept["flips"] = torch.zeros(config.steps, count, dtype=torch.bool, device=device)
    size = defense.images_in_a_pass or pass_size(task.images, gradients=True)
    num_passes = len(range(0, count, size))
    # Images of all restarts, and not passes, whose size is the device's.
    done = resume_counts(task, kept, {"images": 0})["images"]
    while done < config.restarts * count:
        restart, first = divmod(done, count)
        rows = slice(first, min(first + size, count))

        # 1. A random start, of all images at once.
        if first == 0:
            kept["points"].copy_(ball.random_start(task.images, task.generator))
            if config.augment == "crop-flip":
                drawn = draw_crop_flip(config.steps, count, task.generator, device)
                kept["shifts"], kept["flips"] = drawn

        # 2. Ascend.
        number = (restart + 1) * num_passes - len(range(first, count, size))
        draws = None
        if config.augment == "crop-flip":
            draws = kept["shifts"][:, rows], kept["flips"][:, rows]
        kept["points"][rows], zero_share = ascent.perturb(
            model,
            task.images[rows],
            task.labels[rows],
            start=kept["points"][rows],
            draws=draws,
            hooks=defense,
            report=lambda step, steps, before=number: task.report(  # type: ignore[misc]
                before * steps + step, config.restarts * num_passes * steps
            ),
        )
        kept["zero_share"] += zero_share * (rows.stop - first) / (config.restarts * count)

        # 3. With several restarts, keep the highest loss.
        if config.restarts > 1 and rows.stop == count:
            losses = example_losses(model, defense.seen(kept["points"]), task.labels)
            better = (losses > kept["losses"])[:, None, None, None]
            kept["best"] = torch.where(better, kept["points"], kept["best"])
            kept["losses"] = torch.maximum(losses, kept["losses"])
        done += rows.stop - first
        task.checkpoint.save_if_due({"images": done}, kept)
    warn_of_zero_gradients(kept["zero_share"], "pgd")
    return kept["best" if config.restarts > 1 else "points"]
