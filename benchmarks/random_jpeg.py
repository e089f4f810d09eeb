"""Random JPEG: a control, what `ueraser:lite-jpeg` does without UEraser's augmentations.

    poisonbench defend --plugin benchmarks/random_jpeg.py --method random-jpeg ...

Source      none: beside `jpeg`, which encodes every image once, at one quality, and beside
            `ueraser:lite` it shows what of `ueraser:lite-jpeg` is of the random qualities alone.

Algorithm  for every batch, after crop and flip: each image is encoded and decoded at a quality
           drawn uniformly between two, and fitted there
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from poisonbench.core.settings import BaseConfig, require, setting
from poisonbench.defenses.base import Defense, TrainingState
from poisonbench.defenses.shared.jpeg_codec import decoded
from poisonbench.entries import DefenseEntry

ENTRY = DefenseEntry(
    "random-jpeg",
    "control: trains on a JPEG of each image, of a random quality",
    when="beside ueraser:lite-jpeg, to see what the augmentations do",
    cost="a fifth more, all of it on the CPU",
)

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Config(BaseConfig):
    """Settings of the control."""

    lowest: int = setting(10, "Lowest JPEG quality.", low=1, high=100)
    highest: int = setting(99, "Highest JPEG quality.", low=1, high=100)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.lowest <= self.highest,
            f"highest: expected at least {self.lowest}, the lowest, got {self.highest}",
        )


class RandomJpeg(Defense):
    """Fits every batch on JPEGs of its images."""

    config: Config

    def perturb_batch(self, state: TrainingState, images: Tensor, labels: Tensor) -> Tensor:
        """The batch (B, C, H, W), each image at its own quality."""
        ends = self.config.lowest, self.config.highest + 1
        drawn = torch.randint(*ends, (len(images),), generator=state.generator("qualities"))
        return decoded(images, drawn)


build = RandomJpeg
