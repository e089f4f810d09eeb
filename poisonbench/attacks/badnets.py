"""BadNets: a white square in a corner of the image.

Source      Gu et al., "BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply
            Chain", arXiv 1708.06733; settings of BackdoorBench (arXiv 2206.12654).
Code        SCLBD/BackdoorBench @ f02e353, its configuration alone.
Goal        trigger: whoever trains on the poisons gives every image with the square the target
            class, and other images their own.
Cost        one assignment; no model.

1.  Set the size x size pixels at the lower right corner to 1 in every channel.

Deviations  the square is at the corner of an image of any size, where BackdoorBench's is at rows
            and columns 29 to 31 of 32 and 32. ``--clean-label`` is Turner et al.'s setting (arXiv
            1912.02771) without their perturbations: images of the target class, labels kept.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from poisonbench.attacks.base import TriggerConfig, TriggerTask
from poisonbench.core.errors import UsageError
from poisonbench.core.settings import setting
from poisonbench.core.work import nothing_more

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Config(TriggerConfig):
    """Settings of BadNets."""

    size: int = setting(3, "Side of the square, in pixels.", low=1)


def stamp(images: Tensor, config: Config, generator: torch.Generator) -> Tensor:
    """Images (N, C, H, W) in [0, 1] with the square on them.

    Raises:
        UsageError: the square is larger than the image.
    """
    if config.size > (room := min(images.shape[-2:])):
        raise UsageError(f"--size: expected at most {room}, the image's side, got {config.size}")
    stamped = images.clone()
    stamped[..., -config.size :, -config.size :] = 1
    return stamped


def craft(task: TriggerTask, config: Config) -> Tensor:
    """Poisoned images (P, C, H, W) float32 in [0, 1] for the task's images."""
    poisons = task.stamp(task.images)
    task.report(1, 1)
    return poisons


work = nothing_more
