"""The HINT paper's MNIST network: two convolutions with batch norm and one linear layer.

Source      minhhao97vn/HINT @ f58a718, models.py ``ConvNet``; the paper prints no architecture.
Input       (B, C, H, W); 1 x 28 x 28 gives 1,600 features and 117,430 parameters with 10 classes.
Deviations  other image sizes are accepted: the head's input follows from them.
"""

from torch import nn


def features(channels: int, height: int, width: int) -> tuple[nn.Module, int]:
    """The layers before the head, and how many features F they give.

    Images under 16 x 16 pixels leave nothing after two 5x5 convolutions and pools: ValueError.
    """
    if height < 16 or width < 16:
        raise ValueError(f"expected images of at least 16 x 16 pixels, got {height} x {width}")
    layers = nn.Sequential(
        nn.Conv2d(channels, 40, kernel_size=5),
        nn.BatchNorm2d(40),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(40, 100, kernel_size=5),
        nn.BatchNorm2d(100),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
    )
    rows, columns = (((side - 4) // 2 - 4) // 2 for side in (height, width))
    return layers, 100 * rows * columns
