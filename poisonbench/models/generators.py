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

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Autoencoder(nn.Module):
    """Two strided convolutions down, three transposed ones up; 289,000 parameters.

    ``share`` is of the code's channels (16, 64 and 128), in (0, 1]. ValueError for images under
    16 x 16 pixels, which leave nothing to pool.
    """

    def __init__(self, channels: int, height: int, width: int, share: float = 1.0) -> None:
        super().__init__()
        check_size("autoencoder", height, width, 16)
        first, second, third = (scaled(count, share) for count in (16, 64, 128))
        self.layers = nn.Sequential(
            *normed(nn.Conv2d(channels, first, 3, stride=3, padding=1)),
            nn.MaxPool2d(2),
            *normed(nn.Conv2d(first, second, 3, stride=2, padding=1)),
            nn.MaxPool2d(2, stride=1),
            *normed(nn.ConvTranspose2d(second, third, 3, stride=2)),
            *normed(nn.ConvTranspose2d(third, second, 5, stride=3, padding=1)),
            nn.ConvTranspose2d(second, channels, 2, stride=2, padding=1),
        )
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to (B, C, H, W) in [-1, 1]."""
        return torch.tanh(self.norm(_resized(self.layers(images), images)))


class UNet(nn.Module):
    """Three levels of double convolutions with skip connections; 7.79 million parameters.

    ``share`` is of the code's channels (64 to 512), in (0, 1]. ValueError for images under 8 x 8
    pixels, which vanish in the three pools.
    """

    def __init__(self, channels: int, height: int, width: int, share: float = 1.0) -> None:
        super().__init__()
        check_size("unet", height, width, 8)
        first, second, third, fourth = (scaled(count, share) for count in (64, 128, 256, 512))
        down = (channels, first), (first, second), (second, third), (third, fourth)
        up = (fourth + third, third), (third + second, second), (second + first, first)
        self.down = nn.ModuleList(_double(*widths) for widths in down)
        self.up = nn.ModuleList(_double(*widths) for widths in up)
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


def normed(layer: nn.Conv2d | nn.ConvTranspose2d) -> tuple[nn.Module, ...]:
    """A convolution with batch norm and ReLU."""
    return layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU()


def _double(width_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        *normed(nn.Conv2d(width_in, width, 3, padding=1)),
        *normed(nn.Conv2d(width, width, 3, padding=1)),
    )


def _resized(maps: Tensor, like: Tensor) -> Tensor:
    """The maps (B, F, h, w) at the height and width of another tensor (B, ?, H, W)."""
    if maps.shape[2:] == like.shape[2:]:
        return maps
    return F.interpolate(maps, size=like.shape[2:], mode="bilinear", align_corners=True)


def check_size(name: str, height: int, width: int, least: int) -> None:
    """Raise ValueError where a side of the images has fewer pixels than a network needs."""
    if height < least or width < least:
        raise ValueError(
            f"{name}: expected images of at least {least} x {least} pixels, got {height} x {width}"
        )
