"""FC: Feature Collision ("poison frogs"), poisons whose features are the target's.

Source      Shafahi et al., "Poison Frogs! Targeted Clean-Label Poisoning Attacks on Neural
            Networks", NeurIPS 2018, algorithm 1 and section 4.2; HINT (arXiv 2309.08549), section
            V-A2, crafts it with the code of Witches' Brew; Peri et al., "Deep k-NN Defense against
            Clean-label Data Poisoning Attacks", ECCV Workshops 2020, attack with ``watermark``.
Code        JonasGeiping/poisoning-gradient-matching @ 90bd7d2, recipe "poison-frogs" (``mean``);
            neeharperi/DeepKNNDefense @ ae19815, folder FeatureCollision_AlexNet (``watermark``).
Goal        targeted: whoever trains on from features like the surrogates' classifies the target
            image as the poisons' class.
Budget      epsilon around each base image; it is 1 with ``--profile watermark``.
Cost        steps x restarts x surrogates forward and backward passes over the poisons, without
            gradients of weights; watermark takes another forward pass a step.

Given a target t, base images x_1..x_P of the intended class and the features h of a surrogate
trained on clean data:

1.  h(t), once.
2.  Brew delta (:func:`~poisonbench.attacks.shared.targeted_optimiser.optimise_poisons`), summed
    over the surrogates, on
    mean: ||mean over i of h(x_i + delta_i) - h(t)||^2 / F, as HINT's code: with one target this
    is Bullseye Polytope with fewer steps;
    collide (``--profile original``): mean over i of ||h(x_i + delta_i) - h(t)||^2 / ||h(t)||^2,
    each poison on its own, as in its paper.
2'. ``--form watermark``: start at w_i = opacity t + (1 - opacity) x_i and repeat for each poison:
    a.  Forward: a step of Adam, of length lambda, down L = sum over h of ||h(z) - h(t)||_2.
    b.  Stop if the step changed z by less than 1e-5 of its norm.
    c.  Where L rose: undo the step, lambda <- lambda / 5. Elsewhere backward:
        z <- (z + beta lambda w) / (1 + beta lambda), lambda in grey levels; project onto the
        bound.

Deviations  ``watermark`` in the papers adds poisons made of test images to the training set; here
            they are made of training images, whose rows they replace. Its code works in floats
            around 0..255 that it never clips, with one network. With a small epsilon the bound
            clips the watermark too, as in the code of Schwarzschild et al. (ICML 2021). The
            one-shot form, which tries bases until one comes close, is not here. Deviations of
            brewing apply. The sample's watermark is 0.7, as networks that are trained on as a whole
            still tell a digit at 0.3.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from poisonbench.attacks.base import TargetedTask
from poisonbench.attacks.shared.feature_space import FeatureSpace, mean_distance
from poisonbench.attacks.shared.resuming import resume
from poisonbench.attacks.shared.targeted_optimiser import (
    DATA_PRESETS,
    BrewingConfig,
    brewing_work,
    optimise_poisons,
    surrogate_models,
)
from poisonbench.core.devices import Flag
from poisonbench.core.settings import Profiles, require, setting
from poisonbench.core.work import Sizes, Work
from poisonbench.training.projected_gradient import project_linf
from poisonbench.training.recipe import Recipe

VERSION = 1

PROFILES: Profiles = {
    "paper": DATA_PRESETS,
    "original": {"*": {"form": "collide"}, **DATA_PRESETS},
    "watermark": {
        "*": {
            "form": "watermark",
            "epsilon": 1.0,
            "steps": 12000,
            "step_size": 0.01 / 255,
            "step_unit": "pixel",
            "restarts": 1,
            "brew_augment": "none",
        },
        "mnist-sample": {"steps": 100, "step_size": 2 / 255, "opacity": 0.7},
        # Scaled to two cores; twice the steps do little more (docs/findings.md, "The presets in
        # colour").
        "cifar10@10000": {"steps": 250, "step_size": 1 / 255},
    },
}

#: Relative change of an image at which the watermark form stops.
_SMALL_CHANGE = 1e-5
_BETAS = (0.9, 0.999)


@dataclass(frozen=True, kw_only=True)
class Config(BrewingConfig):
    """Settings of FC; the defaults are HINT's for CIFAR-10."""

    steps: int = setting(1000, "Gradient steps.", low=1)
    form: Literal["mean", "collide", "watermark"] = setting(
        "mean",
        "mean: the mean poison to the target (HINT); collide: each poison; watermark: each poison "
        "from a blend with the target, for networks that are trained on as a whole.",
    )
    opacity: float = setting(0.3, "Share of the target in a watermarked poison.", low=0, under=1)
    beta: float = setting(0.1, "Pull of the watermark form back to its start.", low=0, high=1e6)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.form != "watermark" or (self.restarts == 1 and self.brew_augment == "none"),
            "form: expected restarts 1 and brew_augment none with watermark, which starts at the "
            f"blend, got {self.restarts} and {self.brew_augment}; choose --profile watermark",
        )


def work(config: Config, recipe: Recipe, sizes: Sizes) -> Work:
    """The steps of all restarts; of the watermark each is looked at again, once it is taken."""
    brewing = brewing_work("pixels", config, recipe, sizes)
    if config.form != "watermark":
        return brewing
    (steps,) = brewing.passes
    return replace(brewing, passes=(steps, replace(steps, kind="forward")))


def craft(task: TargetedTask, config: Config) -> Tensor:
    """Poisons (T, P, C, H, W) float32 in [0, 1] for the task's targets."""
    # 1. The targets' features.
    space = FeatureSpace(surrogate_models(task, config), task.targets, config.precision)
    if config.form == "watermark":
        return _watermarked(task, config, space)
    # 2.
    distance = mean_distance if config.form == "mean" else collision
    return optimise_poisons(task, config, space.objective(distance), space.models)


def collision(features: Tensor, target: Tensor) -> Tensor:
    """Mean over poisons (G,) of their squared distance from the target, relative to its norm."""
    distances = (features - target[:, None]).square().sum(2).mean(1)
    return distances / target.square().sum(1).clamp(min=1e-12)


def _watermarked(task: TargetedTask, config: Config, space: FeatureSpace) -> Tensor:
    """2'. for one target after the other, (T, P, C, H, W)."""
    step_size = config.step_size * config.unit(space.models[0].std[0])
    poisons, walk = task.images.clone(), walk_from(task.images[0], step_size)
    position = {"row": 0, "step": 0}
    position |= resume(task.checkpoint, {"poisons": poisons, **walk}, None)

    def poisons_of(row: int) -> Tensor:
        base = task.images[row]

        def project(images: Tensor) -> Tensor:
            return project_linf(images, base, config.epsilon)

        def distances(images: Tensor) -> Tensor:
            parts = [
                (space.embed(number, images[None])[0] - targets[row]).norm(dim=1)
                for number, targets in enumerate(space.targets)
            ]
            return torch.stack(parts).sum(0)

        def stepped(done: int) -> None:
            task.report(row * config.steps + done, len(task.targets) * config.steps)
            task.checkpoint.save_if_due({"row": row, "step": done}, {"poisons": poisons, **walk})

        start = project(base.lerp(task.targets[row], config.opacity))
        first_step = position["step"] if row == position["row"] else 0
        if first_step == 0:
            walk.update(walk_from(start, step_size))
        return forward_backward(walk, distances, project, config, stepped, first_step)

    for row in range(position["row"], len(task.targets)):
        poisons[row] = poisons_of(row)
    return poisons


def walk_from(start: Tensor, step_size: Tensor) -> dict[str, Tensor]:
    """What the steps of a target's poisons (P, C, H, W) depend on, as they start at w.

    ``step_size`` (C, 1, 1) is Adam's first learning rate in pixels of [0, 1].
    """
    return {
        "start": start.clone(),
        "images": start.clone(),
        "length": step_size.repeat(len(start), 1, 1, 1),
        "first": torch.zeros_like(start),
        "second": torch.zeros_like(start),
        "moving": torch.ones(len(start), dtype=torch.bool, device=start.device),
    }


def forward_backward(
    walk: dict[str, Tensor],
    distances: Callable[[Tensor], Tensor],
    project: Callable[[Tensor], Tensor],
    config: Config,
    stepped: Callable[[int], None],
    first_step: int = 0,
) -> Tensor:
    """Images (P, C, H, W) of small distance that stay near the start w; each is on its own.

    The distances, (P,), fall; ``project`` puts images back into what is allowed. The walk is kept
    up to date, and ``stepped`` told how many steps it has done.
    """
    start, images, length, moving = (walk[name] for name in ("start", "images", "length", "moving"))
    all_stopped = Flag(~moving.any())
    for step in range(first_step, config.steps):
        # a. Forward.
        variable = images.detach().requires_grad_()
        before = distances(variable)
        (gradient,) = torch.autograd.grad(before.sum(), variable)
        first = walk["first"].lerp(gradient, 1 - _BETAS[0])
        second = walk["second"].lerp(gradient.square(), 1 - _BETAS[1])
        root = (second / (1 - _BETAS[1] ** (step + 1))).sqrt() + 1e-8
        adam_step = images - length * first / (1 - _BETAS[0] ** (step + 1)) / root
        with torch.no_grad():
            after = distances(adam_step)
        # b. Stop.
        change = (adam_step - images).flatten(1).norm(dim=1)
        moving = moving & (change >= _SMALL_CHANGE * adam_step.flatten(1).norm(dim=1))
        # c. Backward, or undo.
        pull = config.beta * 255 * length
        drawn = project((adam_step + pull * start) / (1 + pull))
        fell = (after < before)[:, None, None, None]
        images = torch.where(fell & moving[:, None, None, None], drawn, images).detach()
        length = torch.where(fell, length, length / 5)
        walk.update(images=images, length=length, first=first, second=second, moving=moving)
        if all_stopped.is_known():
            all_stopped = Flag(~moving.any())
        # Steps in which a GPU has not answered change no image.
        if all_stopped.is_true():
            stepped(config.steps)
            break
        stepped(step + 1)
    return images
