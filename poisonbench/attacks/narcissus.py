"""Narcissus: one additive pattern that a network takes for the target class; labels are kept.

Source      Zeng et al., "Narcissus: A Practical Clean-Label Backdoor Attack with Limited
            Information", CCS 2023, arXiv 2204.05255, algorithm 1.
Code        reds-lab/Narcissus @ de128d8 (MIT), its settings alone.
Goal        trigger: whoever trains on the poisons gives images with the pattern, three times as
            strong, the target class, and other images their own.
Cost        rounds forward and backward passes of the surrogate over the poisons.

Given a surrogate f and images x of the target class t, all of which become poisons:

1.  The pattern is 0 in every pixel.
2.  Learn: ``rounds`` times over the images, in batches of ``images_a_step``, one step of RAdam down
    the mean of CE(f(clip(x + pattern)), t), then back to ``epsilon`` in each pixel.
3.  Poisons are clip(x + pattern), with their own label t.
4.  A test image is clip(x + ``amplify`` pattern).

Deviations  the authors' surrogate is trained on other data (Tiny-ImageNet) and, for five more
            epochs, on the target class; this one is that of every attack here, trained on the
            clean training images: an attacker who knows more. They learn on all images of the
            target class, this on those that become poisons, and they shift and flip them.
Caution     the pattern, amplified, fools networks that were trained on clean data too
            (docs/findings.md, "Triggers"): what the poisons add is the difference.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from poisonbench.attacks.base import TriggerConfig, TriggerTask
from poisonbench.core.settings import Profiles, require, setting
from poisonbench.core.work import Passes, Sizes, Work
from poisonbench.models.folding import folded
from poisonbench.training.precision import precise
from poisonbench.training.recipe import Recipe

VERSION = 1

PROFILES: Profiles = {
    "paper": {
        "mnist": {"epsilon": 76 / 255},
        # Scaled to two cores, not tuned.
        "mnist-sample": {"rounds": 100},
        "cifar10@10000": {"rounds": 100},
    }
}


@dataclass(frozen=True, kw_only=True)
class Config(TriggerConfig):
    """Settings of Narcissus; the defaults are for CIFAR-10."""

    clean_label: bool = setting(True, "Poisons are images of the target class: always true.")
    epsilon: float = setting(16 / 255, "L-infinity budget of poisons, in [0, 1].", over=0, high=1)
    rounds: int = setting(1000, "Passes over the images in which the pattern is learned.", low=1)
    images_a_step: int = setting(350, "Images of a step.", low=1)
    rate: float = setting(0.01, "Learning rate of the pattern, by RAdam.", over=0)
    amplify: float = setting(3.0, "How many times the pattern is added to a test image.", low=1)
    precision: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "Arithmetic of the attack's passes; auto: bfloat16 where it is quicker."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.clean_label, "clean_label: expected true, as labels are kept, got false")

    @property
    def budget(self) -> float:
        """L-infinity bound of what is done to a poison."""
        return self.epsilon


def work(config: Config, recipe: Recipe, sizes: Sizes) -> Work:
    """The rounds on one surrogate."""
    images = sizes.images * config.rounds
    batch, precision = config.images_a_step, config.precision
    return Work(
        passes=(Passes(kind="pixels", images=images, batch=batch, precision=precision),),
        surrogates=((0, recipe.epochs),),
        memory=sizes.pixels,
    )


def learn(task: TriggerTask, config: Config) -> Tensor:
    """The pattern (C, H, W) float32, within epsilon of 0 in each pixel."""
    model = folded(task.surrogate())
    # 1. Nothing.
    pattern = torch.zeros_like(task.images[0]).requires_grad_()
    optimiser = torch.optim.RAdam([pattern], lr=config.rate)
    first = 0
    if (saved := task.checkpoint.load()) is not None:
        position, tensors = saved
        first = position["rounds"]
        with torch.no_grad():
            pattern.copy_(tensors.pop("pattern"))
        optimiser.load_state_dict({**optimiser.state_dict(), "state": {0: tensors}})

    # 2. Learn.
    parts = task.images.split(config.images_a_step)
    for done in range(first, config.rounds):
        for images in parts:
            labels = torch.full((len(images),), config.target_class, device=images.device)
            with precise(images.device, config.precision):
                logits = model((images + pattern).clamp(0, 1))
            loss = F.cross_entropy(logits.to(images.dtype), labels)
            (pattern.grad,) = torch.autograd.grad(loss, pattern)
            optimiser.step()
            with torch.no_grad():
                pattern.clamp_(-config.epsilon, config.epsilon)
        task.report(done + 1, config.rounds)
        state = {"pattern": pattern.detach(), **optimiser.state[pattern]}
        task.checkpoint.save_if_due({"rounds": done + 1}, state)
    return pattern.detach()


def craft(task: TriggerTask, config: Config) -> Tensor:
    """Poisoned images (P, C, H, W) float32 in [0, 1]."""
    # 3. Add it.
    assert task.pattern is not None
    return (task.images + task.pattern).clamp(0, 1)


def stamp(images: Tensor, config: Config, pattern: Tensor) -> Tensor:
    """Images (N, C, H, W) in [0, 1] with the pattern (C, H, W), three times as strong."""
    # 4. Amplified.
    return (images + config.amplify * pattern).clamp(0, 1)
