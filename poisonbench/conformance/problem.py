"""The tiny problem that methods are checked on, and what watches over global generators."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from poisonbench.conformance.check import expect
from poisonbench.core.seeds import Seeds
from poisonbench.data.splits import Split
from poisonbench.models.classifier import Classifier, initialise
from poisonbench.models.global_generators import drawn_from, states
from poisonbench.training.recipe import Recipe
from poisonbench.training.trainer import Trainer

CPU = torch.device("cpu")
SHAPE, NUM_CLASSES = (3, 16, 16), 4
#: Of the global generators while they are watched: one that nobody's code sets.
UNLIKELY_SEED = 2_718_281_828
RECIPE = Recipe(epochs=3, batch_size=16, milestones=(2,), augment="none", precision="float32")


def images_of_patterns(size: int, seed: int) -> Split:
    """A pattern a class under noise."""
    patterns = torch.randint(
        0, 160, (NUM_CLASSES, *SHAPE), generator=torch.Generator().manual_seed(99)
    )
    noise = torch.randint(0, 96, (size, *SHAPE), generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(size) % NUM_CLASSES
    return Split((patterns[labels] + noise).to(torch.uint8), labels)


def tiny_network(seed: int = 0) -> Classifier:
    """A network of one convolution, with batch norm."""
    with torch.random.fork_rng(devices=[]):
        features = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()
        )
        model = Classifier(features, nn.Linear(6 * 7 * 7, NUM_CLASSES), (0.4,) * 3, (0.2,) * 3)
    initialise(model, torch.Generator().manual_seed(seed))
    return model


def train_plainly(device: torch.device) -> dict[str, Tensor]:
    """Train the tiny network on the tiny problem; its weights."""
    trainer = Trainer(recipe=RECIPE, seeds=Seeds(), device=device)
    model = tiny_network()
    trainer.fit(model, images_of_patterns(64, 0), images_of_patterns(16, 1))
    return dict(model.state_dict())


@contextmanager
def other_global_state() -> Iterator[None]:
    """A block with global generators in a state that code hardly gives them; then as before."""
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    torch.set_rng_state(torch.Generator().manual_seed(UNLIKELY_SEED).get_state())
    random.setstate(random.Random(UNLIKELY_SEED).getstate())
    np.random.set_state(np.random.RandomState(UNLIKELY_SEED).get_state())
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])


@contextmanager
def global_generators_kept() -> Iterator[None]:
    """Raise if the block has drawn from a global generator or seeded one."""
    # Code that seeds a generator would leave the state that its call before has left.
    with other_global_state():
        before = states()
        yield
        drawn = drawn_from(before)
    expect(
        not drawn,
        "the global generators as they were",
        f"another state of {', '.join(drawn)}'s",
        "draw from the generator that the state or task has, or from one of a fixed seed, as "
        "generator=..., and seed no global one",
    )


def frozen_network(seed: int) -> Classifier:
    """A network with these initial weights, as surrogates are given."""
    return tiny_network(seed).eval().requires_grad_(False)
