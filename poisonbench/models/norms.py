"""Batch norm's running statistics, taken anew from given images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from poisonbench.data.splits import pixels_of

#: Images of a pass, whose statistics are averaged.
BATCH = 100


def norms_of(model: nn.Module) -> list[nn.BatchNorm2d | nn.BatchNorm1d]:
    """The network's batch norms."""
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)]


def recalibrate(model: nn.Module, images: Tensor, generator: torch.Generator) -> None:
    """Replace the running statistics by the mean of those of batches of the images, in place.

    No weight changes and no label is needed. A norm sees what the norms below it make of the same
    batch by its own statistics, as in training.

    Args:
        model: on the images' device; left in the mode it is in.
        images: (N, C, H, W) uint8, N >= 1.
        generator: on the CPU; draws which images make a batch.
    """
    norms = norms_of(model)
    modes = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        # Without a momentum PyTorch averages over all batches.
        norm.momentum = None
        norm.train()
    try:
        order = torch.randperm(len(images), generator=generator).to(images.device)
        with torch.no_grad():
            for rows in order.tensor_split(max(1, round(len(images) / BATCH))):
                model(pixels_of(images[rows]))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes:
            module.training = mode
