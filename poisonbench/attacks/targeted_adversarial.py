"""TAP: targeted adversarial poisons, images that a clean model takes for the next class.

Source      Fowl et al., "Adversarial Examples Make Strong Poisons", NeurIPS 2021, class-targeted.
Code        lhfowl/adversarial_poisons @ a1d58d8.
Goal        untargeted: whoever trains on the images sees features of class t = y + 1 under label
            y, and so calls clean images of t class t - 1. DAP (Tao et al.) has the same objective.
Cost        steps x restarts forward and backward passes of the surrogate over the images: 250 x 8
            on 49,000 CIFAR-10 images cost some 17 training runs of ResNet-18.

Given a surrogate f trained on clean data, images x with labels y of K classes:

1.  Targets t = (y + 1) mod K, one permutation of the classes for all images.
2.  Start at x + epsilon N(0, 1), the noise cut off at epsilon, and repeat ``steps`` times:
    x' <- project(x' - alpha * sign(grad of CE(f(a(x')), t))), with a random crop and flip a.
3.  Of the restarts keep, for each image, the end point of the lowest loss.

--against puts a defense in the loop (``attacks/shared/adaptive.py``), before the crop and flip,
though those that draw, friends and ueraser, come after them; restarts are then compared by the
loss behind it, of one draw.

Deviations  crops shift by whole pixels, the code's by fractions. The code chooses among restarts by
            the loss of augmented images, here it is that of the images as they are. Images are
            rounded to grey levels, not truncated. The surrogate is the victim's architecture and is
            trained like a victim. The paper has no grey images: for MNIST there is no crop or flip,
            as its victims have none, and one restart in the steps of PGD there. Presets for a CPU
            take DAP's few long steps, from one random start.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from poisonbench.attacks.base import AttackConfig, AttackTask
from poisonbench.attacks.shared.adaptive import IN_THE_LOOP, assumed_defense, looks_at
from poisonbench.attacks.shared.class_descent import descend, descent_work, next_classes
from poisonbench.core.settings import Profiles, setting
from poisonbench.core.work import Sizes, Work
from poisonbench.training.projected_gradient import Ball, ProjectedGradient
from poisonbench.training.recipe import Recipe

VERSION = 1

PROFILES: Profiles = {
    "paper": {
        "mnist": {
            "epsilon": 76 / 255,
            "steps": 40,
            "step_ratio": 0.1,
            "restarts": 1,
            "augment": "none",
        },
        # Scaled to two cores, not yet tuned on validation images.
        "mnist-sample": {"steps": 20, "step_ratio": 0.125},
        # In colour half the steps do as much there (docs/findings.md, "The presets in colour").
        "cifar10@10000": {"steps": 20, "step_ratio": 0.125, "restarts": 1},
    }
}


@dataclass(frozen=True, kw_only=True)
class Config(AttackConfig):
    """Settings of TAP; the defaults are for CIFAR-10."""

    steps: int = setting(250, "Gradient steps.", low=1)
    step_ratio: float = setting(0.05, "Length of a step as a share of epsilon.", over=0, high=2)
    restarts: int = setting(8, "Random starts; the lowest loss is kept, image by image.", low=1)
    augment: Literal["none", "crop-flip"] = setting(
        "crop-flip", "Differentiate through a random crop and flip at each step."
    )
    precision: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "Arithmetic of the attack's passes; auto: bfloat16 where it is quicker."
    )
    against: Literal[
        "none", "jpeg", "jpeg:10", "grayscale", "friends", "ueraser", "ueraser:lite-jpeg", "hint"
    ] = setting("none", IN_THE_LOOP, extension=True)


def work(config: Config, recipe: Recipe, sizes: Sizes) -> Work:
    """The steps of all restarts on one surrogate."""
    passes = config.steps * config.restarts * looks_at(config.against)
    return descent_work(sizes, recipe, passes, config.precision)


def craft(task: AttackTask, config: Config) -> Tensor:
    """Poisoned images (P, C, H, W) float32 in [0, 1] for the task's images."""
    # 1. Targets.
    targets = next_classes(task, "tap")

    # 2, 3. Descend from each start, keep the best.
    ball = Ball(config.epsilon)
    return descend(
        task,
        "tap",
        targets,
        ProjectedGradient(ball, config.steps, -config.step_ratio, config.precision),
        restarts=config.restarts,
        random_start=True,
        augment=config.augment == "crop-flip",
        defense=assumed_defense(config.against, task.assumed, task.generator),
    )
