"""FRIENDS: friendly noise against adversarial noise.

Paper      Liu, Yang, Mirzasoleiman, "Friendly Noise against Adversarial Noise: A Powerful Defense
           against Data Poisoning Attacks", NeurIPS 2022, Algorithm 1.
Reference  tianyu139/friendly-noise @ 8aea311.
Cost       the noise: ``steps`` forward and input-gradient passes over the training set, once; 20
           steps are the work of 14 epochs of training. Random noise costs next to nothing.

Algorithm  (numbers reappear below)
  1  train E0 epochs on images with random noise
  2  once, model frozen in eval mode, images not augmented: for every image x find noise e that is
     as large as it can be while the prediction f(x) stays: descend
         KL( f(x) || f(clip(x + c(e), 0, 1)) ) - lambda mean(c(e)^2)      c(e) = clip(e, +-zeta)
     by SGD with Nesterov momentum 0.9 from U(-8/255, 8/255); the friendly noise is c(e)
  3  from then on train on clip(x + c(e), 0, 1) plus fresh random noise

Profiles   "paper" has the paper's settings; it searched the step size among 10, 20, 50, 100 and
           lambda among 1, 10, and 10 fills the zeta ball as in its figures. "code" has the
           reference's defaults (30 steps, lambda 1, random noise of 8/255), with E0 = 5 as in its
           README.
Ablations  ``--random-noise none`` and ``--friendly false``; the paper takes 32/255 for either.
Scenarios  friendly noise is made for the network of the second stage after E0 of its epochs;
           in transfer the noise is for frozen features with a new head (the paper and the
           reference make it before the first epoch there: ``--begin-epoch 0``).
Deviations The loss is summed over images with the step size scaled to the reference's batch of
           128, so any batch gives the same noise (the reference's last, smaller batch takes larger
           steps). The KL is the code's; the paper writes its arguments the other way round. The
           magnitude is the code's mean square; the paper writes a norm and finds no difference.
           Random noise is added after augmentation: with whole-pixel crops that is the same noise,
           and covers the padding too.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from poisonbench.core.devices import send
from poisonbench.core.errors import DivergedError
from poisonbench.core.settings import BaseConfig, Profiles, require, setting
from poisonbench.core.work import Passes, Sizes, Work
from poisonbench.defenses.base import Defense, Recipe, TrainingSet, TrainingState
from poisonbench.models.classifier import Classifier, pass_size
from poisonbench.models.cpu.parallel_passes import MOST_THREADS, in_parallel

VERSION = 1

#: The batch that the reference's learning rate belongs to, and the start of its noise.
REFERENCE_BATCH, START = 128, 8 / 255
MOMENTUM = 0.9
#: Mean noise before the last clip, in pixels of [0, 1], beyond which the descent has run away.
RUNAWAY = 100.0


@dataclass(frozen=True, kw_only=True)
class Config(BaseConfig):
    """FRIENDS' settings; the defaults are the paper's, with Bernoulli noise as HINT compares."""

    friendly: bool = setting(True, "Make friendly noise; false leaves random noise alone.")
    begin_epoch: int = setting(5, "E0: epochs before friendly noise is made.", low=0)
    steps: int = setting(20, "Descent steps on the friendly noise.", low=1)
    noise_learning_rate: float = setting(
        100.0, "Their step size, for the mean over 128 images.", over=0
    )
    magnitude_weight: float = setting(10.0, "lambda: weight of the noise's mean square.", low=0)
    zeta: float = setting(
        16 / 255, "Largest friendly noise per pixel, in pixels of [0, 1].", low=0, high=1
    )
    random_noise: Literal["bernoulli", "uniform", "gaussian", "none"] = setting(
        "bernoulli", "Fresh noise on every batch."
    )
    mu: float = setting(16 / 255, "Size of the random noise, in pixels of [0, 1].", low=0, high=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.friendly or self.random_noise != "none",
            "random_noise: expected some without friendly noise, got none",
        )


_BY_DATA = {
    "mnist-sample": {"begin_epoch": 2},
    # The first with a network worth it; on validation images a later one does a little better
    # (docs/findings.md, "The presets in colour").
    "cifar-small": {"begin_epoch": 2},
}

PROFILES: Profiles = {
    "paper": _BY_DATA,
    "code": {
        "*": {"steps": 30, "magnitude_weight": 1.0, "mu": 8 / 255},
        **_BY_DATA,
    },
}


def build(config: Config, recipe: Recipe) -> Defense:
    """FRIENDS for one run; ValueError where friendly noise would begin after the last epoch."""
    require(
        not config.friendly or config.begin_epoch < recipe.epochs,
        f"begin_epoch: expected under {recipe.epochs}, got {config.begin_epoch}",
    )
    return Friends(config)


def work(config: Config, recipe: Recipe, sizes: Sizes) -> Work:
    """The noise, made once."""
    if not config.friendly:
        return Work()
    predictions = Passes(kind="forward", images=sizes.images)
    descent = Passes(kind="pixels", images=config.steps * sizes.images)
    return Work(passes=(predictions, descent), memory=sizes.pixels)


class Friends(Defense):
    """Adds friendly noise once and random noise to every batch."""

    config: Config

    def start_epoch(self, state: TrainingState) -> TrainingSet:
        """Step 2, once E0 epochs are done; the images stay as they are before and after."""
        if not self.config.friendly or state.epoch != self.config.begin_epoch:
            return state.train
        train, config = state.train, self.config
        generator = state.generator("friendly noise")
        images = torch.rand(train.images.shape, generator=generator).mul_(2).sub_(1)
        images = images.to(train.images.device)
        rows = torch.arange(len(train), device=images.device)

        def add_noise(model: Classifier, part: Tensor) -> Tensor:
            pixels = train.pixels(part)
            noise = friendly_noise(model, pixels, START * images[part], config)
            images[part] = (pixels + noise).clamp_(0, 1)
            applied = (images[part] - pixels).abs().mean((1, 2, 3))
            at_zeta = (noise.abs() >= config.zeta).double().mean((1, 2, 3))
            return torch.stack([applied.double().sum(), at_zeta.sum()])

        parts = rows.split(pass_size(images, gradients=True))
        tally = torch.zeros(len(parts), 2, dtype=torch.double, device=images.device)
        # Steps of at least as many parts as there are threads: each part is one thread's.
        steps = torch.arange(len(parts)).tensor_split(max(1, len(parts) // MOST_THREADS))
        kept = {"images": images, "tally": tally}
        for number in state.long_steps("friendly noise", len(steps), kept):
            first, last = int(steps[number][0]), int(steps[number][-1]) + 1
            tallies = in_parallel(state.model, parts[first:last], add_noise)
            tally[first:last] = torch.stack(tallies)
        mean, share = (tally.sum(0) / len(train)).tolist()
        state.note({"round": "friends", "mean_abs_noise": mean, "share_clipped_at_zeta": share})
        return train.with_images(images)

    def perturb_batch(self, state: TrainingState, images: Tensor, labels: Tensor) -> Tensor:
        """Steps 1 and 3: fresh random noise (B, C, H, W) on the batch; not clipped to [0, 1]."""
        if self.config.random_noise == "none":
            return images
        noise = unit_noise(images.shape, self.config.random_noise, state.generator("random noise"))
        return images + self.config.mu * send(noise, images.device)


def unit_noise(shape: torch.Size, kind: str, generator: torch.Generator) -> Tensor:
    """Noise of a shape, drawn on the CPU: -1 or 1 ("bernoulli"), U(-1, 1) or N(0, 1)."""
    if kind == "gaussian":
        return torch.randn(shape, generator=generator)
    noise = torch.rand(shape, generator=generator) * 2 - 1
    return torch.where(noise < 0, -1.0, 1.0) if kind == "bernoulli" else noise


def friendly_noise(model: Classifier, images: Tensor, start: Tensor, config: Config) -> Tensor:
    """Step 2 for a batch: noise (B, C, H, W), within +-zeta.

    In float32 throughout: in 16 bits the KL of two nearly equal predictions is rounding. The model
    is frozen in eval mode. DivergedError where the descent runs away or meets what is not finite.
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
    # The clamp would make something plausible of any number.
    size = float(noise.abs().mean())
    if not size <= RUNAWAY:
        raise DivergedError(
            f"expected friendly noise of at most {RUNAWAY:g} times the pixels' range before it is "
            f"clipped at zeta, got a mean of {size:g}; lower --noise-learning-rate"
        )
    return noise.clamp(-config.zeta, config.zeta)
