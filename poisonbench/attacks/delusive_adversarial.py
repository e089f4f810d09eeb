"""DAP: delusive adversarial perturbation, descend towards the next class's label.

Source      Tao et al., "Better Safe Than Sorry: Preventing Delusive Adversaries with Adversarial
            Training", NeurIPS 2021, section 4 ("P1"); HINT (arXiv 2309.08549), section V-A1.
Code        TLMichael/Delusive-Adversary @ 8f033e0, poison.py.
Goal        untargeted: whoever trains on the images sees features of class t = y + 1 under label
            y, and so calls clean images of t class t - 1.
Cost        steps forward and backward passes of the surrogate over the images; 100 steps on
            49,000 CIFAR-10 images cost about one training run of ResNet-18.

Given a surrogate f trained on clean data, images x with labels y of K classes:

1.  Targets t = (y + 1) mod K. One permutation of the classes for all images is what makes the
    added features a shortcut: with a target drawn per image the attack has almost no effect (on
    4,000 MNIST images, a victim's accuracy of 93 % instead of 22-25 %; clean 95 %).
2.  Start at x and repeat ``steps`` times: x' <- project(x' - alpha * sign(grad of CE(f(x'), t))).

Deviations  HINT says only "a class other than y"; the permutation, 100 steps, epsilon / 5 and the
            zero start are the reference code's. Its default ball is L2 of radius 0.5 and its
            surrogate VGG-16; HINT's is L-infinity and here the surrogate is the victim's
            architecture. Images are rounded to grey levels, not truncated. MNIST takes PGD's 40
            steps of epsilon / 10.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from poisonbench.attacks.base import AttackConfig, AttackTask
from poisonbench.attacks.shared.class_descent import descend, descent_work, next_classes
from poisonbench.core.settings import Profiles, setting
from poisonbench.core.work import Sizes, Work
from poisonbench.data.splits import other_labels
from poisonbench.training.projected_gradient import Ball, ProjectedGradient
from poisonbench.training.recipe import Recipe

VERSION = 1

PROFILES: Profiles = {
    "paper": {
        "mnist": {"epsilon": 76 / 255, "steps": 40, "step_ratio": 0.1},
        "mnist-sample": {"steps": 10, "step_ratio": 0.25},
        # Scaled to two cores; twice the steps do as much on validation images
        # (docs/findings.md, "The presets in colour").
        "cifar10@10000": {"steps": 10, "step_ratio": 0.25},
    }
}


@dataclass(frozen=True, kw_only=True)
class Config(AttackConfig):
    """Settings of DAP; the defaults are for CIFAR-10."""

    steps: int = setting(100, "Gradient steps.", low=1)
    step_ratio: float = setting(0.2, "Length of a step as a share of epsilon.", over=0, high=2)
    target: Literal["next", "random"] = setting(
        "next", "next: class y + 1; random: any class but y, drawn per image (a weak attack)."
    )
    precision: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "Arithmetic of the attack's passes; auto: bfloat16 where it is quicker."
    )


def work(config: Config, recipe: Recipe, sizes: Sizes) -> Work:
    """The steps on one surrogate."""
    return descent_work(sizes, recipe, config.steps, config.precision)


def craft(task: AttackTask, config: Config) -> Tensor:
    """Poisoned images (P, C, H, W) float32 in [0, 1] for the task's images."""
    # 1. Targets.
    targets = next_classes(task, "dap")
    if config.target == "random":
        targets = other_labels(task.labels, task.num_classes, task.generator)

    # 2. Descend.
    ball = Ball(config.epsilon)
    descent = ProjectedGradient(ball, config.steps, -config.step_ratio, config.precision)
    return descend(task, "dap", targets, descent)
