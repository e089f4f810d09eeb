"""A quarter of the HINT paper's MNIST network in width, which its code defines and does not use.

Source      minhhao97vn/HINT @ f58a718, models.py ``ConvNetSmall``.
Input       (B, C, H, W); 1 x 28 x 28 gives 400 features and 10,615 parameters with 10 classes.
Deviations  other image sizes are accepted: the head's input follows from them.
"""

from torch import nn

from poisonbench.models import mnist_cnn


def features(channels: int, height: int, width: int) -> tuple[nn.Module, int]:
    """The layers before the head, and how many features F they give."""
    return mnist_cnn.features(channels, height, width, filters=(10, 25))
