"""Plasma: random fields that are smooth at large and rough at small, by the diamond-square method.

Source     Fournier, Fussell, Carpenter, "Computer Rendering of Stochastic Models", 1982, in the
           form of Nicolaou et al., "TorMentor: Deterministic dynamic-path, data augmentations with
           fractals", 2022.
Library    Kornia's ``diamond_square`` gives the same of the same draws (a test holds them
           together), but waits for a GPU in each round, since it sends its kernels there.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

#: Uniform numbers in [0, 1] of a shape, on the fields' device.
Draw = Callable[[tuple[int, ...]], Tensor]


def plasma(shape: tuple[int, ...], roughness: Tensor, draw: Draw) -> Tensor:
    """Fields (B, C, H, W) in [0, 1], with a mean of about 0.5.

    A grid of corners is drawn and refined. In each round a new point is the mean of its neighbours
    blended with a draw, whose weight is 0 in the first round and roughness (B,) to the power of the
    rounds since: the rougher, the less of the neighbours is left.
    """
    images, channels, height, width = shape
    count, rate = images * channels, roughness.repeat_interleave(channels)[:, None, None, None]
    field, weight = draw((count, 1, 2, 2)), rate * 0
    while field.shape[-1] < max(height, width):
        field = _refined(field, weight, draw if field.shape[-1] > 2 else None)
        weight = rate if field.shape[-1] == 3 else weight * rate
    return field[..., :height, :width].reshape(shape)


def _refined(field: Tensor, weight: Tensor, draw: Draw | None) -> Tensor:
    """A grid (B, 1, S, S) with the points between its points, (B, 1, 2 S - 1, 2 S - 1)."""
    side = 2 * field.shape[-1] - 1
    grown = field.new_zeros(len(field), 1, side, side)
    noise = grown if draw is None else draw((len(field), 1, side, side))

    def blended(means: Tensor, lines: slice, columns: slice) -> Tensor:
        return means.lerp(noise[..., lines, columns], weight)

    even, odd = slice(None, None, 2), slice(1, None, 2)
    grown[..., even, even] = field
    corners = field[..., :-1, :] + field[..., 1:, :]
    means = (corners[..., :-1] + corners[..., 1:]) / 4
    grown[..., odd, odd] = blended(means, odd, odd)
    # The sum over the neighbours that there are: at the border three of four.
    around = F.pad(grown, (1, 1, 1, 1))
    total = around[..., :-2, 1:-1] + around[..., 2:, 1:-1]
    total = total + around[..., 1:-1, :-2] + around[..., 1:-1, 2:]
    number = F.pad(grown.new_full((side - 2, side - 2), 4.0), (1, 1, 1, 1), value=3.0)
    means = total / number
    for lines, columns in ((even, odd), (odd, even)):
        grown[..., lines, columns] = blended(means[..., lines, columns], lines, columns)
    return grown
