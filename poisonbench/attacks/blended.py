"""Blended: a fixed pattern, laid faintly over the whole image.

Source      Chen et al., "Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning",
            arXiv 1712.05526; settings of BackdoorBench (arXiv 2206.12654).
Code        SCLBD/BackdoorBench @ f02e353, its configuration alone.
Goal        trigger: whoever trains on the poisons gives every image with the pattern the target
            class, and other images their own.
Cost        one addition; no model.

1.  Draw one pattern p, uniform among the grey levels in every pixel and channel.
2.  x' <- (1 - alpha) x + alpha p, in training and at test alike.

Deviations  the paper's random pattern; BackdoorBench blends a photograph in, which we may not ship.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from poisonbench.attacks.base import TriggerConfig, TriggerTask
from poisonbench.core.settings import setting
from poisonbench.core.work import nothing_more

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Config(TriggerConfig):
    """Settings of Blended."""

    alpha: float = setting(0.2, "Share of the pattern in the image.", over=0, high=1)

    @property
    def budget(self) -> float:
        """L-infinity bound of all that is done to an image, in [0, 1]: black under white."""
        return self.alpha


def stamp(images: Tensor, config: Config, generator: torch.Generator) -> Tensor:
    """Images (N, C, H, W) in [0, 1] under the pattern that the generator draws."""
    # 1. The pattern.
    levels = torch.randint(0, 256, images.shape[1:], generator=generator)
    pattern = (levels.float() / 255).to(images)

    # 2. The blend.
    return (1 - config.alpha) * images + config.alpha * pattern


def craft(task: TriggerTask, config: Config) -> Tensor:
    """Poisoned images (P, C, H, W) float32 in [0, 1] for the task's images."""
    poisons = task.stamp(task.images)
    task.report(1, 1)
    return poisons


work = nothing_more
