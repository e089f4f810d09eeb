"""The poison artefact: rounding to its budget, its card, and what it does to a split."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.attack_tasks import EPSILON, SHAPE, craft_spec, fake_dataset
from poisonbench.core.errors import ArtefactError, DivergedError
from poisonbench.data.budget import levels, quantise
from poisonbench.data.poison import Poison, assemble, make_poison
from poisonbench.data.splits import digest_tensors
from poisonbench.specs import Measured

# --- levels and rounding


@pytest.mark.parametrize(
    ("epsilon", "expected"),
    [(0.0, 0), (8 / 255, 8), (0.031, 7), (0.032, 8), (0.3, 76), (76 / 255, 76), (1.0, 255)],
)
def test_levels(epsilon, expected):
    assert levels(epsilon) == expected


def test_levels_of_every_whole_budget():
    assert [levels(level / 255) for level in range(256)] == list(range(256))


@settings(max_examples=200, deadline=None)
@given(
    epsilon=st.one_of(st.sampled_from([0.0, 8 / 255, 0.3, 0.031, 0.032, 1.0]), st.floats(0, 1)),
    base=st.lists(st.integers(0, 255), min_size=1, max_size=20),
    fraction=st.floats(-1, 1),
)
def test_rounding_never_exceeds_the_budget_and_errs_by_half_a_level(epsilon, base, fraction):
    clean = torch.tensor(base, dtype=torch.uint8).view(-1, 1, 1, 1)
    exact = (clean.double() / 255 + fraction * epsilon).clamp(0, 1)
    rounded = quantise(exact.float(), clean, epsilon)
    assert rounded.dtype == torch.uint8
    assert int((rounded.short() - clean.short()).abs().max()) <= levels(epsilon)
    # Beyond half a level only where the budget's part of a level is dropped.
    assert float((rounded.double() - 255 * exact).abs().max()) <= max(
        0.5 + 1e-3, 255 * epsilon - levels(epsilon) + 1e-3
    )


@pytest.mark.parametrize("epsilon", [8 / 255, 0.3, 0.031, 0.032, 0.0999])
@pytest.mark.parametrize("sign", [1, -1])
def test_rounding_the_whole_budget_gives_its_whole_levels(epsilon, sign):
    base = torch.full((1, 1, 1, 1), 128, dtype=torch.uint8)
    rounded = quantise(base.double() / 255 + sign * epsilon, base, epsilon)
    assert int(rounded) == 128 + sign * levels(epsilon)


def test_rounding_is_half_up_and_keeps_whole_levels():
    base = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1)
    assert torch.equal(quantise(base.float() / 255, base, 0.0), base)
    moved = quantise((base.double() + 0.5).div(255).clamp(0, 1), base, EPSILON)
    assert torch.equal(moved.flatten()[:255], torch.arange(1, 256, dtype=torch.uint8))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pixels_that_are_not_finite_are_refused(value):
    base = torch.zeros(1, 1, 1, 1, dtype=torch.uint8)
    with pytest.raises(DivergedError, match="expected finite pixels"):
        quantise(torch.full((1, 1, 1, 1), value), base, EPSILON)


# --- the poison and its card


def test_card_says_what_was_made(poison, dataset):
    card = poison.card
    assert card.attacks == ["pgd"]
    assert card.levels == 8
    assert card.num_poisons == len(poison) == 10
    assert card.dataset.digest == dataset.digest
    assert card.dataset.image_shape == SHAPE
    assert card.spec.config["steps"] == [1, 2]
    assert card.digest == poison.digest == digest_tensors(poison.indices, poison.images)


def test_measured_by_hand(dataset):
    images = dataset.train.images[:2].clone()
    clean = images.short()
    images[0, 0, 0, 0] = (clean[0, 0, 0, 0] + torch.where(clean[0, 0, 0, 0] < 128, 5, -5)).byte()
    images[0, 1, 0, 0] = (clean[0, 1, 0, 0] + torch.where(clean[0, 1, 0, 0] < 128, 3, -3)).byte()
    poison = make_poison(
        images.float() / 255,
        torch.arange(2),
        dataset,
        attack="a",
        epsilon=EPSILON,
        spec=craft_spec("a"),
    )
    channels, height, width = SHAPE
    assert poison.card.measured == Measured(
        max_abs_levels=5,
        mean_abs_levels=8 / (2 * channels * height * width),
        changed_pixels=1 / (2 * height * width),
    )


def test_apply_changes_its_rows_and_nothing_else(poison, dataset):
    before = dataset.train.images.clone()
    applied = poison.apply(dataset.train)
    assert torch.equal(applied.images[poison.indices], poison.images)
    rest = torch.ones(len(dataset.train), dtype=torch.bool)
    rest[poison.indices] = False
    assert torch.equal(applied.images[rest], before[rest])
    assert torch.equal(applied.labels, dataset.train.labels)
    assert torch.equal(dataset.train.images, before)


def test_apply_refuses_another_split(poison):
    with pytest.raises(ArtefactError, match="expected a training split of 40 images"):
        poison.apply(fake_dataset(44).train)


def test_over_the_budget_is_never_assembled(dataset):
    images = dataset.train.images[:1].clone()
    images[0, 0, 0, 0] = (int(images[0, 0, 0, 0]) + 100) % 256
    with pytest.raises(ArtefactError, match="at most 8 grey levels"):
        assemble(
            torch.tensor([0]),
            images,
            torch.zeros(1, dtype=torch.uint8),
            dataset,
            attacks=("pgd",),
            epsilon=EPSILON,
            spec=craft_spec("a"),
        )


@pytest.mark.parametrize("rows", [[1, 1], [2, 1], [-1, 3], [3, 40]])
def test_rows_must_increase_within_the_split(dataset, rows):
    images = dataset.train.images[:2].float() / 255
    with pytest.raises(ArtefactError, match="indices"):
        make_poison(
            images, torch.tensor(rows), dataset, attack="a", epsilon=1.0, spec=craft_spec("a")
        )


def test_images_of_another_shape_are_refused(dataset):
    with pytest.raises(ArtefactError, match="a: expected images of shape"):
        make_poison(
            torch.rand(2, 1, 8, 8),
            torch.arange(2),
            dataset,
            attack="a",
            epsilon=1.0,
            spec=craft_spec("a"),
        )


def test_a_poison_checks_its_tensors(poison):
    with pytest.raises(ArtefactError, match="expected sources of shape"):
        Poison(poison.indices, poison.images, poison.sources[:-1], poison.card)
