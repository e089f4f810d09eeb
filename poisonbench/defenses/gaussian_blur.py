"""Gaussian blur: train on images that went through a Gaussian filter.

Paper      "Gaussian smoothing" of Liu, Zhao, Larson, "Image Shortcut Squeezing" (ISS), ICML 2023.
Reference  liuzrcc/ImageShortcutSqueezing @ 005d653 (torchvision's ``GaussianBlur(3, sigma=0.1)``;
           it has no licence: only its behaviour is reproduced).
Library    Kornia's filter, with reflected borders as torchvision has them.
Cost       seconds, once.

Algorithm  filter every training image by a Gaussian of the given size, before the first epoch

Settings   the paper's size, 3 pixels, and a deviation of one pixel. ISS and APBench take 0.1
           (``--sigma 0.1``), at which a neighbour weighs e^-50: the images come out as they went
           in, so their columns of that name are plain training.
Deviations that one.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from poisonbench.core.settings import BaseConfig, require, setting
from poisonbench.core.work import nothing_more
from poisonbench.data.splits import pixels_of
from poisonbench.defenses.shared.squeezing import PASS, Squeezing

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Config(BaseConfig):
    """The filter's shape."""

    sigma: float = setting(1.0, "Standard deviation, in pixels.", over=0, high=100)
    kernel_size: int = setting(3, "Pixels along a side of the filter, odd.", low=3, high=15)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.kernel_size % 2 == 1,
            f"kernel_size: expected an odd number, got {self.kernel_size}",
        )


class GaussianBlur(Squeezing):
    """Filters the images."""

    config: Config
    name = "gaussian-blur"

    def squeezed(self, images: Tensor) -> Tensor:
        """The filtered images, rounded to 8 bits."""
        return torch.cat([self._filtered(part) for part in images.split(PASS)])

    def _filtered(self, images: Tensor) -> Tensor:
        # Kornia takes 0.3 s to import.
        from kornia.filters import gaussian_blur2d

        size, sigma = self.config.kernel_size, self.config.sigma
        filtered: Tensor = gaussian_blur2d(pixels_of(images), (size, size), (sigma, sigma))
        return (filtered * 255).round().clamp(0, 255).to(torch.uint8)


build = GaussianBlur
work = nothing_more
