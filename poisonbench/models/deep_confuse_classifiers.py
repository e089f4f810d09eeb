"""The classifiers that DeepConfuse's generators are trained against.

Source      as the generators (``models/generators.py``).
Input       (B, C, H, W) in [0, 1], not normalised; the output is (B, K) logits.
Deviations  for CIFAR-10 the paper prints a network of five convolutions, its code has the VGG-11
            here. Its pools round up and the last one averages, so images need not be 32 x 32.
"""

from torch import nn

from poisonbench.models.generators import check_size, normed, scaled


def cnn(
    channels: int, height: int, width: int, num_classes: int, share: float = 1.0
) -> nn.Sequential:
    """Two 5x5 convolutions and two linear layers; batch norm after each, the logits too.

    ``share`` is of the channels (20, 50 and 500), in (0, 1]. ValueError for images under 16 x 16
    pixels, of which nothing is left.
    """
    check_size("cnn", height, width, 16)
    first, second, hidden = (scaled(count, share) for count in (20, 50, 500))
    rows, columns = (((side - 4) // 2 - 4) // 2 for side in (height, width))
    return nn.Sequential(
        *normed(nn.Conv2d(channels, first, 5)),
        nn.AvgPool2d(2),
        *normed(nn.Conv2d(first, second, 5)),
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
    """VGG-11 with batch norm, its 512 features squeezed into two before the last layer.

    ``share`` is of the channels (64 to 512), in (0, 1]. Images may be of any size.
    """
    layers: list[nn.Module] = []
    for stage in ((64,), (128,), (256, 256), (512, 512), (512, 512)):
        for count in stage:
            layers += normed(nn.Conv2d(channels, scaled(count, share), 3, padding=1))
            channels = scaled(count, share)
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
    return nn.Sequential(
        *layers,
        nn.Conv2d(channels, 2, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2, num_classes),
    )
