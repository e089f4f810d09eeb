"""Gradient matching against gradients taken parameter by parameter, and what it must not change."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.attack_tasks import TARGETS, K, noise_task, small_classifier
from poisonbench.attacks import gradient_matching as gm
from poisonbench.attacks.shared import matching
from poisonbench.core.settings import resolve
from poisonbench.models.classifier import Classifier

SMALL = gm.Config(
    epsilon=0.25,
    steps=20,
    step_size=0.1,
    step_unit="pixel",
    restarts=1,
    brew_augment="none",
)


def task_for(models, rows=slice(None), **options):
    """The task with these models as surrogates."""

    def snapshots(number, ends):
        return [models[number] for _ in ends]

    return noise_task(rows, snapshots=snapshots, **options)


def frozen_classifier(seed=0):
    return small_classifier(seed).requires_grad_(False)


def plain_gradient(model, images, labels):
    """The gradient of an unfrozen model by ``backward``, one flat tensor."""
    model = model.requires_grad_(True)
    model.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    model.zero_grad()
    model.requires_grad_(False)
    return gradient


def plain_loss(model, poisons, labels, target, intended):
    goal = plain_gradient(model, target[None], intended[None])
    gradient = plain_gradient(model, poisons, labels)
    return float(1 - F.cosine_similarity(gradient, goal, dim=0))


def losses_of(model, task, poisons):
    rows = zip(poisons, task.labels, task.targets, task.intended, strict=True)
    return [plain_loss(model, *row) for row in rows]


def test_the_gradient_is_that_of_all_parameters():
    model = frozen_classifier().double()
    task = task_for([model], dtype=torch.float64)
    gradient = matching.parameter_gradient(model, task.images[0], task.labels[0])
    expected = plain_gradient(model, task.images[0], task.labels[0])
    # Weights and biases of the convolution and the head, scale and shift of the batch norm.
    assert gradient.shape == (2 * 6 * 9 + 6 + 6 + 6 + 54 * K + K,)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-15)


def test_the_loss_is_one_minus_the_cosine_of_flattened_gradients():
    model = frozen_classifier().double()
    task = task_for([model], dtype=torch.float64)
    goal = matching.parameter_gradient(model, task.targets[:1], task.intended[:1])
    loss = matching.matching_loss(
        matching.parameter_gradient(model, task.images[0], task.labels[0]), goal / goal.norm()
    )
    expected = losses_of(model, task, task.images)[0]
    assert 0.01 < expected < 1.99
    assert float(loss) == pytest.approx(expected, abs=1e-12)


def test_the_gradient_of_the_loss_is_its_slope():
    """Finite differences in float64 along random directions."""
    model = frozen_classifier().double()
    task = task_for([model], dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    goal = F.normalize(
        matching.parameter_gradient(model, task.targets[:1], task.intended[:1]), dim=0
    )
    images = task.images[0].clone().requires_grad_()
    loss = matching.matching_loss(
        matching.parameter_gradient(model, images, task.labels[0], create_graph=True), goal
    )
    (gradient,) = torch.autograd.grad(loss, images)
    assert gradient.abs().max() > 1e-4
    for _ in range(3):
        direction = torch.randn(images.shape, generator=generator).double()
        ends = [
            plain_loss(
                model,
                images.detach() + sign * 1e-5 * direction,
                task.labels[0],
                task.targets[0],
                task.intended[0],
            )
            for sign in (1, -1)
        ]
        slope = (ends[0] - ends[1]) / 2e-5
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-6, abs=1e-9)


def test_the_loss_falls_by_more_than_half_in_twenty_steps():
    model = frozen_classifier()
    task = task_for([model])
    before = losses_of(model, task, task.images)
    after = losses_of(model, task, gm.craft(task, SMALL))
    for start, end in zip(before, after, strict=True):
        assert end < 0.5 * start


def test_each_target_has_a_goal_of_its_own():
    model = frozen_classifier()
    task = task_for([model])
    poisons = gm.craft(task, SMALL)
    (one, two), swapped = (
        losses_of(model, task, poisons),
        [
            plain_loss(model, poisons[row], task.labels[row], task.targets[1 - row], label)
            for row, label in enumerate(task.intended.flip(0))
        ],
    )
    assert max(one, two) < min(swapped)


def test_every_surrogate_is_matched():
    models = [frozen_classifier(seed) for seed in (0, 1)]
    config = gm.Config(**{**vars(SMALL), "surrogates": 2})
    both = gm.craft(task_for(models), config)
    first = gm.craft(task_for(models), SMALL)
    for model, alone in zip(models, (None, first), strict=True):
        task = task_for(models)
        losses = losses_of(model, task, both)
        assert max(losses) < 0.7 * min(losses_of(model, task, task.images))
        if alone is not None:
            assert sum(losses) < sum(losses_of(model, task, alone))


def test_nothing_else_changes_and_the_budget_is_kept():
    model = frozen_classifier()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    task = task_for([model])
    kept = {name: getattr(task, name).clone() for name in ("images", "labels", "targets", "rows")}
    poisons = gm.craft(task, gm.Config(**{**vars(SMALL), "epsilon": 0.1}))
    for name, value in kept.items():
        assert torch.equal(getattr(task, name), value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert poisons.dtype == torch.float32
    assert poisons.shape == task.images.shape
    assert poisons.min() >= 0
    assert poisons.max() <= 1
    assert (poisons - task.images).abs().max() <= 0.1 + 1e-7
    assert ((poisons - task.images).abs().flatten(2).amax(2) > 0.05).all()


@pytest.mark.parametrize("augment", ["none", "shift-flip"])
def test_targets_together_are_the_targets_alone(augment):
    model = frozen_classifier()
    config = gm.Config(**{**vars(SMALL), "brew_augment": augment, "restarts": 2, "steps": 6})
    together = gm.craft(task_for([model]), config)
    for row in range(TARGETS):
        alone = gm.craft(task_for([model], slice(row, row + 1)), config)
        assert torch.equal(together[row : row + 1], alone)
    assert not torch.equal(together, gm.craft(task_for([model], seeds=(5, 6)), config))


def test_a_surrogate_that_has_nothing_left_to_learn_is_warned_of():
    """The poisons' loss is 0 in float32, and so is its gradient."""

    class Sure(nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, :1]

    head = nn.Linear(1, 3)
    nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.bias.copy_(torch.tensor([0.0, 200.0, 0.0]))
    model = Classifier(Sure(), head, (0.5, 0.4), (0.2, 0.3)).eval().requires_grad_(False)
    task = task_for([model], slice(0, 1))
    with pytest.warns(UserWarning, match=r"gm: expected a gradient .* got 0: .* --stagger full"):
        poisons = gm.craft(task, SMALL)
    assert poisons.isfinite().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gm.craft(task_for([frozen_classifier()]), SMALL)


def test_the_defaults_are_hints_and_the_sample_has_its_own():
    config = gm.Config()
    assert (config.epsilon, config.steps, config.restarts) == (16 / 255, 250, 8)
    assert (config.surrogates, config.brew_augment) == (1, "shift-flip")

    def preset(*names):
        return resolve(
            gm.Config, gm.PROFILES, profile="paper", presets=names, overrides={}, owner="gm"
        )

    assert preset("cifar10") == config
    assert preset("mnist").brew_augment == "none"
    assert preset("mnist", "mnist-sample").surrogates == 4
