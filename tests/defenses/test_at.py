"""Plain adversarial training: the inner maximum, and what is fitted."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.defense_problems import state_for
from helpers.tiny_training import network, recipe, split, state_of
from helpers.tiny_training import train as tiny_train
from poisonbench.core.work import Sizes
from poisonbench.defenses import at, atda, robust_features
from poisonbench.models.classifier import Classifier
from poisonbench.training.state import TrainingSet


def linear_classifier(num_classes):
    """Logits that are linear in four pixels, so that the loss is largest at a corner of the box."""
    generator = torch.Generator().manual_seed(3)
    model = Classifier(nn.Flatten(), nn.Linear(4, num_classes), (0.0,), (1.0,))
    model.head.weight.data = torch.randn(num_classes, 4, generator=generator)
    return model.train()


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_inner_maximum_is_that_of_all_corners_of_the_box(num_classes):
    model, epsilon = linear_classifier(num_classes), 0.2
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(12, 1, 2, 2, generator=generator)
    labels = torch.arange(12) % num_classes
    train = TrainingSet((images * 255).to(torch.uint8), labels)
    config = at.Config(epsilon=epsilon, steps=30)
    fitted = at.build(config, recipe()).perturb_batch(state_for(model, train), images, labels)
    corners = torch.tensor(list(product((-epsilon, epsilon), repeat=4))).view(16, 1, 1, 2, 2)
    with torch.no_grad():
        every = (images + corners).clamp(0, 1)
        logits = model(every.flatten(0, 1))
        losses = F.cross_entropy(logits, labels.repeat(16), reduction="none").view(16, 12)
        reached = F.cross_entropy(model(fitted), labels, reduction="none")
    if num_classes == 2:
        assert (reached - losses.amax(0)).abs().max() < 1e-5
    # With three classes some starts climb to another corner.
    assert float((losses.amax(0) - reached).clamp(min=0).mean()) < 0.05
    assert (reached <= losses.amax(0) + 1e-5).all()


def test_batches_are_in_the_box_and_the_model_is_left_as_it_is():
    model, data = network().train(), split(12)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    images = data.images.float() / 255
    defense = at.build(at.Config(epsilon=0.05), recipe())
    fitted = defense.perturb_batch(state_of(model, data, split(4, 1)), images, data.labels)
    assert (fitted - images).abs().max() <= 0.05 + 1e-6
    assert fitted.min() >= 0
    assert fitted.max() <= 1
    assert model.training
    assert all(map(torch.equal, before.values(), model.state_dict().values()))


def test_half_the_radius_is_the_search_in_a_ball_half_as_large():
    model, data = network().train(), split(12)
    images = data.images.float() / 255
    state = state_of(model, data, split(4, 1))
    half, small, whole = (
        at.build(at.Config(steps=4, **settings), recipe()).perturb_batch(state, images, data.labels)
        for settings in (
            {"epsilon": 0.1, "radius_share": 0.5},
            {"epsilon": 0.05},
            {"epsilon": 0.1},
        )
    )
    assert torch.equal(half, small)
    assert (whole - images).abs().max() > 0.05 + 1e-6


def test_it_is_atdas_search_in_linf_without_early_stopping():
    """Both start at the same draws and step alike."""
    plain = at.build(at.Config(epsilon=0.05, steps=6, step_ratio=0.25), recipe())
    config = atda.Config(norm="linf", radius=0.05, steps=6, step_ratio=0.25, early_stop=False)
    model, data = network().train(), split(12)
    images = data.images.float() / 255
    state = state_of(model, data, split(4, 1))
    first, second = (
        defense.perturb_batch(state, images, data.labels)
        for defense in (plain, atda.build(config, recipe()))
    )
    assert torch.equal(first, second)


def test_the_defaults_are_ten_steps_of_two_levels_in_eight():
    config = at.Config()
    assert config.epsilon * 255 == pytest.approx(8)
    assert config.steps == 10
    assert config.epsilon * config.step_ratio * 255 == pytest.approx(2)


def test_training_fits_adversarial_images_alone():
    _, plain = tiny_train()
    _, result = tiny_train(at.build(at.Config(epsilon=0.1), recipe()))
    assert result.digests == plain.digests
    # The loss of the curve is that of the images that are fitted.
    assert result.curve[0]["loss"] > plain.curve[0]["loss"]


def test_the_cost_is_the_searches_passes():
    shape = {"shape": (2, 8, 8), "num_classes": 4, "weights": 1}
    sizes = Sizes(images=100, train=100, validation=10, **shape)
    (search,) = at.work(at.Config(steps=4), recipe(epochs=3), sizes).passes
    assert (search.kind, search.images, search.batch) == ("pixels", 1200, 8)
    (pretraining,) = robust_features.work(
        robust_features.Config(steps=4), recipe(epochs=3), sizes
    ).pretraining
    assert pretraining.images == 400
