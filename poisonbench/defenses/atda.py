"""ATDA: adversarial training, as a defense against delusive (availability) poisons.

Papers     Tao et al., "Better Safe Than Sorry: Preventing Delusive Adversaries with Adversarial
           Training", NeurIPS 2021; Zhang et al., "Attacks Which Do Not Kill Training Make
           Adversarial Learning Stronger" (FAT), ICML 2020, Algorithm 1.
Reference  TLMichael/Delusive-Adversary @ 8f033e0; zjfheart/Friendly-Adversarial-Training @ 80a0640.
Cost       up to ``steps`` forward and input-gradient passes a batch; examples stop early, and the
           record notes the mean number of steps.

Algorithm  for every batch (numbers reappear below)
  1  start at a random point of the ball around each image
  2  up to ``steps`` times, model frozen in eval mode: an example that is misclassified stops once
     it has taken tau more steps; the others step up the loss and back into the ball and [0, 1]
  3  fit the batch where each example stopped

tau grows with training: 0, then 1 from 5/12 and 2 from 3/4 of the epochs on (FAT: 50 and 90 of 120).

Profiles   "paper" is HINT's column: FAT with radius 0.25. HINT states no norm; L2 is the default of the
           ATDA code that it names, and in L-infinity 0.25 would ruin CIFAR-10, where HINT prints
           91.8 %. "linf" is the other reading, L-infinity 16/255. "code" is ATDA's own code: plain
           PGD of 7 steps in L2 of radius 0.5.
Deviations the search runs the network in bfloat16 where the device has it; the pixels stay float32.
Shapes     B batch, C H W image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from poisonbench.config import Profiles, require, setting
from poisonbench.models.classifier import Classifier, frozen
from poisonbench.perturbation import project_linf
from poisonbench.training.fit import network_precision
from poisonbench.training.recipe import Recipe
from poisonbench.training.state import Defense, TrainingState

RECIPE_NUMBER = 1


@dataclass(frozen=True, kw_only=True)
class Config:
    """ATDA's settings; the defaults are HINT's."""

    norm: Literal["l2", "linf"] = setting("l2", "Norm of the ball.")
    radius: float = setting(0.25, "Its radius, in pixels of [0, 1].")
    steps: int = setting(10, "Most steps of the search.")
    step_ratio: float = setting(0.2, "Length of a step as a share of the radius.")
    early_stop: bool = setting(True, "Friendly: stop at the first misclassification (plus tau).")

    def __post_init__(self) -> None:
        require(self.radius > 0, f"radius: expected over 0, got {self.radius}")
        require(self.steps >= 1, f"steps: expected at least 1, got {self.steps}")
        require(0 < self.step_ratio <= 2, f"step_ratio: expected in (0, 2], got {self.step_ratio}")


PROFILES: Profiles = {
    "paper": {},
    "linf": {"*": {"norm": "linf", "radius": 16 / 255}},
    "code": {"*": {"radius": 0.5, "steps": 7, "early_stop": False}},
}


def build(config: Config, recipe: Recipe) -> Defense:
    """ATDA for one run."""
    return AdversarialTraining(config, recipe.epochs)


class AdversarialTraining(Defense):
    """Fits every batch on adversarial examples that stop early."""

    def __init__(self, config: Config, epochs: int) -> None:
        super().__init__()
        self.config = config
        self.epochs = epochs

    def patience(self, epoch: int) -> int | None:
        """tau at an epoch; None never stops early."""
        if not self.config.early_stop:
            return None
        return (epoch >= 5 / 12 * self.epochs) + (epoch >= 3 / 4 * self.epochs)

    def perturb_batch(self, state: TrainingState, images: Tensor, labels: Tensor) -> Tensor:
        """The batch (B, C, H, W) where its search stopped."""
        config = self.config
        # 1 random start
        generator = state.generator("start")
        if config.norm == "linf":
            noise = torch.rand(images.shape, generator=generator) * 2 - 1
        else:
            noise = torch.randn(images.shape, generator=generator)
            noise /= norms(noise)
        start = (images + config.radius * noise.to(images)).clamp_(0, 1)
        # 2 friendly search
        with frozen(state.model) as model:
            return friendly_search(model, images, labels, start, config, self.patience(state.epoch))


def friendly_search(
    model: Classifier,
    base: Tensor,
    labels: Tensor,
    start: Tensor,
    config: Config,
    patience: int | None,
) -> Tensor:
    """Early-stopped projected gradient ascent, all examples at once, in input order.

    Args:
        model: frozen, in eval mode.
        base: (B, C, H, W) in [0, 1], the balls' centres.
        labels: (B,) int64.
        start: (B, C, H, W), the first iterates.
        config: norm, radius, steps, step size.
        patience: tau; None never stops.
    """
    bfloat16 = network_precision(base.device, "auto") is torch.bfloat16
    points = start.clone()
    left = torch.full_like(labels, 0 if patience is None else patience)
    active = torch.arange(len(base), device=base.device)
    for _ in range(config.steps):
        images = points[active].requires_grad_(True)
        with torch.autocast(base.device.type, dtype=torch.bfloat16, enabled=bfloat16):
            logits = model(images)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        (gradient,) = torch.autograd.grad(
            F.cross_entropy(logits, labels[active], reduction="sum"), images
        )
        going = torch.ones_like(active, dtype=torch.bool)
        if patience is not None:
            wrong = logits.argmax(1) != labels[active]
            going = ~(wrong & (left[active] == 0))
            left[active] -= (wrong & going).long()
        active, gradient = active[going], gradient[going]
        if len(active) == 0:
            break
        points[active] = step(points[active], base[active], gradient, config)
    return points


def step(points: Tensor, base: Tensor, gradient: Tensor, config: Config) -> Tensor:
    """One step up the loss, back into the ball around ``base`` and into [0, 1]."""
    length = config.step_ratio * config.radius
    if config.norm == "linf":
        return project_linf(points + length * gradient.sign(), base, config.radius)
    moved = points + length * gradient / norms(gradient) - base
    moved *= (config.radius / norms(moved)).clamp(max=1)
    return (base + moved).clamp_(0, 1)


def norms(images: Tensor) -> Tensor:
    """L2 norms (B, 1, 1, 1), at least 1e-12."""
    return images.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]
