"""From a network's name to a classifier."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from poisonbench.core.errors import UsageError, check_returned
from poisonbench.entries import NetworkEntry, reason_of
from poisonbench.models.adapted import turn_off_chance
from poisonbench.models.classifier import Classifier, initialise
from poisonbench.models.norms import norms_of
from poisonbench.models.outside import (
    check_precision,
    check_repeats,
    check_width,
    draw_other_parameters,
    outside_features,
)
from poisonbench.registry import LIBRARIES, find, is_outside, networks


def build_model(
    name: str,
    image_shape: tuple[int, int, int],
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    generator: torch.Generator,
) -> Classifier:
    """A fresh classifier with initial weights drawn from the generator, on the CPU.

    UsageError where the name is unknown or the images are too small for the network.
    """
    # PyTorch's layers draw initial weights of their own from the global generator.
    with torch.random.fork_rng(devices=[]):
        features, num_features = _features(name, image_shape)
        model = Classifier(features, nn.Linear(num_features, num_classes), mean, std)
    initialise(model, generator)
    if is_outside(name) or _is_plug_in(name):
        draw_other_parameters(model.features, generator)
    return model


def check_model(
    name: str, image_shape: tuple[int, int, int], *, recalibrating: str | None = None
) -> None:
    """Raise what :func:`build_model` would, without the work: before a long run, not in it.

    UsageError too where the network has no batch norm and its recipe takes the statistics of that
    anew, by the option ``recalibrating``, and where a plug-in's or a file's is not its seed's.
    """
    with torch.device("meta"):
        layers, num_features = _features(name, image_shape)
        if _is_plug_in(name):
            _check_features(name, layers, num_features, torch.empty(2, *image_shape))
    is_of_file = is_outside(name) and name.partition(":")[0] not in LIBRARIES
    if is_of_file or _is_plug_in(name):
        check_repeats(name, lambda: _features(name, image_shape)[0], image_shape)
    if recalibrating is not None and not norms_of(layers):
        raise UsageError(
            f"{recalibrating}: expected a network with batch norm, got {name}, which has none; "
            "choose another network"
        )


def default_network(presets: Sequence[str]) -> str:
    """The default for data of these presets, most general first: the most special one's.

    UsageError where none of them has one.
    """
    for preset in reversed(presets):
        for entry in networks().values():
            if preset in entry.default_for:
                return entry.name
    raise UsageError(
        f"--model: expected a network's name, as data like {presets[0]} has no default, got none"
    )


def _check_features(name: str, layers: nn.Module, num_features: int, images: Tensor) -> None:
    try:
        features = layers.eval()(images)
        got = f"{tuple(features.shape)} {features.dtype}"
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        got = reason_of(error)
    if got != f"{(len(images), num_features)} {torch.float32}":
        raise UsageError(
            f"model {name}: expected float32 features of shape (B, {num_features}) for images of "
            f"shape {tuple(images.shape[1:])}, got {got}; mend the network of "
            f"{networks()[name].source}"
        )


def _features(name: str, image_shape: tuple[int, int, int]) -> tuple[nn.Module, int]:
    if is_outside(name):
        return outside_features(name, image_shape)
    return features_of(find("a model", networks(), name), image_shape)


def features_of(entry: NetworkEntry, image_shape: tuple[int, int, int]) -> tuple[nn.Module, int]:
    """The layers of an entry's network before its head, and how many features they give.

    UsageError where the images (C, H, W) are too small for it, or where it gives something else.
    """
    where = f"model {entry.name}"
    try:
        built = getattr(entry.load(), entry.builder)(*image_shape)
    except ValueError as error:
        raise UsageError(f"{where}: {error}; resize the images or choose another --model") from None
    fits = isinstance(built, tuple) and len(built) == 2 and isinstance(built[0], nn.Module)
    check_returned(where, fits, f"layers, number of features from {entry.source}", built)
    layers, num_features = built
    check_width(f"{where} of {entry.source}", num_features)
    check_precision(f"{where} of {entry.source}", layers)
    # Ours have none.
    turn_off_chance(layers)
    return layers, num_features


def _is_plug_in(name: str) -> bool:
    return not is_outside(name) and networks()[name].plug_in is not None
