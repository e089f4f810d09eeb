"""Accuracy of a classifier on a split, in float32, in eval mode."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from poisonbench.data.splits import Split
from poisonbench.models.classifier import Classifier, pass_size


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """Logits (N, K) float32 of images (N, C, H, W), uint8 or float in [0, 1], in eval mode."""
    return torch.cat(_in_passes(model, model, images))


def features_of(model: Classifier, images: Tensor) -> list[Tensor]:
    """Features (n, F) float32 of each pass of n images, in eval mode."""
    return _in_passes(model, model.embed, images)


def _in_passes(
    model: nn.Module, function: Callable[[Tensor], Tensor], images: Tensor
) -> list[Tensor]:
    mode = model.training
    model.eval()
    try:
        with torch.inference_mode():
            parts = []
            for part in images.split(pass_size(images, gradients=False)):
                pixels = part.float() / 255 if part.dtype == torch.uint8 else part
                parts.append(function(pixels.contiguous(memory_format=torch.channels_last)))
            return parts
    finally:
        model.train(mode)


def accuracy(model: Classifier, split: Split) -> float:
    """Share of the split's images that are classified right."""
    right = logits_of(model, split.images).argmax(1) == split.labels
    return float(right.double().mean())


def head_accuracy(model: Classifier, features: list[Tensor], labels: Tensor) -> float:
    """The same of images whose features, from :func:`features_of`, are known: to the last bit."""
    with torch.inference_mode():
        predictions = torch.cat([model.head(part).argmax(1) for part in features])
        return float((predictions == labels).double().mean())


def accuracy_by_class(
    model: Classifier, split: Split, num_classes: int
) -> tuple[float, list[float]]:
    """Accuracy over the split, and of each class (0 for a class without images)."""
    right = (logits_of(model, split.images).argmax(1) == split.labels).double()
    total = torch.bincount(split.labels, minlength=num_classes)
    correct = torch.bincount(split.labels, weights=right, minlength=num_classes)
    return float(right.mean()), (correct / total.clamp(min=1)).tolist()
