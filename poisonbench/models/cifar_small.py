"""A small network for 32 x 32 colour images that trains on a CPU in minutes.

Source      this project's, in the manner of the networks that learn CIFAR-10 in seconds on a GPU
            (KellerJordan/cifar10-airbench @ f1c599c): three stages of two 3 x 3 convolutions, each
            pooled right after its first, batch norm everywhere, one linear layer.
Input       (B, C, H, W); 3 x 32 x 32 gives 128 features and 292,954 parameters with 10 classes.
Deviations  a half of airbench94's width; a stem of trained filters instead of whitening ones, which
            depend on the data; ReLU, and PyTorch's initial weights.
"""

from torch import nn

STEM_WIDTH = 16
STAGE_WIDTHS = (32, 64, 128)


def features(channels: int, height: int, width: int) -> tuple[nn.Module, int]:
    """The layers before the head, and how many features F they give.

    ValueError for images under 16 x 16 pixels, which three pools shrink to one: batch norm's
    statistics there would be of a single value of each image.
    """
    if height < 16 or width < 16:
        raise ValueError(f"expected images of at least 16 x 16 pixels, got {height} x {width}")
    layers: list[nn.Module] = [
        nn.Conv2d(channels, STEM_WIDTH, 3, padding=1, bias=False),
        nn.BatchNorm2d(STEM_WIDTH),
        nn.ReLU(),
    ]
    width_in = STEM_WIDTH
    for stage_width in STAGE_WIDTHS:
        layers += [
            nn.Conv2d(width_in, stage_width, 3, padding=1, bias=False),
            # Before the norm, which then works on a quarter of the pixels.
            nn.MaxPool2d(2),
            nn.BatchNorm2d(stage_width),
            nn.ReLU(),
            nn.Conv2d(stage_width, stage_width, 3, padding=1, bias=False),
            nn.BatchNorm2d(stage_width),
            nn.ReLU(),
        ]
        width_in = stage_width
    layers += [nn.AdaptiveMaxPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers), width_in
