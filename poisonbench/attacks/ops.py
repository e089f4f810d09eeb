"""OPS: one-pixel shortcut, one pixel of each class's images in one colour.

Source      Wu et al., "One-Pixel Shortcut: On the Learning Preference of Deep Neural Networks",
            ICLR 2023 (arXiv 2205.12141).
Code        cychomatica/One-Pixel-Shotcut @ fe440c1, perturb.py.
Goal        untargeted: whoever trains on the images learns the pixel.
Budget      L0: one pixel, of any value in all its channels; the L-infinity distance has no bound.
Cost        two sums over the images; no model.

For each class in turn, of images x (N, C, H, W):

1.  For each pixel p and each colour c of {0, 1}^C: mean |c - x_p| / std |c - x_p|, over images and
    channels. It is large where the class's images are all far from the colour.
2.  Take the pair with the largest that no class before took, and set x_p <- c in all its images.

Deviations  The paper divides by the variance of the distances summed over channels, its code by
            their standard deviation over images and channels: the code's is taken.
            Images need not be square. A spread of less than 1e-6 counts as that, as a pixel may
            have one value in all images of a class: MNIST's borders are black, so that corners are
            taken there. Among equals the first in raster order is taken.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from poisonbench.attacks.base import AttackTask, BudgetConfig
from poisonbench.attacks.shared.class_rows import rows_by_class
from poisonbench.core.devices import send
from poisonbench.core.errors import UsageError
from poisonbench.core.settings import Profiles
from poisonbench.core.work import nothing_more
from poisonbench.specs import Norm

VERSION = 1

PROFILES: Profiles = {}

#: All corners of the colour cube are tried, 2 to the number of channels.
_MOST_CHANNELS = 8
_LEAST_SPREAD = 1e-6


@dataclass(frozen=True, kw_only=True)
class Config(BudgetConfig):
    """OPS has no settings."""

    @property
    def norm(self) -> Norm:
        """L0."""
        return "l0"

    @property
    def budget(self) -> float:
        """One pixel."""
        return 1


def craft(task: AttackTask, config: Config) -> Tensor:
    """Poisoned images (P, C, H, W) float32 in [0, 1] for the task's images."""
    channels, height, width = task.images.shape[1:]
    if channels > _MOST_CHANNELS:
        raise UsageError(
            f"ops: expected at most {_MOST_CHANNELS} channels, of whose colours all corners are "
            f"tried, got {channels}; choose another attack"
        )
    colours = corners(channels).to(task.images)
    if len(colours) * height * width < task.num_classes:
        raise UsageError(
            f"ops: expected a pixel and a colour for each of {task.num_classes} classes, got "
            f"images of {height} x {width}; use larger ones"
        )
    poisons = task.images.clone(memory_format=torch.contiguous_format)
    pixels = poisons.flatten(2)
    taken = torch.zeros(height * width, len(colours), dtype=torch.bool, device=colours.device)
    parts = rows_by_class(task.labels, len(task.labels))
    for number, (_, rows) in enumerate(parts):
        own = send(rows, poisons.device)
        # 1. and 2. The best pair that is free, which no one waits for.
        best = scores(task.images[own], colours).masked_fill(taken, -1).argmax()
        taken.view(-1).index_fill_(0, best[None], True)
        pixel = (best // len(colours)).expand(len(own))
        pixels[own, :, pixel] = colours.index_select(0, best[None] % len(colours))
        task.report(number + 1, len(parts))
    return poisons


def corners(channels: int) -> Tensor:
    """The colours {0, 1}^C, (2^C, C), black first."""
    numbers = torch.arange(2**channels)
    return (numbers[:, None] >> torch.arange(channels).flip(0)) & 1


def scores(images: Tensor, colours: Tensor) -> Tensor:
    """Mean over spread of the distance of each pixel from each colour, (H W, 2^C).

    Images are (N, C, H, W), colours (2^C, C) of 0 and 1. A distance is x or 1 - x by the channel's
    bit, so its sums follow from those of x and its square.
    """
    values = images.flatten(2)
    count = values.shape[0] * values.shape[1]
    first = values.sum(0, dtype=torch.float64)
    second = values.square().sum(0, dtype=torch.float64)
    size, bits = values.shape[0], colours.double()
    # Sums over channels of x, or of 1 - x, and of their squares.
    sums = first.T @ (1 - bits).T + (size - first).T @ bits.T
    squares = second.T @ (1 - bits).T + (size - 2 * first + second).T @ bits.T
    mean = sums / count
    spread = (squares / count - mean.square()).clamp(min=0).sqrt()
    return mean / spread.clamp(min=_LEAST_SPREAD)


work = nothing_more
