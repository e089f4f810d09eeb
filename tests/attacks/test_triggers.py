"""Stamps by hand, and what an attack with a trigger makes of its task."""

import pytest
import torch

from poisonbench.attacks import badnets, blended
from poisonbench.attacks.base import LabelledImages, TriggerTask
from poisonbench.core.errors import UsageError
from poisonbench.data.splits import Split


def drawing(seed=0):
    return torch.Generator().manual_seed(seed)


def images_of(channels, height, width, size=2):
    return torch.rand(size, channels, height, width, generator=drawing(7), dtype=torch.float64)


def stamped_by_loops(images, side):
    expected = images.clone()
    size, channels, height, width = images.shape
    for n in range(size):
        for c in range(channels):
            for i in range(side):
                for j in range(side):
                    expected[n, c, height - 1 - i, width - 1 - j] = 1.0
    return expected


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 5, 9), (2, 3, 3)])
@pytest.mark.parametrize("side", [1, 3])
def test_the_square_is_white_at_the_lower_right_corner_and_nowhere_else(shape, side):
    images = images_of(*shape)
    before = images.clone()
    stamped = badnets.stamp(images, badnets.Config(size=side), drawing())
    assert torch.equal(stamped, stamped_by_loops(images, side))
    assert torch.equal(images, before)


def test_backdoorbenchs_square():
    stamped = badnets.stamp(torch.zeros(1, 3, 32, 32), badnets.Config(), drawing())
    rows = stamped.nonzero()
    assert len(rows) == 3 * 9
    assert set(rows[:, 2].tolist()) == set(rows[:, 3].tolist()) == {29, 30, 31}


def test_a_square_larger_than_the_image_is_refused():
    with pytest.raises(UsageError, match=r"--size: expected at most 2, .* got 3"):
        badnets.stamp(torch.zeros(1, 1, 2, 8), badnets.Config(), drawing())


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 4, 7)])
@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_the_blend_is_of_one_pattern(shape, alpha):
    images = images_of(*shape, size=3)
    pattern = torch.randint(0, 256, shape, generator=drawing(4)).double() / 255
    config = blended.Config(alpha=alpha)
    stamped = blended.stamp(images, config, drawing(4))
    torch.testing.assert_close(stamped, (1 - alpha) * images + alpha * pattern, atol=1e-6, rtol=0)
    assert float((stamped - images).abs().max()) <= config.budget + 1e-6
    other = blended.stamp(images, config, drawing(5))
    assert not torch.equal(stamped, other)


def test_the_pattern_uses_all_of_the_range():
    pattern = blended.stamp(torch.zeros(1, 3, 32, 32), blended.Config(alpha=1.0), drawing())
    assert float(pattern.min()) < 0.01
    assert float(pattern.max()) > 0.99
    assert abs(float(pattern.mean()) - 0.5) < 0.02


@pytest.mark.parametrize("bad", [{"alpha": 0.0}, {"alpha": 1.1}, {"target_class": -1}])
def test_bad_settings_of_blended(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        blended.Config(**bad)


@pytest.mark.parametrize("attack", [badnets, blended])
def test_the_images_crafted_are_those_that_the_stamp_gives(attack):
    """Nothing of the global generator is used, and none of the task's own."""
    images, config, state = images_of(3, 6, 6).float(), attack.Config(), torch.get_rng_state()
    generator, calls = drawing(1), []
    task = TriggerTask(
        images=images,
        labels=torch.tensor([2, 0]),
        validation=LabelledImages(images, torch.tensor([2, 0])),
        num_classes=3,
        surrogate=lambda: pytest.fail("no surrogate is needed"),
        untrained=lambda: pytest.fail("no network is needed"),
        generator=generator,
        report=lambda done, total: calls.append((done, total)),
        rows=torch.arange(2),
        train=Split((images * 255).to(torch.uint8), torch.tensor([2, 0])),
        trained=lambda number, poisons: pytest.fail("no network is needed"),
        stamp=lambda images: attack.stamp(images, config, drawing(4)),
    )
    assert torch.equal(attack.craft(task, config), attack.stamp(images, config, drawing(4)))
    assert calls == [(1, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(generator.get_state(), drawing(1).get_state())
