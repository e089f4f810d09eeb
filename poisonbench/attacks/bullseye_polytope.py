"""BP: Bullseye Polytope, poisons whose mean feature is the target's.

Source      Aghakhani et al., "Bullseye Polytope: A Scalable Clean-Label Poisoning Attack with
            Improved Transferability", EuroS&P 2021, equation 3; HINT (arXiv 2309.08549), section
            V-A2, crafts it with the code of Witches' Brew.
Code        JonasGeiping/poisoning-gradient-matching @ 90bd7d2, recipe "bullseye";
            ucsb-seclab/BullseyePoison @ 65af294 (``--profile original``).
Goal        targeted: whoever trains a new head on features like the surrogates' classifies the
            target image as the poisons' class.
Cost        steps x restarts x surrogates forward and backward passes over the poisons, without
            gradients of weights. HINT's 490 poisons, 4,000 steps and 8 restarts cost as much as
            215 epochs of ResNet-18 on CIFAR-10 (estimated from a pass's share of a training step).

Given a target t, base images x_1..x_P of the intended class and the features h of a surrogate
trained on clean data:

1.  h(t), once.
2.  Brew delta (:func:`~poisonbench.attacks.shared.targeted_optimiser.optimise_poisons`) on
    ||mean over i of h(x_i + delta_i) - h(t)||^2 / F, summed over the surrogates.
2'. ``--form authors``, of ``--profile original``: Adam from delta = 0 on
    ||mean over i of h(x_i + delta_i) - h(t)||_2 / ||h(t)||_2. A surrogate of larger features weighs
    no more than another. At one surrogate both forms have gradients of one direction, and only the
    optimisers differ.

Deviations  HINT's printed settings are those of step 2, the default. The authors' substitutes are
            six architectures with dropout at three rates; here they are six networks of the
            victim's architecture, without dropout, and features are those of the last layer alone.
            Deviations of brewing apply.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from poisonbench.attacks.base import TargetedTask
from poisonbench.attacks.shared.feature_space import (
    FeatureSpace,
    adam_steps,
    mean_distance,
)
from poisonbench.attacks.shared.targeted_optimiser import (
    DATA_PRESETS,
    BrewingConfig,
    brewing_work,
    optimise_poisons,
    surrogate_models,
)
from poisonbench.core.settings import Profiles, require, setting
from poisonbench.core.work import Sizes, Work
from poisonbench.training.recipe import Recipe

VERSION = 1

PROFILES: Profiles = {
    "paper": DATA_PRESETS,
    "original": {
        "*": {
            "form": "authors",
            "epsilon": 0.1,
            "step_size": 0.04,
            "restarts": 1,
            "surrogates": 6,
            "brew_augment": "none",
        },
        "mnist": {"epsilon": 76 / 255},
        "mnist-sample": {"epsilon": 64 / 255, "steps": 100, "surrogates": 3},
        # Scaled to two cores; twice the steps do little more (docs/findings.md, "The presets in
        # colour").
        "cifar10@10000": {"steps": 250, "surrogates": 2},
    },
}


@dataclass(frozen=True, kw_only=True)
class Config(BrewingConfig):
    """Settings of BP; the defaults are HINT's for CIFAR-10."""

    steps: int = setting(4000, "Gradient steps.", low=1)
    form: Literal["mean", "authors"] = setting(
        "mean",
        "mean: squared distance, brewed; authors: distance relative to the target's norm, by Adam "
        "from the base images.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.form == "mean" or (self.restarts == 1 and self.brew_augment == "none"),
            "form: expected restarts 1 and brew_augment none with authors, which starts at the "
            f"base images, got {self.restarts} and {self.brew_augment}; choose --profile original",
        )


def work(config: Config, recipe: Recipe, sizes: Sizes) -> Work:
    """The steps of all restarts."""
    return brewing_work("pixels", config, recipe, sizes)


def craft(task: TargetedTask, config: Config) -> Tensor:
    """Poisons (T, P, C, H, W) float32 in [0, 1] for the task's targets."""
    # 1. The targets' features.
    space = FeatureSpace(surrogate_models(task, config), task.targets, config.precision)
    # 2.
    if config.form == "mean":
        return optimise_poisons(task, config, space.objective(mean_distance), space.models)
    # 2'.
    return adam_steps(task, config, space.objective(relative_distance), space.models)


def relative_distance(features: Tensor, target: Tensor) -> Tensor:
    """Distance (G,) of the mean of features (G, P, F) from the target's (G, F), over its norm."""
    share: Tensor = (features.mean(1) - target).norm(dim=1) / target.norm(dim=1).clamp(min=1e-12)
    return share
