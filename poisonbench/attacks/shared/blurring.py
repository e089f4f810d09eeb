"""CUDA's filters and its scaling, which the control of blurring noise shares."""

import torch
from torch import Tensor

_SIDE = 3


def draw_filters(number: int, blur: float, generator: torch.Generator) -> Tensor:
    """Filters (K, 3, 3), float32: taps uniform on [0, blur], of which one, drawn too, is 1."""
    filters = blur * torch.rand(number, _SIDE**2, generator=generator)
    largest = torch.randint(0, _SIDE**2, (number, 1), generator=generator)
    return filters.scatter(1, largest, 1.0).view(-1, _SIDE, _SIDE)


def divided_by_maximum(images: Tensor) -> Tensor:
    """Images (B, C, H, W) from 0 up, each by its own maximum; black ones stay black."""
    largest = images.amax((1, 2, 3), keepdim=True)
    return images / torch.where(largest > 0, largest, 1.0)
