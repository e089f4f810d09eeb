"""Batch norm's running statistics, taken anew from given images."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def norms_of(model: nn.Module) -> list[nn.BatchNorm2d | nn.BatchNorm1d]:
    """The network's batch norms."""
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)]


def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics by the mean of the batches' own, in place.

    No weight changes and no label is needed. A norm sees what the norms below it make of the same
    batch, (B, C, H, W) in [0, 1], by its own statistics, as in training.
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
        with torch.no_grad():
            for images in batches:
                model(images)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes:
            module.training = mode
