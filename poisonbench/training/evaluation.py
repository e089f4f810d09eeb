"""Accuracy of a classifier on a split, in float32, in eval mode."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from poisonbench.core.errors import DivergedError
from poisonbench.data.splits import Split, pixels_of
from poisonbench.models.classifier import Classifier, pass_size
from poisonbench.models.folding import folded
from poisonbench.models.norms import norms_of
from poisonbench.training.state import TrainingSet


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """Logits (N, K) float32 of images (N, C, H, W), uint8 or float in [0, 1], in eval mode."""
    return torch.cat(outputs_by_pass(model, model, images))


def outputs_by_pass(
    model: nn.Module, function: Callable[[Tensor], Tensor], images: Tensor
) -> list[Tensor]:
    """What a function of the model gives of each pass of n images, (n, ...), in eval mode."""
    mode = model.training
    model.eval()
    try:
        with torch.inference_mode():
            parts = images.split(pass_size(images, gradients=False))
            return [function(pixels_of(part)) for part in parts]
    finally:
        model.train(mode)


def finite_outputs(
    classifier: Classifier,
    train: TrainingSet,
    function: Callable[[Classifier, Tensor], Tensor],
    what: str,
) -> Tensor:
    """What the function gives of a network, frozen in eval mode, and each image's pixels, (N, ...).

    Images are not augmented. DivergedError, which says ``what`` they give, if some is not finite.
    """
    model = folded(classifier)
    parts = train.images.split(pass_size(train.images, gradients=False))
    with torch.no_grad():
        outputs = torch.cat([function(model, pixels_of(part)) for part in parts])
    if not bool(outputs.isfinite().all()):
        raise DivergedError(f"expected finite {what}, got others; lower --learning-rate")
    return outputs


def accuracy(model: Classifier, split: Split) -> float:
    """Share of the split's images that are classified right."""
    return float(right_answers(model, split).double().mean())


def head_accuracy(model: Classifier, features: list[Tensor], labels: Tensor) -> float:
    """The same of images whose features by pass are known: to the last bit."""
    with torch.inference_mode():
        logits = torch.cat([model.head(part) for part in features])
        return float(_right(logits, labels).double().mean())


def right_answers(model: Classifier, split: Split) -> Tensor:
    """Which of the split's N images are classified right, (N,) bool, on the model's device.

    DivergedError where the outputs are not finite: a network of nan has an accuracy too.
    """
    return _right(logits_of(model, split.images), split.labels)


def right_by_batch_statistics(
    model: Classifier, split: Split, generator: torch.Generator
) -> Tensor | None:
    """The same with batch norm's statistics taken from the batch at hand, (N,) bool.

    A diagnostic: what a poison did to the running statistics alone does not show here. No label
    enters a prediction; labels only spread the classes evenly over the batches, whose order in a
    class the generator draws. None for a network without batch norm, and for a single image of
    which it takes no statistics.
    """
    copied = copy.deepcopy(model).eval()
    norms = norms_of(copied)
    if not norms:
        return None
    for norm in norms:
        # Without running statistics PyTorch takes the batch's, in eval mode too.
        norm.running_mean = norm.running_var = None
    right = torch.zeros(len(split), dtype=torch.bool, device=split.labels.device)
    with torch.inference_mode():
        for rows in stratified_batches(split.labels.cpu(), generator):
            part = split.rows(rows.to(split.labels.device))
            try:
                logits = copied(pixels_of(part.images))
            except ValueError:
                if len(split) > 1:
                    raise
                return None
            right[rows] = _right(logits, part.labels)
    return right


def stratified_batches(labels: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Rows in batches of about 100 that have the whole's shares of the classes, as far as it goes.

    The labels (N,) are on the CPU; the generator draws the order in a class.
    """
    # An image's position in its class, between 0 and 1: sorted by it, the classes alternate.
    positions = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        rows = (labels == label).nonzero().flatten()
        order = torch.randperm(len(rows), generator=generator).double()
        positions[rows] = (order + 0.5) / len(rows)
    count = max(1, round(len(labels) / 100))
    return list(positions.argsort(stable=True).tensor_split(count))


def accuracy_by_class(right: Tensor, labels: Tensor, num_classes: int) -> list[float]:
    """Share of the right answers (N,) bool in each class; 0 for a class without images."""
    total = torch.bincount(labels, minlength=num_classes)
    correct = torch.bincount(labels, weights=right.double(), minlength=num_classes)
    shares: list[float] = (correct / total.clamp(min=1)).tolist()
    return shares


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    if not bool(logits.isfinite().all()):
        raise DivergedError(
            "expected finite outputs of the trained network, got others; lower --learning-rate"
        )
    return logits.argmax(1) == labels
