"""The shared optimiser against plain loops: steps, draws, decays, projection and restarts."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from poisonbench.attacks.base import NO_CHECKPOINT
from poisonbench.attacks.shared.targeted_optimiser import (
    BrewingConfig,
    optimise_poisons,
    surrogate_models,
)
from poisonbench.training.projected_gradient import shift_flip

SHAPE = (2, 8, 8)
MEAN, STD = (torch.tensor(values).double().view(2, 1, 1) for values in ((0.5, 0.4), (0.2, 0.3)))
#: What the optimiser looks at in a surrogate.
SURROGATE = SimpleNamespace(mean=MEAN[None], std=STD[None])
SMALL = BrewingConfig(steps=12, step_size=0.05, restarts=1, brew_augment="none")


def base_images(num_targets: int, num_poisons: int = 3):
    generator = torch.Generator().manual_seed(7)
    return torch.rand(num_targets, num_poisons, *SHAPE, generator=generator).double()


def distance_to(goals, weights=(1.0,)):
    """A surrogate is a weight; the loss of a group is its distance to its target's goal."""

    def objective(number, images, targets):
        return weights[number] * (images - goals[targets]).square().flatten(1).sum(1)

    return objective


def run(base, config, objective, *, seeds=None, models=(), report=lambda done, total: None):
    task = SimpleNamespace(
        images=base,
        generators=[torch.Generator().manual_seed(seed) for seed in seeds or range(len(base))],
        report=report,
        checkpoint=NO_CHECKPOINT,
    )
    return optimise_poisons(task, config, objective, models or [SURROGATE])


def plain_shift_flip(image, shift, flip):
    """One image through grid_sample, as the reference samples it: mean colour is zero."""
    _, height, width = image.shape
    rows, columns = torch.meshgrid(
        torch.arange(height).double(), torch.arange(width).double(), indexing="ij"
    )
    if flip:
        columns = width - 1 - columns
    grid = torch.stack(
        [2 * (columns - shift[0]) / (width - 1) - 1, 2 * (rows - shift[1]) / (height - 1) - 1], -1
    )
    moved = F.grid_sample((image - MEAN)[None], grid[None], align_corners=True)[0]
    return moved + MEAN


def plain_optimiser(base, config, loss_of, seed):
    """One target, restart by restart and number by number, with Adam written out."""
    num_poisons = len(base)
    generator = torch.Generator().manual_seed(seed)
    epsilon = config.epsilon
    noise = epsilon * torch.randn((config.restarts, *base.shape), generator=generator)
    points = [base + part.clamp(-epsilon, epsilon) for part in noise]
    first_moments = [torch.zeros_like(base) for _ in points]
    unit = STD if config.step_unit == "normalised" else 1.0
    milestones = [config.steps // part for part in (2.667, 1.6, 1.142)]
    losses = [0.0] * config.restarts
    for step in range(config.steps):
        shifts = flips = None
        if config.brew_augment == "shift-flip":
            shifts = 2 * torch.rand((config.restarts, num_poisons, 2), generator=generator) - 1
            shifts = shifts * 8 / 8
            flips = torch.rand((config.restarts, num_poisons), generator=generator) < 0.5
        rate = config.step_size
        for milestone in milestones:
            if step >= milestone:
                rate /= 10
        for restart, point in enumerate(points):
            source = point.clone().requires_grad_()
            seen = source
            if shifts is not None:
                seen = torch.stack(
                    [
                        plain_shift_flip(*triple)
                        for triple in zip(source, shifts[restart], flips[restart], strict=True)
                    ]
                )
            loss = loss_of(seen)
            loss.backward()
            losses[restart] = loss.item()
            moment = 0.9 * first_moments[restart] + 0.1 * source.grad.sign()
            first_moments[restart] = moment
            delta = point - rate * unit * moment / (1 - 0.9 ** (step + 1)) - base
            delta = delta.clamp(-epsilon, epsilon)
            points[restart] = base + torch.maximum(torch.minimum(delta, 1 - base), -base)
    return points[losses.index(min(losses))]


@pytest.mark.parametrize("unit", ["normalised", "pixel"])
@pytest.mark.parametrize("augment", ["none", "shift-flip"])
def test_brewing_is_adam_on_signs_in_a_plain_loop(augment, unit):
    base = base_images(1)
    config = dataclasses.replace(SMALL, restarts=3, brew_augment=augment, step_unit=unit)
    goals = base_images(2)[1:]
    poisons = run(base, config, distance_to(goals), seeds=[5])[0]
    expected = plain_optimiser(base[0], config, lambda seen: (seen - goals[0]).square().sum(), 5)
    torch.testing.assert_close(poisons, expected, rtol=0, atol=1e-12)


def test_the_gradients_of_surrogates_are_summed_before_the_sign():
    base, goals = base_images(1), base_images(2)
    config = dataclasses.replace(SMALL, step_unit="pixel", restarts=2)
    weights = (1.0, -0.25)

    def objective(number, images, targets):
        return weights[number] * (images - goals[number]).square().flatten(1).sum(1)

    poisons = run(base, config, objective, models=[SURROGATE] * 2)[0]
    expected = plain_optimiser(
        base[0],
        config,
        lambda seen: sum(
            weight * (seen - goal).square().sum() / 2
            for weight, goal in zip(weights, goals, strict=True)
        ),
        0,
    )
    torch.testing.assert_close(poisons, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("steps", "decays"),
    [(250, [93, 156, 218]), (1000, [374, 624, 875])],
)
def test_steps_shrink_tenfold_where_those_of_the_code_do(steps, decays):
    base = torch.full((1, 1, 1, 1, 1), 0.5, dtype=torch.float64)
    seen = []

    def objective(number, images, targets):
        seen.append(float(images.detach()))
        # The sign turns, so that the bound is never met.
        return images.flatten() * (-1) ** (len(seen) // 2)

    config = BrewingConfig(
        epsilon=0.5,
        steps=steps,
        step_size=1e-3,
        step_unit="pixel",
        restarts=1,
        brew_augment="none",
    )
    run(base, config, objective, models=[SimpleNamespace(mean=MEAN[None, :1], std=STD[None, :1])])
    moment, expected = 0.0, [seen[0]]
    for step in range(steps - 1):
        moment = 0.9 * moment + 0.1 * (-1) ** ((step + 1) // 2)
        rate = 1e-3 / 10 ** sum(step >= decay for decay in decays)
        expected.append(min(max(expected[-1] - rate * moment / (1 - 0.9 ** (step + 1)), 0), 1))
    assert seen == pytest.approx(expected, abs=1e-12)


def test_every_poison_moves_and_none_leaves_the_bound_or_the_range():
    base = base_images(3, 5).float()
    base[0, 0] = 0
    base[1, 1] = 1
    config = dataclasses.replace(
        SMALL, epsilon=0.1, steps=60, step_size=0.02, step_unit="pixel", restarts=2
    )
    goals = base_images(6, 5)[3:].float()
    poisons = run(base, config, distance_to(goals))
    assert poisons.dtype == torch.float32
    assert poisons.shape == base.shape
    assert poisons.min() >= 0
    assert poisons.max() <= 1
    moved = (poisons - base).abs()
    assert moved.max() <= 0.1 + 1e-7
    assert (moved.flatten(2).amax(2) > 0.09).all()
    # The loss is a distance, so each pixel ends at the bound on the side of its goal, or on it.
    reachable = torch.minimum(torch.maximum(goals, base - 0.1), base + 0.1)
    assert (poisons - reachable).abs().max() < 0.01


def test_the_restart_of_the_lowest_last_loss_is_kept():
    base = base_images(2)
    config = dataclasses.replace(SMALL, restarts=4, steps=2, step_size=1e-6)
    groups_seen = []

    def objective(number, images, targets):
        groups_seen.append((int(targets), images.detach().clone()))
        # Constant within a group, so the groups' order says which one is best.
        fixed = {0: [3.0, 1.0, 2.0, 5.0], 1: [4.0, 4.5, 0.5, 0.75]}
        restart = (len(groups_seen) - 1) % 4
        return fixed[int(targets)][restart] + 0 * images.flatten(1).sum(1)

    poisons = run(base, config, objective)
    assert [target for target, _ in groups_seen] == [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4
    first_step = [images for _, images in groups_seen[8:]]
    torch.testing.assert_close(poisons[0], first_step[1][0], rtol=0, atol=1e-4)
    torch.testing.assert_close(poisons[1], first_step[4 + 2][0], rtol=0, atol=1e-4)
    assert (poisons[0] - first_step[0][0]).abs().max() > 1e-2


@pytest.mark.parametrize("augment", ["none", "shift-flip"])
def test_targets_together_are_the_targets_one_after_the_other(augment):
    base, goals = base_images(3).float(), base_images(6)[3:].float()
    config = dataclasses.replace(SMALL, restarts=2, brew_augment=augment)
    together = run(base, config, distance_to(goals), seeds=[3, 4, 5])
    for row in range(3):
        one = slice(row, row + 1)
        alone = run(base[one], config, distance_to(goals[one]), seeds=[3 + row])
        assert torch.equal(together[one], alone)
    assert not torch.equal(together, run(base, config, distance_to(goals), seeds=[3, 4, 6]))


def test_progress_counts_the_steps():
    seen = []
    run(
        base_images(2),
        dataclasses.replace(SMALL, steps=3),
        distance_to(base_images(2)),
        report=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_shift_flip_is_the_reference_sampling():
    generator = torch.Generator().manual_seed(3)
    images = base_images(2, 4)
    shifts = 8 * torch.rand(2, 4, 2, generator=generator).double() - 4
    flips = torch.rand(2, 4, generator=generator) < 0.5
    assert 0 < flips.sum() < 8
    augmented = shift_flip(images, shifts, flips, MEAN)
    for group in range(2):
        for row in range(4):
            expected = plain_shift_flip(images[group, row], shifts[group, row], flips[group, row])
            torch.testing.assert_close(augmented[group, row], expected, rtol=0, atol=1e-12)


def test_whole_pixels_are_shifted_exactly_and_the_mean_colour_fills():
    images = base_images(1, 4)[0]
    shifts = torch.tensor([[0, 0], [3, 0], [0, -2], [-1, 4]])
    flips = torch.tensor([False, False, True, True])
    augmented = shift_flip(images, shifts, flips, MEAN)
    for image, (right, down), flip, moved in zip(images, shifts, flips, augmented, strict=True):
        padded = MEAN.expand(2, 16, 16).clone()
        padded[:, 4:12, 4:12] = image
        window = padded[:, 4 - down : 12 - down, 4 - right : 12 - right]
        expected = window.flip(2) if flip else window
        torch.testing.assert_close(moved, expected, rtol=0, atol=1e-12)


def test_draws_reach_an_eighth_of_the_side():
    images = torch.zeros(1, 400, 1, 16, 32)
    images[..., 8, 16] = 1
    seen = []

    def objective(number, moved, targets):
        seen.append(moved.detach()[0, :, 0])
        return moved.flatten(1).sum(1)

    config = BrewingConfig(epsilon=1e-6, steps=1, restarts=1)
    black = SimpleNamespace(mean=torch.zeros(1, 1, 1, 1), std=torch.ones(1, 1, 1, 1))
    run(images, config, objective, models=[black])
    (moved,) = seen
    mass = moved.sum((1, 2))
    rows = (moved.sum(2) * torch.arange(16)).sum(1) / mass - 8
    columns = (moved.sum(1) * torch.arange(32)).sum(1) / mass
    assert 1.9 < rows.abs().max() <= 2.001
    # A flipped image has the point at column 15.
    assert 3.4 < (columns - 15.5).abs().max() <= 4.501
    assert -2 < rows.min() + rows.max() < 2


@pytest.mark.parametrize(
    ("stagger", "epochs", "expected"),
    [
        ("none", 15, [(0, [15]), (1, [15]), (2, [15]), (3, [15])]),
        ("full", 15, [(0, [4]), (1, [8]), (2, [11]), (3, [15])]),
        ("full", 2, [(0, [1]), (1, [1]), (2, [2]), (3, [2])]),
        ("snapshots", 15, [(0, [4, 8, 11, 15])]),
    ],
)
def test_surrogates_stop_where_the_config_says(stagger, epochs, expected):
    asked = []

    def snapshots(number, ends):
        asked.append((number, list(ends)))
        return [(number, end) for end in ends]

    config = BrewingConfig(surrogates=4, stagger=stagger)
    models = surrogate_models(SimpleNamespace(snapshots=snapshots, epochs=epochs), config)
    assert asked == expected
    assert models == [(number, end) for number, ends in expected for end in ends]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epsilon", 0.0),
        ("epsilon", 1.1),
        ("steps", 0),
        ("step_size", 0.0),
        ("restarts", 0),
        ("surrogates", 0),
    ],
)
def test_a_bad_setting_is_named(field, value):
    with pytest.raises(ValueError, match=f"^{field}: expected .* got {value}"):
        BrewingConfig(**{field: value})
