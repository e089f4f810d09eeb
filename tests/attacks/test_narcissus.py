"""Narcissus's pattern: its first step by hand, its budget, and what it is learned for."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from helpers.attack_tasks import SHAPE, K, small_classifier
from poisonbench.attacks import narcissus
from poisonbench.attacks.base import LabelledImages, TriggerTask
from poisonbench.data.splits import Split

TARGET = 1


def task_of(size=6, report=lambda done, total: None):
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(size, *SHAPE, generator=generator, dtype=torch.float64)
    model = small_classifier().double().requires_grad_(False)
    return TriggerTask(
        images=images,
        labels=torch.full((size,), TARGET),
        validation=LabelledImages(images, torch.full((size,), TARGET)),
        num_classes=K,
        surrogate=lambda: model,
        untrained=lambda: pytest.fail("no network is needed"),
        generator=generator,
        report=report,
        rows=torch.arange(size),
        train=Split((images * 255).to(torch.uint8), torch.full((size,), TARGET)),
        trained=lambda number, poisons: pytest.fail("no network is needed"),
        stamp=lambda images: pytest.fail("nothing is stamped before the pattern is learned"),
    )


def config_of(**more):
    return narcissus.Config(target_class=TARGET, precision="float32", **more)


def loss_at(task, pattern):
    logits = task.surrogate()((task.images + pattern).clamp(0, 1))
    return F.cross_entropy(logits, torch.full((len(task.images),), TARGET))


def test_the_first_step_by_finite_differences():
    """RAdam's first steps are those of momentum alone: the learning rate times the gradient."""
    task, config = task_of(), config_of(rounds=1, rate=0.02, epsilon=0.5)
    expected, width = torch.zeros_like(task.images[0]), 1e-6
    for place in range(expected.numel()):
        nudge = torch.zeros(expected.numel(), dtype=torch.float64)
        nudge[place] = width
        nudge = nudge.view_as(expected)
        slope = (loss_at(task, nudge) - loss_at(task, -nudge)) / (2 * width)
        expected.view(-1)[place] = -config.rate * slope
    learned = narcissus.learn(task, config)
    torch.testing.assert_close(learned, expected, rtol=1e-4, atol=1e-9)


def slope_at(task, pattern):
    pattern = pattern.clone().requires_grad_()
    return torch.autograd.grad(loss_at(task, pattern), pattern)[0]


def test_later_steps_are_rectified_adams():
    """Liu et al., ICLR 2020, algorithm 2, in loops by hand: the sixth step is the first adapted."""
    task, config = task_of(), config_of(rounds=8, rate=0.02, epsilon=0.5)
    expected = torch.zeros_like(task.images[0])
    first, second = torch.zeros_like(expected), torch.zeros_like(expected)
    limit, adapted = 2 / (1 - 0.999) - 1, []
    for step in range(1, 9):
        slope = slope_at(task, expected)
        first = 0.9 * first + 0.1 * slope
        second = 0.999 * second + 0.001 * slope**2
        mean = first / (1 - 0.9**step)
        length = limit - 2 * step * 0.999**step / (1 - 0.999**step)
        if length > 5:
            adapted.append(step)
            over = (length - 4) * (length - 2) * limit
            under = (limit - 4) * (limit - 2) * length
            root = (second.sqrt() + 1e-8) / (1 - 0.999**step) ** 0.5
            mean = (over / under) ** 0.5 * mean / root
        expected = (expected - 0.02 * mean).clamp(-0.5, 0.5)
    assert adapted == [6, 7, 8]
    torch.testing.assert_close(narcissus.learn(task, config), expected, rtol=1e-4, atol=1e-7)


def test_it_is_learned_for_the_target_class_within_its_budget():
    calls = []
    task = task_of(report=lambda done, total: calls.append((done, total)))
    config = config_of(rounds=60, rate=0.05, epsilon=0.1, images_a_step=4)
    pattern = narcissus.learn(task, config)
    assert 0.09 < float(pattern.abs().max()) <= 0.1
    assert loss_at(task, pattern) < 0.9 * loss_at(task, 0)
    assert loss_at(task, 3 * pattern) < loss_at(task, pattern)
    assert calls[-1] == (60, 60)
    poisons = narcissus.craft(replace(task, pattern=pattern), config)
    torch.testing.assert_close(poisons, (task.images + pattern).clamp(0, 1))
    assert float((poisons - task.images).abs().max()) <= 0.1 + 1e-12
    stamped = narcissus.stamp(task.images, config, pattern)
    torch.testing.assert_close(stamped, (task.images + 3 * pattern).clamp(0, 1))


def test_labels_are_kept_always():
    with pytest.raises(ValueError, match="clean_label: expected true"):
        narcissus.Config(clean_label=False)


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"epsilon: expected in \(0, 1\], got 0.0"):
        config_of(epsilon=0.0)
