"""Networks that turn an image into a perturbation of it, in [-1, 1]: DeepConfuse's generators.

Source      Feng, Cai and Zhou, "Learning to Confuse: Generating Training Time Adversarial Data with
            Auto-Encoder", NeurIPS 2019; shapes as in kingfengji/DeepConfuse @ 1f49274.
Input       (B, C, H, W) in [0, 1], not normalised; the output has the same shape. Both end in batch
            norm and tanh: the norm keeps tanh from saturating, whatever the weights.
Deviations  the paper prints an autoencoder of eight 4x4 convolutions for MNIST, its code has the
            one here. Where its strides do not give the input's size back (28 x 28 they do), the
            last map is resized. The U-Net upsamples to the size of the map that it joins, so
            sizes that are no multiple of 8 work.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Autoencoder(nn.Module):
    """Two strided convolutions down, three transposed ones up; 289,000 parameters.

    Args:
        channels: C of the images.
        height: H, at least 16.
        width: W, at least 16.
        share: of the code's channels (16, 64 and 128), in (0, 1].

    Raises:
        ValueError: smaller images leave nothing to pool.
    """

    def __init__(self, channels: int, height: int, width: int, share: float = 1.0) -> None:
        super().__init__()
        _check_size("autoencoder", height, width, 16)
        first, second, third = (scaled(count, share) for count in (16, 64, 128))
        self.layers = nn.Sequential(
            *_normed(nn.Conv2d(channels, first, 3, stride=3, padding=1)),
            nn.MaxPool2d(2),
            *_normed(nn.Conv2d(first, second, 3, stride=2, padding=1)),
            nn.MaxPool2d(2, stride=1),
            *_normed(nn.ConvTranspose2d(second, third, 3, stride=2)),
            *_normed(nn.ConvTranspose2d(third, second, 5, stride=3, padding=1)),
            nn.ConvTranspose2d(second, channels, 2, stride=2, padding=1),
        )
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to (B, C, H, W) in [-1, 1]."""
        return torch.tanh(self.norm(_resized(self.layers(images), images)))


class UNet(nn.Module):
    """Three levels of double convolutions with skip connections; 7.79 million parameters.

    Args:
        channels: C of the images.
        height: H, at least 8.
        width: W, at least 8.
        share: of the code's channels (64 to 512), in (0, 1].

    Raises:
        ValueError: smaller images vanish in the three pools.
    """

    def __init__(self, channels: int, height: int, width: int, share: float = 1.0) -> None:
        super().__init__()
        _check_size("unet", height, width, 8)
        first, second, third, fourth = (scaled(count, share) for count in (64, 128, 256, 512))
        self.down = nn.ModuleList(
            (
                _double(channels, first),
                _double(first, second),
                _double(second, third),
                _double(third, fourth),
            )
        )
        self.up = nn.ModuleList(
            (
                _double(fourth + third, third),
                _double(third + second, second),
                _double(second + first, first),
            )
        )
        self.last = nn.Conv2d(first, channels, 1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to (B, C, H, W) in [-1, 1]."""
        maps = [self.down[0](images)]
        for level in self.down[1:]:
            maps.append(level(F.avg_pool2d(maps[-1], 2)))
        out = maps.pop()
        for level in self.up:
            skipped = maps.pop()
            out = level(torch.cat((_resized(out, skipped), skipped), dim=1))
        return torch.tanh(self.norm(self.last(out)))


def scaled(count: int, share: float) -> int:
    """A number of channels at a share of its full width, at least 1."""
    return max(1, round(count * share))


def _normed(layer: nn.Conv2d | nn.ConvTranspose2d) -> tuple[nn.Module, ...]:
    return layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU()


def _double(width_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        *_normed(nn.Conv2d(width_in, width, 3, padding=1)),
        *_normed(nn.Conv2d(width, width, 3, padding=1)),
    )


def _resized(maps: Tensor, like: Tensor) -> Tensor:
    """The maps (B, F, h, w) at the height and width of another tensor (B, ?, H, W)."""
    if maps.shape[2:] == like.shape[2:]:
        return maps
    return F.interpolate(maps, size=like.shape[2:], mode="bilinear", align_corners=True)


def _check_size(name: str, height: int, width: int, least: int) -> None:
    if height < least or width < least:
        raise ValueError(
            f"{name}: expected images of at least {least} x {least} pixels, got {height} x {width}"
        )
