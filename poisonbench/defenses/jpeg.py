"""JPEG: store the training images as JPEG and train on what is left of them.

Source     the compression of Das et al., "Keeping the Bad Guys Out: Protecting and Vaccinating Deep
           Learning with JPEG Compression", 2017 (for images at test time); as a defense against
           poisons it is a baseline of PureGen (Bhat et al., arXiv 2405.18627), where it does better
           than EPIC and as well as FRIENDS, and the strongest filter of ISS (Liu et al., "Image
           Shortcut Squeezing: Countering Perturbative Availability Poisons with Compression", ICML
           2023).
Library    Pillow's encoder and decoder (libjpeg-turbo).
Cost       seconds, once.

Algorithm  encode and decode every training image at the given quality before the first epoch, and
           train on the result

Settings   PureGen tries qualities 25, 50, 75 and 85; lower removes more of a perturbation and of
           the image. 75 is also Pillow's own default. ISS and APBench take 10 (``--quality 10``),
           at which clean CIFAR-10 falls to 85 %.
Deviations none. Colours are at half the resolution (4:2:0), as encoders do by default; images of
           other than three channels are encoded channel by channel, as grey.
"""

import io
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from poisonbench.core.settings import BaseConfig, setting
from poisonbench.core.work import nothing_more
from poisonbench.defenses.shared.squeezing import Squeezing

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Config(BaseConfig):
    """The encoder's settings."""

    quality: int = setting(75, "JPEG quality.", low=1, high=95)


class Jpeg(Squeezing):
    """Re-encodes the training images."""

    config: Config
    name = "jpeg"

    def squeezed(self, images: Tensor) -> Tensor:
        """The images, encoded and decoded on the CPU."""
        return reencoded(images.cpu(), self.config.quality).to(images.device)


def reencoded(images: Tensor, quality: int) -> Tensor:
    """Images (N, C, H, W) uint8, on the CPU, after encoding and decoding each by itself."""
    has_colours = images.shape[1] == 3
    pixels = images.permute(0, 2, 3, 1) if has_colours else images.flatten(0, 1)
    # One by one: the codec is a library's, and has no batches.
    decoded = [round_trip(image, quality) for image in pixels.contiguous().numpy()]
    result = torch.from_numpy(np.stack(decoded))
    return result.permute(0, 3, 1, 2).contiguous() if has_colours else result.view(images.shape)


def round_trip(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """One image, (H, W) grey or (H, W, 3) red, green and blue, encoded and decoded."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="JPEG", quality=quality)
    with Image.open(stream) as decoded:
        return np.asarray(decoded)


build = Jpeg
work = nothing_more
