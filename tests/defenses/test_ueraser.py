"""UEraser: its augmentations, and the choice of the draw of the largest loss."""

import math
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kornia.augmentation.auto.trivial_augment.trivial_augment import default_policy
from kornia.contrib import diamond_square

from helpers.tiny_training import SHAPE, network, recipe, split, state_of, weights_digest
from helpers.tiny_training import train as tiny_train
from poisonbench.core.work import Sizes
from poisonbench.defenses import ueraser
from poisonbench.defenses.shared import trivial_augment as trivial
from poisonbench.defenses.shared.jpeg_codec import reencoded
from poisonbench.defenses.shared.plasma import plasma

DRAWS = 4


def generator_of(seed=0):
    return torch.Generator().manual_seed(seed)


def images_of(count=6, channels=3, side=8, seed=0):
    return torch.rand(count, channels, side, side, generator=generator_of(seed))


# plasma


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (3, 1, 28, 28), (2, 2, 9, 9), (2, 1, 5, 4)])
def test_fields_are_kornias_of_the_same_draws(shape):
    roughness = torch.tensor([0.3, 0.7, 0.5], dtype=torch.float64)[: shape[0]]

    def draws(is_kornias):
        generator = generator_of(1)

        def draw(size, device=None, dtype=None):
            drawn = torch.rand(tuple(size), generator=generator, dtype=torch.float64)
            # Kornia lays its first grid on its side.
            return drawn.mT if is_kornias and size[-1] == 2 else drawn

        return draw

    # Of images that are not square ours is part of a square.
    side = max(shape[2:])
    square = (*shape[:2], side, side)
    options = {"roughness": roughness, "random_fn": draws(True), "dtype": torch.float64}
    theirs = diamond_square(square, **options)[..., : shape[2], : shape[3]]
    ours = plasma(shape, roughness, draws(False))
    assert ours.shape == shape
    assert (ours - theirs).abs().max() < 1e-12


def test_fields_are_rougher_the_rougher_they_are_asked_for():
    def draw(size):
        return torch.rand(size, generator=generator)

    variation = []
    for roughness in (0.1, 0.5, 0.9):
        generator = generator_of()
        field = plasma((40, 1, 32, 32), torch.full((40,), roughness), draw)
        assert 0 <= field.min() <= field.max() <= 1
        assert abs(float(field.mean()) - 0.5) < 0.05
        variation.append(float(field.diff(dim=-1).abs().mean()))
    assert variation == sorted(variation)


# TrivialAugment


def test_the_operations_and_ranges_are_kornias():
    theirs = {
        name.replace("_", "-"): (low, high)
        for ((name, low, high),) in default_policy
        if name not in ("auto_contrast", "equalize")
    }
    ours = {
        name: (low, high)
        for name, (_, low, high) in trivial.OPERATIONS.items()
        if name not in ("auto-contrast", "equalize")
    }
    assert ours == theirs
    assert len(trivial.OPERATIONS) == len(default_policy) == 12


@pytest.mark.parametrize("name", trivial.OPERATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_operations_keep_shape_and_range_and_take_a_strength_an_image(name, channels):
    operation, low, high = trivial.OPERATIONS[name]
    images = images_of(channels=channels)
    strengths = torch.linspace(low, high, 6)
    result = operation(images, strengths)
    assert result.shape == images.shape
    assert 0 <= result.min() <= result.max() <= 1
    alone = torch.cat([operation(images[i : i + 1], strengths[i : i + 1]) for i in range(6)])
    assert torch.allclose(result, alone, atol=1e-6)
    assert not torch.equal(result, images)


NEUTRAL = {"contrast": 1.0, "brightness": 1.0, "sharpness": 1.0, "solarize": 1.0}


@pytest.mark.parametrize(
    ("name", "strength"),
    [*NEUTRAL.items(), *((name, 0.0) for name in ("rotate", "shear-x", "shear-y", "translate-x"))],
)
def test_a_neutral_strength_changes_nothing(name, strength):
    images = images_of()
    result = trivial.OPERATIONS[name][0](images, torch.full((6,), strength))
    assert torch.allclose(result, images, atol=1e-6)


def test_operations_against_plain_arithmetic():
    images = images_of(1)
    of = {name: operation for name, (operation, *_) in trivial.OPERATIONS.items()}

    def apply(name, strength):
        return of[name](images, torch.tensor([strength]))[0]

    image = images[0]
    assert torch.allclose(apply("translate-x", 0.25)[..., :6], image[..., 2:], atol=1e-6)
    assert (apply("translate-x", 0.25)[..., 6:] == 0).all()
    assert torch.allclose(apply("translate-y", -0.5)[:, 4:], image[:, :4], atol=1e-6)
    turned = of["rotate"](images, torch.tensor([90.0]))[0]
    assert torch.allclose(turned, image.rot90(1, (1, 2)), atol=1e-5)
    levels = (image * 255).floor() // 64 * 64 / 255
    assert torch.allclose(apply("posterize", 2.7), levels, atol=1e-6)
    assert (apply("posterize", 0.5) == 0).all()
    assert torch.equal(apply("solarize", 0.3), torch.where(image < 0.3, image, 1 - image))
    assert torch.equal(apply("brightness", 1.4), (image + torch.tensor(1.4) - 1).clamp(0, 1))
    spread = apply("auto-contrast", 0.0).flatten(1)
    assert torch.allclose(spread.amin(1), torch.zeros(3), atol=1e-4)
    assert torch.allclose(spread.amax(1), torch.ones(3), atol=1e-4)


def bilinear(plane, x, y):
    """The value at a point of a plane, in pixels from the centre of its first; black outside."""
    height, width = plane.shape
    left, top = math.floor(x), math.floor(y)
    return sum(
        float(plane[line, column]) * (1 - abs(x - column)) * (1 - abs(y - line))
        for line in (top, top + 1)
        for column in (left, left + 1)
        if 0 <= line < height and 0 <= column < width
    )


@pytest.mark.parametrize("shape", [(7, 7), (6, 11), (10, 5)])
@pytest.mark.parametrize("name", ["rotate", "shear-x", "shear-y"])
def test_maps_are_in_pixels_whatever_the_sides(name, shape):
    """By each pixel of the result: it shows what the image has at the point that it comes from."""
    height, width = shape
    strength = {"rotate": 30.0}.get(name, 0.3)
    angle = math.radians(strength)
    across, down = {
        "rotate": ((math.cos(angle), -math.sin(angle)), (math.sin(angle), math.cos(angle))),
        "shear-x": ((1, strength), (0, 1)),
        "shear-y": ((1, 0), (strength, 1)),
    }[name]
    (plane,) = torch.rand(1, height, width, generator=generator_of())
    (result,) = trivial.OPERATIONS[name][0](plane[None, None], torch.tensor([strength]))[0]
    for line in range(height):
        for column in range(width):
            x, y = column - (width - 1) / 2, line - (height - 1) / 2
            from_x = across[0] * x + across[1] * y + (width - 1) / 2
            from_y = down[0] * x + down[1] * y + (height - 1) / 2
            expected = bilinear(plane, from_x, from_y)
            assert float(result[line, column]) == pytest.approx(expected, abs=1e-5)


def test_each_operation_is_drawn_as_often(monkeypatch):
    counts = Counter()

    def counting(name):
        def operation(images, strengths):
            counts[name] += 1
            assert strengths.shape == (2,)
            return images

        return operation

    spied = {name: (counting(name), *bounds) for name, (_, *bounds) in trivial.OPERATIONS.items()}
    monkeypatch.setattr(trivial, "OPERATIONS", spied)
    generator = generator_of()
    for _ in range(600):
        trivial.trivial_augment(torch.zeros(2, 1, 4, 4), generator)
    assert set(counts) == set(spied)
    assert 25 < min(counts.values()) <= max(counts.values()) < 80


# the three augmentations before it


@pytest.fixture
def without_trivial(monkeypatch):
    monkeypatch.setattr(ueraser, "trivial_augment", lambda images, generator: images)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_none_leaves_images_and_all_changes_each(channels, without_trivial):
    images = images_of(channels=channels)
    assert torch.equal(ueraser.augmented(images, 0.0, generator_of()), images)
    changed = ueraser.augmented(images, 1.0, generator_of())
    assert changed.shape == images.shape
    assert 0 <= changed.min() <= changed.max() <= 1
    assert (changed != images).flatten(1).any(1).all()
    assert torch.equal(changed, ueraser.augmented(images, 1.0, generator_of()))
    assert not torch.equal(changed, ueraser.augmented(images, 1.0, generator_of(1)))


def test_a_flat_field_leaves_brightness_and_doubles_contrast(without_trivial, monkeypatch):
    """A field of 1/2 adds nothing, and stretches contrast by 4 x 1/2; then channels change."""
    monkeypatch.setattr(ueraser, "plasma", lambda shape, roughness, draw: torch.full(shape, 0.5))
    images = images_of(400, side=2)
    changed = ueraser.augmented(images, 1.0, generator_of())
    stretched = (2 * (images - 0.5) + 0.5).clamp(0, 1)
    assert torch.allclose(changed.sort(1).values, stretched.sort(1).values)
    # Six orders, one of which leaves the channels where they are.
    same = (changed == stretched).flatten(1).all(1).float().mean()
    assert 0.1 < same < 0.25


def test_plasma_brightens_then_stretches_by_kornias_formulas(without_trivial, monkeypatch):
    """x + i (2 f - 1), i uniform on [0.5, 1], then 4 f (x - 1/2) + 1/2, clipped, of fields f."""
    field = torch.linspace(0, 1, 16).view(1, 4, 4)
    monkeypatch.setattr(ueraser, "plasma", lambda shape, roughness, draw: field.expand(shape))
    images, draws = images_of(5, side=4), generator_of(7)
    torch.rand(3, 5, generator=draws)
    intensity = 0.5 + 0.5 * torch.rand(5, 1, 1, 1, generator=draws)
    torch.rand(5, generator=draws)
    brightened = (images + intensity * (2 * field - 1)).clamp(0, 1)
    torch.rand(5, generator=draws)
    stretched = (4 * field * (brightened - 0.5) + 0.5).clamp(0, 1)
    orders = torch.rand(5, 3, generator=draws).argsort(1)
    expected = torch.stack([image[order] for image, order in zip(stretched, orders, strict=True)])
    assert torch.equal(ueraser.augmented(images, 1.0, generator_of(7)), expected)


def test_each_augmentation_is_of_about_half_of_the_images(without_trivial, monkeypatch):
    sizes = []

    def field(shape, roughness, draw):
        assert roughness.shape == shape[:1]
        assert ueraser.ROUGHNESS[0] <= roughness.min() <= roughness.max() <= ueraser.ROUGHNESS[1]
        sizes.append(shape[0])
        return torch.full(shape, 0.5)

    monkeypatch.setattr(ueraser, "plasma", field)
    ueraser.augmented(images_of(1000), 0.5, generator_of())
    assert len(sizes) == 2
    assert all(450 < size < 550 for size in sizes)


# the choice


def choice(form="max", epoch=0, **changes):
    """A batch of a run in which the network sees the draws in train mode, and what was chosen."""
    config = ueraser.Config(form=form, draws=DRAWS, **changes)
    defense = ueraser.build(config, recipe(epochs=10))
    model, data = network().train(), split(10)
    images = data.images.float() / 255
    state = state_of(model, data, split(4, 1), epoch=epoch)
    return model, images, data.labels, state, defense.perturb_batch(state, images, data.labels)


def test_the_draw_of_the_largest_loss_is_fitted_image_by_image():
    _, images, labels, state, chosen = choice()
    generator = state.generator("augmentations")
    candidates = [ueraser.augmented(images, 0.5, generator) for _ in range(DRAWS)]
    with torch.no_grad():
        # One batch of all draws, in train mode: batch norm has the statistics of all.
        logits = network().train()(torch.cat(candidates))
    losses = F.cross_entropy(logits, labels.repeat(DRAWS), reduction="none").view(DRAWS, -1)
    expected = [candidates[int(losses[:, i].argmax())][i] for i in range(len(images))]
    assert torch.equal(chosen, torch.stack(expected))
    # Images choose differently, or the maximum could be the batch's.
    assert len(losses.argmax(0).unique()) > 1


def test_the_model_and_the_global_generators_are_left_as_they_are():
    model, images, labels, state, chosen = choice()
    fresh = network().train()
    for name, value in model.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name]), name
    assert model.training
    assert not chosen.requires_grad
    # Networks above are made with the global generator.
    seeds = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())
    defense = ueraser.build(ueraser.Config(form="max", draws=DRAWS), recipe(epochs=10))
    assert torch.equal(defense.perturb_batch(state, images, labels), chosen)
    assert torch.equal(torch.get_rng_state(), seeds[0])
    assert np.random.get_state()[1].tolist() == seeds[1]
    assert random.getstate() == seeds[2]


def test_one_draw_is_not_compared():
    _, images, _, state, chosen = choice("lite")
    assert torch.equal(chosen, ueraser.augmented(images, 0.5, state.generator("augmentations")))


@pytest.mark.parametrize(("low", "high"), [(10, 99), (30, 30)])
def test_lite_jpeg_augments_a_jpeg_of_each_image(low, high):
    _, images, _, state, chosen = choice("lite-jpeg", qualities=(low, high))
    generator = state.generator("augmentations")
    qualities = torch.randint(low, high + 1, (len(images),), generator=generator)
    levels = (images * 255).round().to(torch.uint8)
    each = [reencoded(one[None], int(own)) for one, own in zip(levels, qualities, strict=True)]
    assert torch.equal(chosen, ueraser.augmented(torch.cat(each) / 255, 0.5, generator))


def test_jpegs_are_of_all_qualities_between_the_two():
    config = ueraser.Config(form="lite-jpeg", qualities=(10, 13))
    counts = Counter(ueraser.draw_qualities(config, 4000, generator_of()).tolist())
    assert counts.keys() == {10, 11, 12, 13}
    assert min(counts.values()) > 850


@pytest.mark.parametrize("qualities", [(99, 10), (10,), (10, 20, 30), (0, 10), (10, 101)])
def test_qualities_are_two_in_order(qualities):
    with pytest.raises(ValueError, match=r"qualities: expected "):
        ueraser.Config(form="lite-jpeg", qualities=qualities)


def test_qualities_are_of_lite_jpeg_alone():
    with pytest.raises(
        ValueError, match="qualities: expected them with form lite-jpeg, got form l"
    ):
        ueraser.Config(form="lite", qualities=(20, 30))


@pytest.mark.parametrize(
    ("form", "compared"),
    [("lite", 0), ("max", 200), ("full", 60), ("lite-jpeg", 0)],
    ids=["lite", "max", "full", "lite-jpeg"],
)
def test_forms_compare_in_their_epochs(form, compared):
    config = ueraser.Config(form=form)
    draws = [ueraser.num_draws(config, epoch, 200) for epoch in range(200)]
    assert draws == [5] * compared + [1] * (200 - compared)
    shape = {"shape": (3, 32, 32), "num_classes": 10, "weights": 1}
    sizes = Sizes(images=1000, train=1000, validation=10, **shape)
    passes = ueraser.work(config, recipe(epochs=200), sizes).passes
    assert sum(part.images for part in passes) == compared * 5 * 1000


@pytest.mark.parametrize("form", ["full", "lite", "max", "lite-jpeg"])
@pytest.mark.parametrize("channels", [1, 2])
def test_training_learns_and_is_the_same_again(form, channels):
    shape = (channels, *SHAPE[1:])
    models = []
    for _ in range(2):
        defense = ueraser.build(ueraser.Config(form=form, draws=2, full_share=0.5), recipe())
        model, result = tiny_train(defense, shape=shape)
        assert all(np.isfinite(row["loss"]) for row in result.curve)
        models.append(weights_digest(model))
    assert models[0] == models[1]
    assert models[0] != weights_digest(tiny_train(shape=shape)[0])


@pytest.mark.parametrize("change", [{"draws": 1}, {"full_share": 1.5}, {"probability": -0.1}])
def test_settings_out_of_range_name_the_setting(change):
    (name,) = change
    with pytest.raises(ValueError, match=f"{name}: expected"):
        replace(ueraser.Config(), **change)
