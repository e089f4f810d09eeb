"""Settings for a CPU on any small images: a small network, and epochs by the number of images.

Nothing here was tuned on test images: the recipe is that of ``cifar-small`` on 10,000 images of
CIFAR-10, with more epochs and smaller batches where there are fewer images. ``poisonbench assess``
chooses between shorter and longer trainings, and between two networks, by validation accuracy.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from poisonbench.core.quick_names import QUICK, Quick
from poisonbench.data.splits import Dataset

#: Networks by the number of channels, smaller ones first; other numbers take those of colour.
NETWORKS = {1: ("mnist-cnn-small", "mnist-cnn")}
_COLOUR_NETWORKS = ("mnist-cnn-small", "cifar-small")

#: Epochs on so many images; on others by the fourth root of their number.
_EPOCHS, _IMAGES = 18, 10_000
_LEAST, _MOST = 12, 96

#: Images a step, of fewer training images than this and of others.
_FEW, _SMALL_BATCH, _BATCH = 2000, 32, 100

#: By defense, what it does after which shares of the epochs: HINT's are the paper's 5, 15 and 40
#: of 80.
SHARES: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "hint": {"schedule": (1 / 16, 3 / 16, 1 / 2)}
}


def networks_for(channels: int) -> tuple[str, ...]:
    """The networks to choose from, smaller ones first."""
    return NETWORKS.get(channels, _COLOUR_NETWORKS)


def longest(images: int) -> int:
    """Epochs on so many training images, where nothing else is said."""
    scaled = _EPOCHS * math.sqrt(math.sqrt(_IMAGES / images))
    return min(_MOST, max(_LEAST, round(scaled)))


def lengths(images: int) -> tuple[int, ...]:
    """The numbers of epochs to choose from, shorter ones first."""
    whole = longest(images)
    return whole // 4, whole // 2, whole


def with_quick_settings(dataset: Dataset, name: str, quick: Quick) -> Dataset:
    """The same images with settings for a CPU, under the name that asks for them."""
    channels, count = dataset.image_shape[0], len(dataset.train)
    epochs = quick.epochs or longest(count)
    small_part = "mnist-sample" if channels == 1 else "cifar10@10000"
    settings: dict[str, dict[str, Any]] = {
        method: {
            setting: tuple(dict.fromkeys(max(1, round(share * epochs)) for share in shares))
            for setting, shares in of_method.items()
        }
        for method, of_method in SHARES.items()
    }
    batch = _SMALL_BATCH if count < _FEW else _BATCH
    schedule = {"milestones": (), "rate_schedule": "one-cycle"}
    settings[""] = {"epochs": epochs, "batch_size": batch, **schedule}
    return replace(
        dataset,
        name=name,
        presets=tuple(dict.fromkeys([*dataset.presets, small_part, QUICK])),
        network=quick.network or networks_for(channels)[-1],
        settings=settings,
        is_paper=False,
    )
