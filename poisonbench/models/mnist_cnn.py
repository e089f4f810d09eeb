"""The HINT paper's MNIST network: two convolutions with batch norm and one linear layer.

Source      minhhao97vn/HINT @ f58a718, models.py ``ConvNet``; the paper prints no architecture.
Input       (B, C, H, W); 1 x 28 x 28 gives 1,600 features and 117,430 parameters with 10 classes.
            ``small_features`` is a quarter of it in width, the code's ``ConvNetSmall``, which it
            does not use: 400 features and 10,615 parameters.
Deviations  other image sizes are accepted: the head's input follows from them.
"""

from torch import nn


def features(
    channels: int, height: int, width: int, filters: tuple[int, int] = (40, 100)
) -> tuple[nn.Module, int]:
    """The layers before the head, and how many features F they give.

    Images under 16 x 16 pixels leave nothing after two 5x5 convolutions and pools: ValueError.
    ``filters`` are of the two convolutions.
    """
    if height < 16 or width < 16:
        raise ValueError(f"expected images of at least 16 x 16 pixels, got {height} x {width}")
    first, second = filters
    layers = nn.Sequential(
        nn.Conv2d(channels, first, kernel_size=5),
        nn.BatchNorm2d(first),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(first, second, kernel_size=5),
        nn.BatchNorm2d(second),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
    )
    rows, columns = (((side - 4) // 2 - 4) // 2 for side in (height, width))
    return layers, second * rows * columns


def small_features(channels: int, height: int, width: int) -> tuple[nn.Module, int]:
    """The same in a quarter of the width."""
    return features(channels, height, width, filters=(10, 25))
