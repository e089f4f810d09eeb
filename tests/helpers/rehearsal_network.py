"""A network of few operations, with none of the kernels that exist for CPUs alone."""

from torch import nn


def features(channels, height, width):
    layers = nn.Sequential(
        nn.Conv2d(channels, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AvgPool2d(4),
        nn.Flatten(),
    )
    return layers, 4 * ((height - 2) // 4) * ((width - 2) // 4)
