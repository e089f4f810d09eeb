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

from dataclasses import dataclass

from torch import Tensor

from poisonbench.core.settings import BaseConfig, setting
from poisonbench.core.work import nothing_more
from poisonbench.defenses.shared.jpeg_codec import reencoded
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


build = Jpeg
work = nothing_more
