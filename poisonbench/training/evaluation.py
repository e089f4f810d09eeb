"""Accuracy of a classifier on a split, in float32, in eval mode."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from poisonbench.data.splits import Split
from poisonbench.errors import DivergedError
from poisonbench.models.classifier import Classifier, pass_size
from poisonbench.models.folding import folded
from poisonbench.training.state import TrainingSet


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


def finite_outputs(
    classifier: Classifier,
    train: TrainingSet,
    function: Callable[[Classifier, Tensor], Tensor],
    what: str,
) -> Tensor:
    """What a network gives for each training image, not augmented, (N, ...) float32, in eval mode.

    Args:
        classifier: the network; passes run on a folded copy.
        train: N images.
        function: of the copy and pixels (B, C, H, W) in [0, 1].
        what: its result in words.

    Raises:
        DivergedError: some are not finite.
    """
    model = folded(classifier)
    rows = torch.arange(len(train), device=train.labels.device)
    parts = rows.split(pass_size(train.images, gradients=False))
    with torch.no_grad():
        outputs = torch.cat([function(model, train.pixels(part)) for part in parts])
    if not bool(outputs.isfinite().all()):
        raise DivergedError(f"expected finite {what}, got others; lower --learning-rate")
    return outputs


def accuracy(model: Classifier, split: Split) -> float:
    """Share of the split's images that are classified right.

    Raises:
        DivergedError: the outputs are not finite: a network of nan has an accuracy too.
    """
    return float(_right(logits_of(model, split.images), split.labels).mean())


def head_accuracy(model: Classifier, features: list[Tensor], labels: Tensor) -> float:
    """The same of images whose features, from :func:`features_of`, are known: to the last bit."""
    with torch.inference_mode():
        return float(_right(torch.cat([model.head(part) for part in features]), labels).mean())


def accuracy_by_class(
    model: Classifier, split: Split, num_classes: int
) -> tuple[float, list[float]]:
    """Accuracy over the split, and of each class (0 for a class without images).

    Raises:
        DivergedError: the outputs are not finite.
    """
    right = _right(logits_of(model, split.images), split.labels)
    total = torch.bincount(split.labels, minlength=num_classes)
    correct = torch.bincount(split.labels, weights=right, minlength=num_classes)
    return float(right.mean()), (correct / total.clamp(min=1)).tolist()


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    """1 for an image that is classified right, else 0, (N,) float64."""
    if not bool(logits.isfinite().all()):
        raise DivergedError(
            "expected finite outputs of the trained network, got others; lower --learning-rate"
        )
    return (logits.argmax(1) == labels).double()
