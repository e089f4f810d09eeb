"""MetaPoison on a tiny problem: its settings and targeted tasks of noise."""

import torch
from fake_data import SHAPE, K, fake_split, small_classifier

from poisonbench.attacks import metapoison as mp
from poisonbench.attacks.base import TargetedTask

TARGETS, POISONS = 2, 6
#: Fine-tuning: one trained network, plain batches of 8 of 40 images.
SMALL = mp.Config(
    epsilon=0.25,
    steps=6,
    surrogates=1,
    start="trained",
    bn="eval",
    craft_rate=0.1,
    craft_optimizer="sign-adam",
    warm_up=0,
    rate_drops=(),
    inner_batch_size=8,
)


def task_for(rows=slice(None), *, seeds=(3, 4), snapshots=None, report=lambda done, total: None):
    """Two targets of noise with six poisons each; ``rows`` leaves some of them out."""
    train = fake_split(40, 0)
    intended = torch.tensor([1, 2])
    indices = torch.stack([(train.labels == label).nonzero().flatten() for label in intended])
    indices = indices[:, :POISONS]
    targets = torch.rand(TARGETS, *SHAPE, generator=torch.Generator().manual_seed(9))
    return TargetedTask(
        images=(train.images[indices].float() / 255)[rows],
        labels=train.labels[indices][rows],
        rows=indices[rows],
        targets=targets[rows],
        intended=intended[rows],
        train=train,
        num_classes=K,
        epochs=4,
        snapshots=snapshots or (lambda number, ends: [small_classifier(number) for _ in ends]),
        generators=[torch.Generator().manual_seed(seed) for seed in seeds][rows],
        report=report,
    )
