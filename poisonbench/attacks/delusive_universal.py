"""DURP: delusive universal random perturbation, one random pattern a class.

Source      Tao et al., "Better Safe Than Sorry: Preventing Delusive Adversaries with Adversarial
            Training", NeurIPS 2021, section 4 ("P5"); HINT (arXiv 2309.08549), section V-A1.
Code        TLMichael/Delusive-Adversary @ 8f033e0, poison.py.
Goal        untargeted: whoever trains on the images learns the pattern, an easier feature than the
            object.
Cost        one addition; no model.

Given images x with labels y of K classes:

1.  Draw one pattern mu(c) a class c, uniform on [-epsilon, epsilon] in every pixel and channel.
2.  x' <- project(x + mu(y)).

Deviations  the reference's default ball is L2 of radius 0.5; HINT's is L-infinity, for which the
            reference draws uniformly as here. Images are rounded to grey levels, not truncated.
            ``--distribution sign`` (only the ball's corners) and ``gaussian`` (of standard
            deviation epsilon, cut off at the ball) are additions: they are stronger where most
            pixels are black and half of the pattern is clipped away, as on MNIST.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from poisonbench.attacks.base import AttackConfig, AttackTask
from poisonbench.core.settings import Profiles, setting
from poisonbench.core.work import nothing_more
from poisonbench.training.projected_gradient import project_linf

VERSION = 1

PROFILES: Profiles = {"paper": {"mnist": {"epsilon": 76 / 255}}}


@dataclass(frozen=True, kw_only=True)
class Config(AttackConfig):
    """Settings of DURP; the defaults are for CIFAR-10."""

    distribution: Literal["uniform", "sign", "gaussian"] = setting(
        "uniform",
        "uniform: on [-epsilon, epsilon]; sign: -epsilon or epsilon; gaussian: of standard "
        "deviation epsilon, cut off there.",
    )


def craft(task: AttackTask, config: Config) -> Tensor:
    """Poisoned images (P, C, H, W) float32 in [0, 1] for the task's images."""
    # 1. One pattern a class.
    shape = (task.num_classes, *task.images.shape[1:])
    if config.distribution == "gaussian":
        patterns = torch.randn(shape, generator=task.generator).clamp(-1, 1)
    else:
        patterns = torch.rand(shape, generator=task.generator) * 2 - 1
    if config.distribution == "sign":
        patterns = torch.where(patterns < 0, -1.0, 1.0)
    patterns = (config.epsilon * patterns).to(task.images.device)

    # 2. Add it.
    poisons = project_linf(task.images + patterns[task.labels], task.images, config.epsilon)
    task.report(1, 1)
    return poisons


work = nothing_more
