"""Classifier = normalise + features + head.

Normalisation is inside, so budgets and noise live in pixels of [0, 1]. Influence and feature-space
attacks use ``embed`` and ``head`` directly.
"""

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from poisonbench.core.devices import is_accelerator
from poisonbench.models.norms import norms_of

#: A pass is so many images or a multiple of them on every device: what is drawn for one such block
#: after the other does not depend on the device.
BLOCK = 125


class Classifier(nn.Module):
    """An image classifier on pixels of [0, 1].

    The features map normalised (B, C, H, W) to (B, F), the head, the "top layer" of the papers,
    (B, F) to K logits; mean and std are the channels', in [0, 1] units.
    """

    def __init__(
        self, features: nn.Module, head: nn.Linear, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.features = features
        self.head = head
        self.is_normalised = any(m != 0 for m in mean) or any(s != 1 for s in std)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self.holds_norms = False

    mean: Tensor
    std: Tensor

    def hold(self, *, features: bool, norms: bool) -> None:
        """Keep the layers before the head, or batch norm's statistics, while the rest trains."""
        self.features.requires_grad_(not features)
        self.holds_norms = norms
        self.train(self.training)

    @property
    def has_fixed_features(self) -> bool:
        """Whether training leaves the layers before the head as they are."""
        return self.holds_norms and not any(p.requires_grad for p in self.features.parameters())

    def train(self, mode: bool = True) -> Self:
        """Set the mode as PyTorch does, but for batch norm that is held."""
        super().train(mode)
        if mode and self.holds_norms:
            for norm in norms_of(self):
                norm.eval()
        return self

    def normalise(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] as ``features`` takes them."""
        return (images - self.mean) / self.std if self.is_normalised else images

    def embed(self, images: Tensor) -> Tensor:
        """Features (B, F) of images (B, C, H, W) in [0, 1]."""
        embedded: Tensor = self.features(self.normalise(images))
        return embedded

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W) in [0, 1]."""
        logits: Tensor = self.head(self.embed(images))
        return logits


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw PyTorch's default initial weights from a generator that is passed.

    Convolutions and linear layers: Kaiming uniform with a = sqrt(5), i.e. U(-1/sqrt(fan_in),
    1/sqrt(fan_in)), and biases from the same range; batch norm: weight 1, bias 0.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            fan_in = nn.init._calculate_fan_in_and_fan_out(layer.weight)[0]
            bound = 1 / math.sqrt(fan_in)
            with torch.no_grad():
                layer.weight.uniform_(-bound, bound, generator=generator)
                if layer.bias is not None:
                    layer.bias.uniform_(-bound, bound, generator=generator)
        elif isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            layer.reset_parameters()


def renew_head(model: Classifier, generator: torch.Generator) -> None:
    """Draw the head anew, to be trained; by a CPU generator on any device."""
    device = model.mean.device
    initialise(model.head.cpu().requires_grad_(True), generator)
    model.to(device)


def pass_size(images: Tensor, *, gradients: bool) -> int:
    """Images in one pass of a frozen model: what keeps a device busy and its memory small.

    A CPU is fastest when a pass's activations stay in its caches.
    """
    if not is_accelerator(images.device):
        return BLOCK
    return (4 if gradients else 16) * BLOCK


def groups_in_a_pass(groups: Tensor) -> int:
    """Groups of images (T, P, C, H, W) that share a pass: on a CPU one of them.

    So no neighbour changes a rounding there. A GPU needs the larger pass where P is small.
    """
    if not is_accelerator(groups.device):
        return 1
    return max(1, pass_size(groups, gradients=True) // groups.shape[1])
