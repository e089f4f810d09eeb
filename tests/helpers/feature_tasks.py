"""Targeted tasks of noise, for tests of the attacks on features."""

import functools

import torch

from helpers.fake_data import K, fake_split, small_classifier
from poisonbench.attacks.base import TargetedTask

T, P, EPOCHS = 3, 4, 6
BREWED = {"steps": 3, "restarts": 2, "surrogates": 2, "epsilon": 0.1, "brew_augment": "none"}


def double(generator_seed, *shape):
    generator = torch.Generator().manual_seed(generator_seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


#: Made once: its layers draw weights from the global generator before they get their own.
surrogate = functools.cache(small_classifier)


def task(rows=slice(None), seed=0, report=lambda done, total: None):
    """Three targets with four poisons each; ``rows`` takes some of them."""
    train = fake_split(40, 0)
    intended = torch.arange(T)
    indices = torch.stack([(train.labels == label).nonzero()[:P, 0] for label in intended])
    return TargetedTask(
        images=train.images[indices][rows].float() / 255,
        labels=train.labels[indices][rows],
        rows=indices[rows],
        targets=fake_split(T, 1).images[rows].float() / 255,
        intended=intended[rows],
        train=train,
        num_classes=K,
        epochs=EPOCHS,
        snapshots=lambda number, epochs: [surrogate(100 * number + epoch) for epoch in epochs],
        generators=[torch.Generator().manual_seed(10 * seed + t) for t in range(T)][rows],
        report=report,
    )
