"""The AlexNet-like network for CIFAR-10 that feature collision is run against end to end.

Source      Shafahi et al., "Poison Frogs!", NeurIPS 2018, section 4; shape as in
            neeharperi/DeepKNNDefense @ ae19815, folder FeatureCollision_AlexNet, which is that of
            TensorFlow's CIFAR-10 tutorial. Two convolutions with local response normalisation, two
            linear layers, 192 features.
Input       (B, C, H, W); 3 x 32 x 32 gives 192 features and 1,756,426 parameters with 10 classes.
Deviations  widths (64 and 64 channels of 5 x 5, 384 and 192 units) are the tutorial's: the code
            loads them as weights that it does not hold. Initial weights are PyTorch's, and weight
            decay is the recipe's, where the code has 0.004 on the two linear layers. A pool pads on
            both sides, where TensorFlow's pads on the right and below. Other image sizes work.
"""

from torch import nn


def features(channels: int, height: int, width: int) -> tuple[nn.Module, int]:
    """The layers before the head, and how many features F they give.

    Images under 4 x 4 pixels are nothing but padding to the pools: ValueError.
    """
    if height < 4 or width < 4:
        raise ValueError(f"expected images of at least 4 x 4 pixels, got {height} x {width}")
    rows, columns = (((side + 1) // 2 + 1) // 2 for side in (height, width))
    layers = nn.Sequential(
        nn.Conv2d(channels, 64, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        _normalise(),
        nn.Conv2d(64, 64, kernel_size=5, padding=2),
        nn.ReLU(),
        _normalise(),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Flatten(),
        nn.Linear(64 * rows * columns, 384),
        nn.ReLU(),
        nn.Linear(384, 192),
        nn.ReLU(),
    )
    return layers, 192


def _normalise() -> nn.Module:
    """Each value over (1 + 0.001 / 9 times the sum of nine channels' squares)^0.75."""
    return nn.LocalResponseNorm(size=9, alpha=0.001, beta=0.75, k=1.0)
