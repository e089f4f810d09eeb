"""Bit depth: train on images of few levels a channel.

Papers     Xu, Evans, Qi, "Feature Squeezing: Detecting Adversarial Examples in Deep Neural
           Networks", NDSS 2018 (for images at test time); as a defense against poisons "BDR" of
           Liu, Zhao, Larson, "Image Shortcut Squeezing" (ISS), ICML 2023.
Reference  liuzrcc/ImageShortcutSqueezing @ 005d653 (torchvision's ``RandomPosterize(2, p=1)``; it
           has no licence: only its behaviour is reproduced).
Cost       less than a second, once.

Algorithm  keep the highest bits of every training pixel, and set the others to 0, before the first
           epoch: two bits leave the levels 0, 64, 128 and 192

Settings   ISS and APBench keep 2 bits.
Limits     a perturbation survives where it carries a pixel over a level.
Deviations none. As in the reference the levels are not stretched back to 255, so images darken.
"""

from dataclasses import dataclass

from torch import Tensor

from poisonbench.core.settings import BaseConfig, setting
from poisonbench.core.work import nothing_more
from poisonbench.defenses.shared.squeezing import Squeezing

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Config(BaseConfig):
    """What is kept."""

    bits: int = setting(2, "Bits a channel that are kept.", low=1, high=7)


class BitDepth(Squeezing):
    """Drops the lowest bits."""

    config: Config
    name = "bit-depth"

    def squeezed(self, images: Tensor) -> Tensor:
        """The images with their lowest bits set to 0."""
        dropped = 8 - self.config.bits
        return (images >> dropped) << dropped


build = BitDepth
work = nothing_more
