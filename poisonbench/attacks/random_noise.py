"""Random noise: the control beside a targeted attack, whose success it must not have.

Source      none; Geiping et al. and others report such a control.
Goal        none: what happens to the target without an attack, on images that differ as much.

1.  Draw epsilon or -epsilon for every pixel of every poison, each as likely.

Deviations  none: it is this project's.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from poisonbench.attacks.base import AttackConfig, TargetedTask
from poisonbench.core.settings import Profiles, setting
from poisonbench.core.work import nothing_more

VERSION = 1

PROFILES: Profiles = {
    "paper": {"mnist": {"epsilon": 76 / 255}, "mnist-sample": {"epsilon": 64 / 255}}
}


@dataclass(frozen=True, kw_only=True)
class Config(AttackConfig):
    """Settings of the control."""

    epsilon: float = setting(16 / 255, "L-infinity budget, in pixels of [0, 1].", over=0, high=1)


def craft(task: TargetedTask, config: Config) -> Tensor:
    """Noisy images (T, P, C, H, W) in [0, 1]."""
    shape = task.images.shape[1:]
    signs = torch.stack(
        [torch.randint(0, 2, shape, generator=generator) for generator in task.generators]
    ).to(task.images)
    noisy = task.images + config.epsilon * (2 * signs - 1)
    task.report(1, 1)
    return noisy.clamp(0, 1)


work = nothing_more
