"""ResNet-18 for 32 x 32 images, as the CIFAR-10 papers use it.

Source      He et al., "Deep Residual Learning", CVPR 2016; the CIFAR stem (3x3, stride 1, no max
            pool) as in minhhao97vn/HINT @ f58a718, models.py.
Input       (B, C, H, W); 3 x 32 x 32 gives 512 features and 11,173,962 parameters with 10 classes.
Deviations  the last pool averages whatever is left (4 x 4 at 32 x 32), so other sizes work.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, plus a shortcut."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, width_in, H, W) to (B, width, H / stride, W / stride)."""
        out = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(out)) + self.shortcut(x))


def features(channels: int, height: int, width: int) -> tuple[nn.Module, int]:
    """The layers before the head, and how many features F they give.

    ValueError for images of 8 x 8 pixels and less, which shrink to one in the strided stages: batch
    norm's statistics there would be of a single value of each image.
    """
    if height <= 8 or width <= 8:
        raise ValueError(f"expected images of at least 9 x 9 pixels, got {height} x {width}")
    layers: list[nn.Module] = [
        nn.Conv2d(channels, 64, 3, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
    ]
    width_in = 64
    for stage_width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [
            BasicBlock(width_in, stage_width, stride),
            BasicBlock(stage_width, stage_width, 1),
        ]
        width_in = stage_width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers), 512
