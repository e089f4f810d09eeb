"""A tiny data set, a poison of it and a tiny network, for tests of attacks and poisons."""

import torch
from torch import nn

from poisonbench.attacks.base import AttackTask, LabelledImages
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
        recipe_number=1,
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
    return AttackTask(
        images=images,
        labels=labels,
        validation=LabelledImages(images[:K], labels[:K]),
        num_classes=K,
        surrogate=lambda: model,
        generator=torch.Generator().manual_seed(seed),
        report=report,
    )
