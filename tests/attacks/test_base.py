"""The contract of an attack: its example is one, and its types are as they are described."""

import pytest
import torch

from helpers.attack_tasks import fake_split, small_classifier, task_for
from helpers.other_packages import example_of
from poisonbench.attacks import base
from poisonbench.core.settings import options_of, resolve


def test_the_example_is_an_attack_within_its_budget():
    example = example_of(base)
    assert example.VERSION == 1
    assert [option.name for option in options_of(example.Config)] == ["epsilon", "power"]
    config = resolve(
        example.Config,
        example.PROFILES,
        profile="paper",
        presets=("mnist",),
        overrides={"power": 0.5},
        owner="brighten",
    )
    assert config.budget == config.epsilon == 76 / 255
    split, progress = fake_split(12, 0), []
    task = task_for(
        small_classifier(),
        split.images.float() / 255,
        split.labels,
        report=lambda *steps: progress.append(steps),
    )
    poisons = example.craft(task, config)
    assert poisons.shape == task.images.shape
    assert poisons.dtype == torch.float32
    assert 0 <= float(poisons.min()) <= float(poisons.max()) <= 1
    moved = (poisons - task.images).flatten(1).amax(1)
    assert float(moved.max()) <= config.budget + 1e-6
    assert torch.equal(moved > 0, split.labels > 0)
    assert progress == [(1, 1)]
    with pytest.raises(ValueError, match="power: expected over 0, got 0"):
        example.Config(power=0)


@pytest.mark.parametrize("epsilon", [-0.1, 0.0, 1.1])
def test_the_budget_is_checked_for_every_attack(epsilon):
    with pytest.raises(ValueError, match=r"epsilon: expected in \(0, 1\]"):
        base.AttackConfig(epsilon=epsilon)
