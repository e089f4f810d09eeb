"""Grayscale, bit depth and blur against the plain form of each."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.attack_tasks import small_classifier
from helpers.command_line import done, refused
from helpers.defense_problems import state_for
from helpers.tiny_training import recipe, split, weights_digest
from helpers.tiny_training import train as tiny_train
from poisonbench.data.splits import Split
from poisonbench.defenses import bit_depth, gaussian_blur, grayscale, jpeg
from poisonbench.results.records import read_record
from poisonbench.tables.all_runs import build_runs
from poisonbench.tables.render import render
from poisonbench.training.state import TrainingSet

FILTERS = {
    "grayscale": grayscale,
    "bit-depth": bit_depth,
    "gaussian-blur": gaussian_blur,
    "jpeg": jpeg,
}


def images_of(count=5, channels=3, side=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, channels, side, side)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def squeezed(module, images, **settings):
    return module.build(module.Config(**settings), recipe()).squeezed(images)


# grayscale


def test_grey_is_the_luma_of_itu_601_as_pillow_has_it():
    images = images_of(40)
    grey = squeezed(grayscale, images)
    assert torch.equal(grey[:, 0], grey[:, 1])
    assert torch.equal(grey[:, 0], grey[:, 2])
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    luma = torch.einsum("nchw,c->nhw", images.double(), weights)
    assert (grey[:, 0].double() - luma).abs().max() <= 0.501
    for image, expected in zip(images, grey, strict=True):
        pillow = Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L")
        assert np.array_equal(np.asarray(pillow), expected[0].numpy())


def test_what_is_grey_stays_and_white_is_white():
    plane = images_of(channels=1)
    assert torch.equal(squeezed(grayscale, plane.expand(-1, 3, -1, -1)), plane.repeat(1, 3, 1, 1))
    assert sum(grayscale.LUMA) == 2**16


def test_grey_images_are_refused_with_a_reason(tiny, results):
    line = refused(2, results, "defend", "--method", "grayscale", "--dataset", tiny)
    assert "grayscale: expected colour images, got images of 1 channel(s)" in line
    assert "--method none" in line


# bit depth


@pytest.mark.parametrize("bits", range(1, 8))
def test_bits_leave_so_many_levels_below_each_value(bits):
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    left = squeezed(bit_depth, every, bits=bits).flatten().tolist()
    width = 256 // 2**bits
    assert left == [width * (value // width) for value in range(256)]


def test_two_bits_are_the_default_and_pillows_posterise():
    from torchvision.transforms.functional import posterize

    images = images_of()
    assert set(squeezed(bit_depth, images).unique().tolist()) == {0, 64, 128, 192}
    assert torch.equal(squeezed(bit_depth, images), posterize(images, 2))


# Gaussian blur


@pytest.mark.parametrize(("sigma", "size"), [(1.0, 3), (0.6, 3), (2.0, 5), (1.3, 7)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_pixel_becomes_the_gaussian_mean_around_it(sigma, size, channels):
    images = images_of(2, channels)
    blurred = squeezed(gaussian_blur, images, sigma=sigma, kernel_size=size)
    half = size // 2
    weights = [math.exp(-(step**2) / (2 * sigma**2)) for step in range(-half, half + 1)]
    kernel = np.outer(weights, weights) / sum(weights) ** 2
    padding = ((0, 0), (0, 0), (half, half), (half, half))
    padded = np.pad(images.numpy().astype(float), padding, mode="reflect")
    for line in range(9):
        for column in range(9):
            window = padded[:, :, line : line + size, column : column + size]
            mean = (window * kernel).sum((2, 3))
            assert np.abs(blurred[:, :, line, column].numpy() - mean).max() <= 0.501


def test_the_papers_sigma_leaves_images_as_they_are():
    assert torch.equal(squeezed(gaussian_blur, images_of(), sigma=0.1), images_of())


# all of them


@pytest.mark.parametrize("name", FILTERS)
def test_images_are_squeezed_once_and_the_change_is_noted(name):
    images, notes = images_of(8), []
    train = TrainingSet(images, torch.arange(8) % 4)
    module = FILTERS[name]
    defense = module.build(module.Config(), recipe())
    first = defense.start_epoch(state_for(small_classifier(), train, notes=notes))
    assert first.images.dtype is torch.uint8
    assert torch.equal(first.images, defense.squeezed(images))
    assert torch.equal(train.images, images_of(8))
    assert first.labels is train.labels
    again = state_for(small_classifier(), first, epoch=1, notes=notes)
    assert defense.start_epoch(again) is first
    change = float((first.images.double() - images.double()).abs().mean() / 255)
    assert notes == [{"round": name, "mean_abs_change": pytest.approx(change)}]
    assert change > 0


@pytest.mark.parametrize("name", ["bit-depth", "gaussian-blur"])
def test_training_is_plain_training_on_the_images_made_before(name):
    module, data = FILTERS[name], split()
    defense = module.build(module.Config(), recipe())
    model, _ = tiny_train(defense)
    plain, _ = tiny_train(data=Split(defense.squeezed(data.images), data.labels))
    assert weights_digest(model) == weights_digest(plain)


@pytest.mark.parametrize(
    ("module", "changes"),
    [
        (bit_depth, {"bits": 0}),
        (bit_depth, {"bits": 8}),
        (gaussian_blur, {"sigma": 0.0}),
        (gaussian_blur, {"kernel_size": 1}),
        (gaussian_blur, {"kernel_size": 4}),
    ],
)
def test_settings_out_of_range_name_the_setting(module, changes):
    (name,) = changes
    with pytest.raises(ValueError, match=f"{name}: expected"):
        module.Config(**changes)


def test_qualities_of_jpeg_are_runs_of_their_own_with_a_name_each(tiny, artefact, results):
    line = ("defend", "--method", "jpeg", "--dataset", tiny, "--poison", artefact, "--epochs", "1")
    runs = [
        read_record(Path(done(*line, *words, "--results", results, "--json").json["path"]))
        for words in ((), ("--quality", "10"))
    ]
    assert [run.spec.setting("quality") for run in runs] == [75, 10]
    changes = [run.notes[0]["mean_abs_change"] for run in runs]
    assert changes[0] < changes[1]
    text = render(build_runs(runs, None), "markdown")
    assert [line.split("|")[1].strip() for line in text.splitlines() if "JPEG" in line] == [
        "JPEG",
        "JPEG 10",
    ]
