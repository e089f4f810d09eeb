"""The networks that the papers use, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from poisonbench.core.errors import UsageError
from poisonbench.core.settings import did_you_mean
from poisonbench.models import cifar_alexnet, cifar_resnet18, mnist_cnn
from poisonbench.models.classifier import Classifier, initialise

MODELS: dict[str, Callable[[int, int, int], tuple[nn.Module, int]]] = {
    "mnist-cnn": mnist_cnn.features,
    "cifar-resnet18": cifar_resnet18.features,
    "cifar-alexnet": cifar_alexnet.features,
}

#: The network that each preset's paper trains.
DEFAULT_MODELS = {"mnist": "mnist-cnn", "cifar10": "cifar-resnet18"}


def build_model(
    name: str,
    image_shape: tuple[int, int, int],
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    generator: torch.Generator,
) -> Classifier:
    """A fresh classifier with initial weights drawn from the generator, on the CPU.

    Raises:
        UsageError: the name is unknown or the images are too small for the network.
    """
    # PyTorch's layers draw initial weights of their own from the global generator.
    with torch.random.fork_rng(devices=[]):
        features, num_features = _features(name, image_shape)
        model = Classifier(features, nn.Linear(num_features, num_classes), mean, std)
    initialise(model, generator)
    return model


def check_model(name: str, image_shape: tuple[int, int, int]) -> None:
    """Raise what :func:`build_model` would, without the work: before a long run, not in it.

    Raises:
        UsageError: the name is unknown or the images are too small for the network.
    """
    with torch.device("meta"):
        _features(name, image_shape)


def _features(name: str, image_shape: tuple[int, int, int]) -> tuple[nn.Module, int]:
    if name not in MODELS:
        raise UsageError(
            f"expected a model among {', '.join(MODELS)}, got {name!r}{did_you_mean(name, MODELS)}"
        )
    try:
        return MODELS[name](*image_shape)
    except ValueError as error:
        raise UsageError(
            f"model {name}: {error}; resize the images or choose another --model"
        ) from None
