"""A training step as a function: its result is differentiable in the images it was taken on."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The weights by name, to be stepped from; the model, which may be frozen, stays as it is."""
    return {name: weight.detach().requires_grad_() for name, weight in model.named_parameters()}


def sgd_step(weights: Mapping[str, Tensor], loss: Tensor, rate: float) -> dict[str, Tensor]:
    """The weights after a plain SGD step down the loss, with the graph kept."""
    slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
    return {
        name: weight - rate * slope
        for (name, weight), slope in zip(weights.items(), slopes, strict=True)
    }
