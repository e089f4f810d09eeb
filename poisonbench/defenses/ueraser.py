"""UEraser: train on strong augmentations of each image, of several the one of the largest loss.

Paper      Qin, Gao, Zhao, Ye, Xu, "Learning the Unlearnable: Adversarial Augmentations Suppress
           Unlearnable Example Attacks", ICCV AROW 2023, Algorithm 1.
Reference  lafeat/ueraser @ 6076a27 (no licence: only its behaviour is reproduced); lafeat/apbench @
           9a6fb91, MIT.
Cost       while ``draws`` are compared, ``draws`` forward passes an image more and as many
           augmentations: with five 3.3 to 3.7 times plain training, so "full" twice; "lite", which
           augments alone, 1.2 to 1.8 times (one thread, cifar-small and mnist-cnn), "lite-jpeg" a
           fifth more, all of it on the CPU.

Algorithm  for every batch, after crop and flip (numbers reappear below)
  1  make ``draws`` augmentations of each image: plasma brightness and plasma contrast, a shuffle of
     the channels, each on a share of the images, then an operation of TrivialAugment
     (shared/plasma.py, shared/trivial_augment.py)
  2  of each image take the one at which the network's cross-entropy is largest
  3  fit the batch there

Forms      "full" compares draws in the first 60 of 200 epochs (as a share of the run's) and then
           takes one; "lite" always takes one; "max" always compares (UEraser, -lite, -max).
           APBench runs "max" at probability 1. "lite-jpeg", an extension, is "lite" of a JPEG of
           each image, of a random quality: APBench's code (@ ca7e688) has one before the
           augmentations for two attacks, TAP and AR, which a defender is not told, with one quality
           a batch, whose images are encoded as one picture; later commits drop the result.
Deviations The reference goes back through all draws in one batch; only those of the largest loss
           have a gradient, so here the choice is a forward pass over all draws, with the batch
           statistics of all as there, and the step is on the chosen ones alone, whose statistics
           the running ones then are. On grey images there is no channel to shuffle.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from poisonbench.core.devices import send
from poisonbench.core.settings import BaseConfig, require, setting
from poisonbench.core.work import Passes, Sizes, Work
from poisonbench.defenses.base import Defense, Recipe, TrainingState
from poisonbench.defenses.shared.jpeg_codec import decoded
from poisonbench.defenses.shared.plasma import plasma
from poisonbench.defenses.shared.trivial_augment import trivial_augment
from poisonbench.models.classifier import Classifier
from poisonbench.training.precision import autocast, network_precision

VERSION = 1

#: Ranges of plasma's roughness, and of how much it brightens.
ROUGHNESS = (0.3, 0.7)
INTENSITY = (0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class Config(BaseConfig):
    """UEraser's settings; the defaults are the paper's."""

    form: Literal["full", "lite", "max", "lite-jpeg"] = setting(
        "full",
        "When draws are compared: in the first epochs, never, always; lite-jpeg never, and makes "
        "them of a JPEG of each image.",
    )
    draws: int = setting(5, "Augmentations of an image that are compared.", low=2)
    full_share: float = setting(
        0.3, "Share of the epochs in which the form full compares.", low=0, high=1
    )
    probability: float = setting(
        0.5, "Share of the images that each of the first three augmentations is of.", low=0, high=1
    )
    qualities: tuple[int, ...] = setting(
        (10, 99),
        "Lowest and highest JPEG quality that lite-jpeg draws for each image of a batch.",
        low=1,
        high=100,
        extension=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            len(self.qualities) == 2 and self.qualities[0] <= self.qualities[1],
            f"qualities: expected the lowest and the highest, such as 10,99, got {self.qualities}",
        )
        require(
            self.form == "lite-jpeg" or self.qualities == (10, 99),
            f"qualities: expected them with form lite-jpeg, got form {self.form}; leave them out",
        )


def work(config: Config, recipe: Recipe, sizes: Sizes) -> Work:
    """The forward passes over the draws."""
    epochs = sum(num_draws(config, epoch, recipe.epochs) > 1 for epoch in range(recipe.epochs))
    images = epochs * sizes.images * config.draws
    batch = recipe.batch_size * config.draws
    return Work(
        passes=(Passes(kind="forward", images=images, batch=batch, precision=recipe.precision),)
        if images
        else ()
    )


class UEraser(Defense):
    """Fits every batch on augmentations, where they are compared on the hardest."""

    config: Config
    recipe: Recipe

    def perturb_batch(self, state: TrainingState, images: Tensor, labels: Tensor) -> Tensor:
        """The chosen augmentations of the batch (B, C, H, W)."""
        draws = num_draws(self.config, state.epoch, self.recipe.epochs)
        generator, probability = state.generator("augmentations"), self.config.probability
        if self.config.form == "lite-jpeg":
            images = decoded(images, draw_qualities(self.config, len(images), generator))
        # 1 augmentations
        candidates = torch.stack([augmented(images, probability, generator) for _ in range(draws)])
        if draws == 1:
            return candidates[0]
        # 2 the largest loss
        losses = draw_losses(state.model, candidates, labels, self.recipe.precision)
        # 3 fit there
        return candidates[losses.argmax(0), torch.arange(len(images), device=images.device)]


def num_draws(config: Config, epoch: int, epochs: int) -> int:
    """How many augmentations of an image are made in an epoch, from 0, of so many."""
    compares = config.form == "max" or (
        config.form == "full" and epoch < round(config.full_share * epochs)
    )
    return config.draws if compares else 1


def draw_losses(model: Classifier, candidates: Tensor, labels: Tensor, precision: str) -> Tensor:
    """Cross-entropy (D, B) of candidates (D, B, C, H, W) at labels (B,), in train mode.

    Batch norm takes the statistics of all of them together; the model's running ones stay.
    """
    draws, images = len(candidates), candidates.flatten(0, 1)
    images = images.contiguous(memory_format=torch.channels_last)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    device = images.device
    with torch.no_grad(), autocast(device, network_precision(device, precision)):
        logits: Tensor = functional_call(model, buffers, (images,))
    losses = F.cross_entropy(logits.float(), labels.repeat(draws), reduction="none")
    return losses.view(draws, -1)


def draw_qualities(config: Config, count: int, generator: torch.Generator) -> Tensor:
    """JPEG qualities (B,) int64 of so many images, uniform between the two, inclusive."""
    low, high = config.qualities
    return torch.randint(low, high + 1, (count,), generator=generator)


def augmented(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Step 1 for one draw: images (B, C, H, W) in [0, 1], float32."""
    count, channels = images.shape[:2]
    device = images.device
    # Drawn on the CPU, so that the numbers of images are known there.
    chances = torch.rand(3, count, generator=generator) < probability
    bright, contrasted, shuffled = (
        send(is_chosen.nonzero().flatten(), device) for is_chosen in chances
    )
    result = images.clone()

    def uniform(shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> Tensor:
        return send(low + (high - low) * torch.rand(shape, generator=generator), device)

    def fields(rows: Tensor) -> Tensor:
        roughness = uniform((len(rows),), *ROUGHNESS)
        return plasma((len(rows), *images.shape[1:]), roughness, uniform)

    if len(bright):
        intensity = uniform((len(bright), 1, 1, 1), *INTENSITY)
        result[bright] = (result[bright] + intensity * (2 * fields(bright) - 1)).clamp(0, 1)
    if len(contrasted):
        centred = result[contrasted] - 0.5
        result[contrasted] = (4 * fields(contrasted) * centred + 0.5).clamp(0, 1)
    if len(shuffled):
        orders = send(torch.rand(len(shuffled), channels, generator=generator).argsort(1), device)
        result[shuffled] = result[shuffled[:, None], orders]
    return trivial_augment(result, generator)


build = UEraser
