"""FRIENDS: friendly noise against adversarial noise.

Paper      Liu, Yang, Mirzasoleiman, "Friendly Noise against Adversarial Noise: A Powerful Defense
           against Data Poisoning Attacks", NeurIPS 2022, Algorithm 1.
Reference  tianyu139/friendly-noise @ 8aea311.
Cost       the noise: ``steps`` forward and input-gradient passes over the training set, once
           (20 steps cost 13 epochs of forward passes and gradients, no weight gradients).

Algorithm  (numbers reappear below)
  1  train E0 epochs on images with random noise
  2  once, model frozen in eval mode, images un-augmented: for every image find noise e that is as
     large as it can be while the prediction stays: descend
         KL( f(x) || f(clip(x + clip(e))) ) - lambda mean(clip(e)^2)
     by SGD with Nesterov momentum from U(-8/255, 8/255); clip(e) is to +-zeta
  3  from then on train on clip(x + e, 0, 1) plus fresh random noise

Profiles   "paper" has the paper's settings; "code" the reference's defaults, which differ (30 steps,
           random noise 8/255, no warm-up).
Ablations  ``--random-noise none`` is friendly noise only, ``--friendly false`` random noise only.
Deviations The loss is summed over images with the learning rate scaled to the reference's batch of
           128, so any batch size gives the same noise (the reference's smaller last batch takes
           larger steps). Random noise is added after augmentation, which for whole-pixel crops is
           the same noise, also on the padding. The magnitude is the mean square of the clipped noise,
           as in the code; the paper writes its norm. The step sizes that the paper searched are one
           default here.
Shapes     N training images, B batch, C H W image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from poisonbench.config import Profiles, require, setting
from poisonbench.errors import DivergedError
from poisonbench.models.classifier import Classifier, frozen
from poisonbench.training.recipe import Recipe
from poisonbench.training.state import Defense, TrainingSet, TrainingState

RECIPE_NUMBER = 1

#: The batch that the reference's learning rate belongs to, and the start of its noise.
REFERENCE_BATCH = 128
START = 8 / 255
MOMENTUM = 0.9


@dataclass(frozen=True, kw_only=True)
class Config:
    """FRIENDS' settings; the defaults are the paper's, with Bernoulli noise as HINT compares."""

    friendly: bool = setting(True, "Make friendly noise; false leaves random noise alone.")
    begin_epoch: int = setting(5, "E0: epochs before friendly noise is made.")
    steps: int = setting(20, "Descent steps on the friendly noise.")
    noise_learning_rate: float = setting(100.0, "Their step size, for the mean over 128 images.")
    magnitude_weight: float = setting(1.0, "lambda: weight of the noise's mean square.")
    zeta: float = setting(16 / 255, "Largest friendly noise per pixel, in pixels of [0, 1].")
    random_noise: Literal["bernoulli", "uniform", "gaussian", "none"] = setting(
        "bernoulli", "Fresh noise on every batch."
    )
    mu: float = setting(16 / 255, "Size of the random noise, in pixels of [0, 1].")

    def __post_init__(self) -> None:
        require(self.begin_epoch >= 0, f"begin_epoch: expected 0 or more, got {self.begin_epoch}")
        require(self.steps >= 1, f"steps: expected at least 1, got {self.steps}")
        require(
            self.noise_learning_rate > 0,
            f"noise_learning_rate: expected over 0, got {self.noise_learning_rate}",
        )
        require(0 <= self.zeta <= 1, f"zeta: expected in [0, 1], got {self.zeta}")
        require(0 <= self.mu <= 1, f"mu: expected in [0, 1], got {self.mu}")
        require(
            self.magnitude_weight >= 0,
            f"magnitude_weight: expected 0 or more, got {self.magnitude_weight}",
        )
        require(
            self.friendly or self.random_noise != "none",
            "random_noise: expected some without friendly noise, got none",
        )


PROFILES: Profiles = {
    "paper": {"mnist-sample": {"begin_epoch": 2}},
    "code": {"*": {"begin_epoch": 0, "steps": 30, "mu": 8 / 255}},
}


def build(config: Config, recipe: Recipe) -> Defense:
    """FRIENDS for one run.

    Raises:
        ValueError: friendly noise would begin after the last epoch.
    """
    require(
        not config.friendly or config.begin_epoch < recipe.epochs,
        f"begin_epoch: expected under {recipe.epochs}, got {config.begin_epoch}",
    )
    return Friends(config)


class Friends(Defense):
    """Adds friendly noise once and random noise to every batch."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def start_epoch(self, state: TrainingState) -> TrainingSet:
        """Step 2, at the epoch where it begins."""
        if not self.config.friendly or state.epoch != self.config.begin_epoch:
            return state.train
        train = state.train
        generator = state.generator("friendly noise")
        images = torch.empty(train.images.shape, device=train.images.device)
        size = torch.zeros((), device=images.device, dtype=torch.float64)
        rows = torch.arange(len(train), device=images.device)
        with frozen(state.model) as model:
            for part in rows.split(1000 if images.is_cuda else 250):
                pixels = train.pixels(part)
                start = torch.rand(pixels.shape, generator=generator) * 2 - 1
                noise = friendly_noise(model, pixels, start.to(pixels) * START, self.config)
                images[part] = (pixels + noise).clamp_(0, 1)
                size += noise.abs().mean((1, 2, 3)).double().sum()
        mean = float(size) / len(train)
        if not torch.isfinite(size):
            raise DivergedError(
                f"expected finite friendly noise, got a mean of {mean}; lower --noise-learning-rate"
            )
        state.note({"round": "friends", "mean_abs_noise": mean})
        return train.with_images(images)

    def perturb_batch(self, state: TrainingState, images: Tensor, labels: Tensor) -> Tensor:
        """Fresh random noise, steps 1 and 3; not clipped, as in the reference."""
        mu, kind = self.config.mu, self.config.random_noise
        generator = state.generator("random noise")
        if kind == "none":
            return images
        if kind == "gaussian":
            noise = torch.randn(images.shape, generator=generator)
        else:
            noise = torch.rand(images.shape, generator=generator) * 2 - 1
            if kind == "bernoulli":
                noise = torch.where(noise < 0, -1.0, 1.0)
        return images + mu * noise.to(images)


def friendly_noise(model: Classifier, images: Tensor, start: Tensor, config: Config) -> Tensor:
    """Step 2 for a batch: noise (B, C, H, W), within +-zeta.

    Args:
        model: frozen, in eval mode.
        images: (B, C, H, W) in [0, 1].
        start: (B, C, H, W), the first noise.
        config: step size, steps, lambda, zeta.
    """
    with torch.no_grad():
        target = model(images).log_softmax(1)
    noise, velocity = start, torch.zeros_like(start)
    rate = config.noise_learning_rate / REFERENCE_BATCH
    for _ in range(config.steps):
        noise = noise.detach().requires_grad_(True)
        clipped = noise.clamp(-config.zeta, config.zeta)
        moved = model((images + clipped).clamp(0, 1)).log_softmax(1)
        divergence = F.kl_div(moved, target, reduction="sum", log_target=True)
        magnitude = clipped.square().mean((1, 2, 3)).sum()
        (gradient,) = torch.autograd.grad(divergence - config.magnitude_weight * magnitude, noise)
        velocity = MOMENTUM * velocity + gradient
        noise = noise.detach() - rate * (gradient + MOMENTUM * velocity)
    return noise.clamp(-config.zeta, config.zeta)
