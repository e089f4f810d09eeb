"""ATDA: adversarial training, as a defense against delusive (availability) poisons.

Papers     Tao et al., "Better Safe Than Sorry: Preventing Delusive Adversaries with Adversarial
           Training", NeurIPS 2021; Zhang et al., "Attacks Which Do Not Kill Training Make
           Adversarial Learning Stronger" (FAT), ICML 2020, Algorithm 1.
Reference  TLMichael/Delusive-Adversary @ 8f033e0; zjfheart/Friendly-Adversarial-Training @ 80a0640
           (which has no licence: only its behaviour is reproduced).
Cost       a forward and input-gradient pass per example and step: of ``steps`` at most, of those
           that it takes before it stops with early stopping; the record notes the mean each epoch.

Algorithm  for every batch, after augmentation (numbers reappear below)
  1  start at a random point of the ball around each image: in L2 on its surface, in L-infinity
     uniformly; then into [0, 1]
  2  up to ``steps`` times, model frozen in eval mode: an example that is found misclassified for
     the (tau + 1)-th time stops where it is; the others step up the loss, then back into the
     ball, then into [0, 1]
  3  fit the batch where each example stopped

tau is 0, then 1 from 5/12 and 2 from 3/4 of the epochs on (FAT: after 50 and 90 of 120).

tau counts, as in FAT; HINT describes a threshold on the loss.

Profiles   "paper" is HINT's column (arXiv 2309.08549), which names FAT, a radius of 0.25 and ATDA's
           code, and no norm. L2 with 7 steps is that code's default; in L-infinity 0.25 would ruin
           CIFAR-10, where HINT prints 91.8 %. The same L2 ball is the default against targeted
           attacks, whose 0.062 "linf" reads as L-infinity 16/255, in steps of a quarter of that
           (FAT: 0.226). "code" is ATDA's code: plain PGD in L2 of radius 0.5.
Scenarios  the search goes through the whole network; in transfer the head alone learns from it.
Deviations FAT adds Gaussian noise of 0.001 at each step; left out. The recipe is the one that all
           defenses share; ATDA's trains 150 epochs and picks its checkpoint on poisoned images.
           The network searches in the training's precision; the pixels stay float32.
Shapes     B batch, A active examples, C H W image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from poisonbench.core.settings import BaseConfig, Profiles, setting
from poisonbench.defenses.base import Defense, Recipe, TrainingState
from poisonbench.models.classifier import Classifier
from poisonbench.models.folding import folded
from poisonbench.training.precision import network_precision
from poisonbench.training.projected_gradient import project_linf

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Config(BaseConfig):
    """ATDA's settings; the defaults are HINT's."""

    norm: Literal["l2", "linf"] = setting("l2", "Norm of the ball.")
    radius: float = setting(0.25, "Its radius, in pixels of [0, 1].", over=0, high=1e30)
    steps: int = setting(7, "Most steps of the search.", low=1)
    step_ratio: float = setting(0.2, "Length of a step as a share of the radius.", over=0, high=2)
    early_stop: bool = setting(True, "Friendly: stop when found misclassified tau + 1 times.")


PROFILES: Profiles = {
    "paper": {
        # As far in fewer steps: what a CPU does while someone waits.
        "mnist-sample": {"steps": 4, "step_ratio": 0.35},
        "mnist-sample@1000": {"steps": 7, "step_ratio": 0.2},
    },
    "linf": {"*": {"norm": "linf", "radius": 16 / 255, "steps": 10, "step_ratio": 0.25}},
    "code": {"*": {"radius": 0.5, "early_stop": False}},
}


def build(config: Config, recipe: Recipe) -> Defense:
    """ATDA for one run."""
    return AdversarialTraining(config, recipe)


class AdversarialTraining(Defense):
    """Fits every batch on adversarial examples, by default friendly ones."""

    def __init__(self, config: Config, recipe: Recipe) -> None:
        super().__init__()
        self.config = config
        self.recipe = recipe

    def perturb_batch(self, state: TrainingState, images: Tensor, labels: Tensor) -> Tensor:
        """The batch (B, C, H, W) where its search stopped."""
        config = self.config
        # 1 random start
        start = random_start(images, config, state.generator("start"))
        # 2 search
        patience = tau(state.epoch, self.recipe.epochs) if config.early_stop else None
        precision = network_precision(images.device, self.recipe.precision)
        # The copy is made anew for each batch, since the weights move; a step costs far more.
        model = folded(state.model)
        found = search(model, images, labels, start, config, patience, precision)
        self._tally(state, found.steps)
        # 3 fit there
        return found.images

    def _tally(self, state: TrainingState, steps: int) -> None:
        """Count the steps; after the epoch's last batch note their mean over the examples."""
        total = self.memory.get("steps", torch.zeros((), dtype=torch.int64)) + steps
        if (state.step + 1) * self.recipe.batch_size >= len(state.train):
            state.note({"round": "atda", "mean_steps": int(total) / len(state.train)})
            total = torch.zeros_like(total)
        self.memory["steps"] = total


def tau(epoch: int, epochs: int) -> int:
    """Steps that an example may take while misclassified, when ``epoch`` of ``epochs`` are done."""
    return (12 * epoch >= 5 * epochs) + (4 * epoch >= 3 * epochs)


def random_start(base: Tensor, config: Config, generator: torch.Generator) -> Tensor:
    """Step 1: points (B, C, H, W) of the balls around ``base``, in [0, 1]."""
    if config.norm == "linf":
        offset = torch.rand(base.shape, generator=generator) * 2 - 1
    else:
        offset = torch.randn(base.shape, generator=generator)
        offset /= norms(offset)
    return (base + config.radius * offset.to(base)).clamp_(0, 1)


class Found(NamedTuple):
    """Where a search stopped.

    Attributes:
        images: (B, C, H, W), in the order of the batch.
        steps: taken by all examples together.
    """

    images: Tensor
    steps: int


def search(
    model: Classifier,
    base: Tensor,
    labels: Tensor,
    start: Tensor,
    config: Config,
    patience: int | None,
    precision: torch.dtype = torch.float32,
) -> Found:
    """Step 2 for a batch: only examples that still move are computed.

    Finding those is the one host synchronisation a step on a GPU; masks would need none, but cost
    all steps of all examples, several times the mean.

    Args:
        model: frozen, in eval mode.
        base: (B, C, H, W) in [0, 1], the balls' centres.
        labels: (B,) int64.
        start: (B, C, H, W), the first iterates.
        config: norm, radius, steps, step size.
        patience: tau; None never stops early.
        precision: bfloat16 runs the network under autocast.
    """
    points, taken = start.clone(), 0
    left = torch.full_like(labels, patience or 0)
    active = torch.arange(len(base), device=base.device)
    for _ in range(config.steps):
        images = points[active].requires_grad_(True)
        with torch.autocast(
            base.device.type, dtype=torch.bfloat16, enabled=precision is torch.bfloat16
        ):
            logits = model(images)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        # A sum, so that a gradient does not depend on who else is active.
        loss = F.cross_entropy(logits, labels[active], reduction="sum")
        moves: Tensor | slice = slice(None)
        if patience is not None:
            is_wrong = logits.argmax(1) != labels[active]
            moves = (~is_wrong | (left[active] > 0)).nonzero().flatten()
            left[active] -= is_wrong.long()
        active = active[moves]
        if len(active) == 0:
            break
        (gradient,) = torch.autograd.grad(loss, images)
        points[active] = step(points[active], base[active], gradient[moves], config)
        taken += len(active)
    return Found(points, taken)


def step(points: Tensor, base: Tensor, gradient: Tensor, config: Config) -> Tensor:
    """One step up the loss, back into the ball around ``base`` and into [0, 1], (A, C, H, W)."""
    length = config.step_ratio * config.radius
    if config.norm == "linf":
        return project_linf(points + length * gradient.sign(), base, config.radius)
    offset = points + length * gradient / norms(gradient) - base
    offset *= (config.radius / norms(offset)).clamp(max=1)
    return (base + offset).clamp_(0, 1)


def norms(images: Tensor) -> Tensor:
    """L2 norms (B, 1, 1, 1) of images (B, C, H, W), at least 1e-12."""
    length: Tensor = images.flatten(1).norm(dim=1).clamp(min=1e-12)
    return length[:, None, None, None]
