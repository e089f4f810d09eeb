"""Grayscale: train on images without their colours.

Paper      Liu, Zhao, Larson, "Image Shortcut Squeezing: Countering Perturbative Availability
           Poisons with Compression" (ISS), ICML 2023.
Reference  liuzrcc/ImageShortcutSqueezing @ 005d653 (torchvision's ``Grayscale(3)``; it has no
           licence: only its behaviour is reproduced).
Cost       less than a second, once.

Algorithm  replace each pixel of every training image by its luma of ITU-R BT.601, 0.299 R + 0.587 G
           + 0.114 B, in all three channels, before the first epoch

Where      images of three channels: grey ones have no colours to lose and are refused.
Limits     takes away what lies in chrominance, as most noise of EM, REM and DC does; TAP, AR and
           OPS keep their effect (ISS, Table 1).
Deviations none. The arithmetic is Pillow's, in integers.
"""

import torch
from torch import Tensor

from poisonbench.core.settings import BaseConfig
from poisonbench.core.work import nothing_more
from poisonbench.defenses.shared.squeezing import PASS, Squeezing

VERSION = 1

#: Nothing to set.
Config = BaseConfig

#: The weights of red, green and blue in units of 2**-16; together 2**16.
LUMA = (19595, 38470, 7471)


class Grayscale(Squeezing):
    """Replaces colours by their luma."""

    name = "grayscale"

    def squeezed(self, images: Tensor) -> Tensor:
        """The luma, copied to the three channels."""
        return torch.cat([luma(part).expand_as(part) for part in images.split(PASS)])


def luma(images: Tensor) -> Tensor:
    """The luma (N, 1, H, W) of images (N, 3, H, W), both uint8, rounded to the nearest level."""
    red, green, blue = images.int().unbind(1)
    total = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue + 2**15
    return (total >> 16).to(torch.uint8)[:, None]


build = Grayscale
work = nothing_more
