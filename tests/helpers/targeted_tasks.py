"""A targeted task of noise, for attacks that are called directly."""

import torch

from helpers.fake_data import SHAPE, K, fake_split, small_classifier
from poisonbench.attacks.base import TargetedTask

TARGETS, POISONS = 2, 6


def noise_task(
    rows=slice(None),
    *,
    seeds=(3, 4),
    dtype=torch.float32,
    snapshots=lambda number, ends: [small_classifier(number) for _ in ends],
    report=lambda done, total: None,
):
    """Two targets with six poisons each of the intended class; ``rows`` leaves some of them out."""
    train = fake_split(40, 0)
    intended = torch.tensor([1, 2])
    indices = torch.stack([(train.labels == label).nonzero().flatten() for label in intended])
    indices = indices[:, :POISONS]
    targets = torch.rand(TARGETS, *SHAPE, generator=torch.Generator().manual_seed(9))
    return TargetedTask(
        images=(train.images[indices].to(dtype) / 255)[rows],
        labels=train.labels[indices][rows],
        rows=indices[rows],
        targets=targets.to(dtype)[rows],
        intended=intended[rows],
        train=train,
        num_classes=K,
        epochs=4,
        snapshots=snapshots,
        generators=[torch.Generator().manual_seed(seed) for seed in seeds][rows],
        report=report,
    )
