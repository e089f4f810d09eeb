"""Recolouring against a loop over pixels, and MetaPoison with it."""

import copy
import dataclasses
import itertools

import numpy as np
import pytest
import torch

from helpers.attack_tasks import SMALL, noise_task, small_classifier
from helpers.command_line import done, tiny_arrays
from poisonbench.attacks import metapoison as mp
from poisonbench.attacks.shared.colour_shift import (
    LARGEST_SHIFT,
    RESOLUTION,
    Palette,
    clamp_shifts,
    roughness,
)
from poisonbench.core.errors import UsageError
from poisonbench.data.splits import Split
from poisonbench.models.classifier import Classifier, initialise

TO_YUV = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.147, -0.289, 0.436], [0.615, -0.515, -0.100]],
    dtype=torch.float64,
)


def grid_shift(grid, pixel):
    """One pixel's shift in YUV from a grid (10, 10, 10, 3), by eight corners in a loop."""
    position = (TO_YUV @ pixel + torch.tensor([0, 0.5, 0.5], dtype=torch.float64)).tolist()
    position = [min(max(value, 0), 1) * (RESOLUTION - 1) for value in position]
    corner = [min(int(value), RESOLUTION - 2) for value in position]
    total = [0.0, 0.0, 0.0]
    for sides in itertools.product((0, 1), repeat=3):
        weight = 1.0
        for value, low, side in zip(position, corner, sides, strict=True):
            weight *= value - low if side else 1 - (value - low)
        point = grid[tuple(low + side for low, side in zip(corner, sides, strict=True))]
        total = [old + weight * float(new) for old, new in zip(total, point, strict=True)]
    return total


def colours(shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_recolouring_is_a_trilinear_lookup_of_each_pixel():
    images = colours((2, 3, 3, 4, 5))
    images[0, 0, :, 0] = torch.eye(3, 5, dtype=torch.float64)
    palette = Palette(images)
    shifts = palette.no_shifts()
    assert torch.equal(palette.recolor(images, shifts), images)
    shifts = 0.04 * (2 * colours(shifts.shape, 1) - 1)
    recoloured = palette.recolor(images, shifts)
    for place in itertools.product(range(2), range(3), range(4), range(5)):
        target, poison, row, column = place
        pixel = images[target, poison, :, row, column]
        moved = torch.tensor(grid_shift(shifts[target, poison], pixel), dtype=torch.float64)
        expected = (pixel + torch.linalg.solve(TO_YUV, moved)).clamp(0, 1)
        torch.testing.assert_close(
            recoloured[target, poison, :, row, column], expected, rtol=0, atol=1e-7
        )


def test_recolouring_stays_within_the_largest_shift():
    images = colours((1, 2, 3, 8, 8)) * 0.2 + 0.4
    palette = Palette(images)
    worst = 0.0
    for signs in itertools.product((-1, 1), repeat=3):
        shifts = palette.no_shifts() + 0.04 * torch.tensor(signs, dtype=torch.float64)
        worst = max(worst, float((palette.recolor(images, shifts) - images).abs().max()))
    assert 0.9999 * LARGEST_SHIFT < worst / 0.04 <= LARGEST_SHIFT


def test_roughness_is_the_mean_squared_slope():
    shifts = colours((2, 3, *[RESOLUTION] * 3, 3))
    slopes = []
    for axis in range(3):
        for place in itertools.product(range(RESOLUTION), repeat=3):
            if place[axis] + 1 < RESOLUTION:
                after = tuple(n + (number == axis) for number, n in enumerate(place))
                slopes.append(RESOLUTION * (shifts[:, :, *after] - shifts[:, :, *place]))
    expected = torch.stack(slopes, 1).flatten(1).square().mean(1)
    torch.testing.assert_close(roughness(shifts), expected)
    assert roughness(torch.ones_like(shifts)).tolist() == [0, 0]


def test_shifts_keep_to_the_bound_and_the_grids_range():
    shifts = 2 * colours((1, 1, *[RESOLUTION] * 3, 3)) - 1
    clamp_shifts(shifts, 0.04)
    assert shifts.abs().max() == pytest.approx(0.04)
    # Black cannot become darker, nor white brighter.
    assert shifts[..., 0, :, :, 0].min() == 0
    assert shifts[..., -1, :, :, 0].max() == 0
    assert shifts[..., 5, 5, 5, 0].abs().max() > 0


def colour_task():
    """The task of two channels with a third, and a network for it."""
    task = noise_task()

    def widen(images):
        return torch.cat([images, images[..., :1, :, :]], -3)

    def snapshots(number, ends):
        model = small_classifier(number)
        features = copy.deepcopy(model.features)
        features[0] = torch.nn.Conv2d(3, 6, 3)
        initialise(features[0], torch.Generator().manual_seed(number))
        wide = Classifier(features, model.head, (0.5, 0.4, 0.5), (0.2, 0.3, 0.2))
        return [wide.eval().requires_grad_(False) for _ in ends]

    return dataclasses.replace(
        task,
        images=widen(task.images),
        targets=widen(task.targets),
        train=Split(widen(task.train.images), task.train.labels),
        snapshots=snapshots,
    )


def test_colour_is_within_the_declared_budget_and_goes_beyond_noise():
    config = dataclasses.replace(SMALL, epsilon=2 / 255, color=0.04, steps=4)
    assert config.budget == pytest.approx(2 / 255 + 0.04 * 3.0325)
    task = colour_task()
    poisons = mp.craft(task, config)
    moved = (poisons - task.images).abs()
    assert config.epsilon + 0.02 < float(moved.max()) <= config.budget + 1e-6
    assert poisons.min() >= 0
    assert poisons.max() <= 1
    smooth = mp.craft(colour_task(), dataclasses.replace(config, smoothness=1e9))
    assert not torch.equal(smooth, poisons)


def test_grey_images_have_no_colour():
    with pytest.raises(UsageError, match="images of 3 channels, got 2"):
        mp.craft(noise_task(), dataclasses.replace(SMALL, color=0.04))


def test_the_command_declares_and_keeps_the_budget_of_noise_and_colour(tmp_path):
    """Staggered networks, on a data set of colour images."""
    arrays = tiny_arrays(train=80, test=20)
    for part in ("x_train", "x_test"):
        arrays[part] = np.stack([arrays[part], arrays[part] // 2, 255 - arrays[part]], -1)
    np.savez(tmp_path / "colour.npz", **arrays)
    words = (
        *("craft", "--attack", "mp", "--dataset", f"npz:{tmp_path / 'colour.npz'}"),
        *("--model", "mnist-cnn", "--results", tmp_path / "results", "--json"),
        *("--rho", "0.05", "--epsilon", "2/255", "--steps", "2"),
        *("--surrogates", "2", "--inner-batch-size", "30", "--warm-up", "0"),
    )
    card = done(*words, "--color", "0.04").json
    assert card["epsilon"] == pytest.approx(2 / 255 + 3.0325 * 0.04)
    assert 10 / 255 < card["max_abs_delta"] <= card["epsilon"]
    assert card["goal"]["scenario"] == "scratch"
    plain = done(*words).json
    assert plain["epsilon"] == plain["max_abs_delta"] == pytest.approx(2 / 255)
