"""Tiny data, a poison of it, a tiny network, and the tasks of attacks that are called by hand."""

import copy
import functools
from contextlib import contextmanager

import torch
from torch import nn

from poisonbench.attacks import metapoison as mp
from poisonbench.attacks.base import AttackTask, LabelledImages, TargetedTask
from poisonbench.data.poison import Poison, make_poison
from poisonbench.data.splits import Dataset, Split
from poisonbench.models.classifier import Classifier, initialise
from poisonbench.specs import CraftSpec

SHAPE = (2, 8, 8)
K = 4
EPSILON = 8 / 255


def fake_split(size: int, seed: int, shape=SHAPE, num_classes: int = K) -> Split:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (size, *shape), generator=generator, dtype=torch.uint8)
    return Split(images, torch.arange(size) % num_classes)


def fake_dataset(size: int = 40, seed: int = 0, shape=SHAPE, labels=None) -> Dataset:
    train = fake_split(size, seed, shape)
    if labels is not None:
        train = Split(train.images, labels)
    return Dataset(
        name="fake",
        train=train,
        validation=fake_split(4, 1, shape),
        test=fake_split(4, 2, shape),
        class_names=tuple(str(k) for k in range(max(K, int(train.labels.max()) + 1))),
        presets=("fake",),
        mean=(0.5,) * shape[0],
        std=(0.2,) * shape[0],
    )


def craft_spec(attack="pgd", **config) -> CraftSpec:
    """A spec of an attack without a surrogate."""
    return CraftSpec(
        attack=attack,
        version=1,
        config=config,
        dataset="fake",
        surrogate=None,
        seed=0,
        trial=0,
    )


def crafted(dataset, size=10, epsilon=EPSILON, seed=3) -> Poison:
    """A poison of every third training image."""
    rows = torch.arange(0, 3 * size, 3)
    clean = dataset.train.images[rows].float() / 255
    noise = torch.rand(clean.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return make_poison(
        (clean + epsilon * noise).clamp(0, 1),
        rows,
        dataset,
        attack="pgd",
        epsilon=epsilon,
        spec=craft_spec(steps=(1, 2)),
    )


def small_classifier(seed: int = 0, num_classes: int = K) -> Classifier:
    """Softplus, so that no input gradient is exactly zero; running statistics not trivial."""
    generator = torch.Generator().manual_seed(seed)
    features = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.Softplus(), nn.AvgPool2d(2), nn.Flatten()
    )
    model = Classifier(features, nn.Linear(54, num_classes), (0.5, 0.4), (0.2, 0.3))
    initialise(model, generator)
    model.train()
    model(torch.rand(32, *SHAPE, generator=generator))
    return model.eval()


def task_for(model: Classifier, images, labels, seed: int = 0, report=lambda done, total: None):
    """A task with a trained model, whose network is also to be had untrained."""
    generator = torch.Generator().manual_seed(seed)

    def untrained() -> Classifier:
        fresh = copy.deepcopy(model).requires_grad_(True).train()
        initialise(fresh, generator)
        return fresh

    return AttackTask(
        images=images,
        labels=labels,
        validation=LabelledImages(images[:K], labels[:K]),
        num_classes=K,
        surrogate=lambda: model,
        untrained=untrained,
        generator=generator,
        report=report,
    )


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


@contextmanager
def frozen(model):
    """The model in eval mode with no parameter gradients; both are restored afterwards.

    Attacks on pixels and influence need batch norm's running statistics (in train mode the
    per-example gradients mix across the batch) and no weight gradients (a third of the work).
    """
    modes = [(module, module.training) for module in model.modules()]
    needed = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval()
    for parameter, _ in needed:
        parameter.requires_grad_(False)
    try:
        yield model
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in needed:
            parameter.requires_grad_(flag)
