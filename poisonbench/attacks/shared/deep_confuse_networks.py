"""DeepConfuse's generators of perturbations, and the classifiers that they are trained against.

Source      Feng, Cai and Zhou, "Learning to Confuse: Generating Training Time Adversarial Data with
            Auto-Encoder", NeurIPS 2019; shapes as in kingfengji/DeepConfuse @ 1f49274.
Input       (B, C, H, W) in [0, 1], not normalised. A generator's output has the same shape, in
            [-1, 1]: both end in batch norm and tanh, and the norm keeps tanh from saturating,
            whatever the weights. A classifier's is (B, K) logits.
Width       ``share`` is of the code's channels, in (0, 1].
Deviations  the paper prints an autoencoder of eight 4x4 convolutions for MNIST, its code has the
            one here. Where its strides do not give the input's size back (28 x 28 they do), the
            last map is resized. The U-Net upsamples to the size of the map that it joins, so
            sizes that are no multiple of 8 work. For CIFAR-10 the paper prints a classifier of five
            convolutions, its code has the VGG-11 here; its pools round up and the last one
            averages, so images need not be 32 x 32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Autoencoder(nn.Module):
    """Two strided convolutions down, three transposed ones up; 289,000 parameters.

    ValueError for images under 16 x 16 pixels, which leave nothing to pool.
    """

    def __init__(self, channels: int, height: int, width: int, share: float = 1.0) -> None:
        super().__init__()
        _check_size("autoencoder", height, width, 16)
        first, second, third = (_scaled(count, share) for count in (16, 64, 128))
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

    ValueError for images under 8 x 8 pixels, which vanish in the three pools.
    """

    def __init__(self, channels: int, height: int, width: int, share: float = 1.0) -> None:
        super().__init__()
        _check_size("unet", height, width, 8)
        first, second, third, fourth = (_scaled(count, share) for count in (64, 128, 256, 512))
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


def cnn(
    channels: int, height: int, width: int, num_classes: int, share: float = 1.0
) -> nn.Sequential:
    """Two 5x5 convolutions and two linear layers; batch norm after each, the logits too.

    ValueError for images under 16 x 16 pixels, of which nothing is left.
    """
    _check_size("cnn", height, width, 16)
    first, second, hidden = (_scaled(count, share) for count in (20, 50, 500))
    rows, columns = (((side - 4) // 2 - 4) // 2 for side in (height, width))
    return nn.Sequential(
        *_normed(nn.Conv2d(channels, first, 5)),
        nn.AvgPool2d(2),
        *_normed(nn.Conv2d(first, second, 5)),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(second * rows * columns, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, num_classes),
        nn.BatchNorm1d(num_classes),
    )


def vgg11(
    channels: int, height: int, width: int, num_classes: int, share: float = 1.0
) -> nn.Sequential:
    """VGG-11 with batch norm, its 512 features squeezed into two before the last layer."""
    layers: list[nn.Module] = []
    for stage in ((64,), (128,), (256, 256), (512, 512), (512, 512)):
        for count in stage:
            layers += _normed(nn.Conv2d(channels, _scaled(count, share), 3, padding=1))
            channels = _scaled(count, share)
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
    return nn.Sequential(
        *layers,
        nn.Conv2d(channels, 2, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2, num_classes),
    )


def _scaled(count: int, share: float) -> int:
    """A number of channels at a share of its full width, at least 1."""
    return max(1, round(count * share))


def _normed(layer: nn.Conv2d | nn.ConvTranspose2d) -> tuple[nn.Module, ...]:
    """A convolution with batch norm and ReLU."""
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
    """Raise ValueError where a side of the images has fewer pixels than a network needs."""
    if height < least or width < least:
        raise ValueError(
            f"{name}: expected images of at least {least} x {least} pixels, got {height} x {width}"
        )
