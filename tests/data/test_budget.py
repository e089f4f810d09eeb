"""Budgets in other norms than L-infinity: rounding within them, and what is amiss."""

import pytest
import torch

from helpers.attack_tasks import craft_spec, crafted, fake_dataset
from poisonbench.core.errors import ArtefactError
from poisonbench.data.artefacts import check_dataset, poison_files, read_poison
from poisonbench.data.budget import outside, overstep, quantise, rounding_distance
from poisonbench.data.mixing import mix
from poisonbench.data.poison import assemble, make_poison


def spread(size=0.2, shape=(5, 3, 6, 6), seed=0):
    """Clean images as uint8, far from the edges, and others as float."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randint(80, 170, shape, generator=generator, dtype=torch.uint8)
    return base, base / 255 + size * (2 * torch.rand(shape, generator=generator) - 1)


def distances(images, base):
    return ((images.double() - base.double()) / 255).flatten(1).norm(dim=1)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.5])
def test_rounding_in_l2_scales_down_and_adds_at_most_its_own_distance(epsilon):
    base, images = spread()
    rounded = quantise(images, base, epsilon, "l2")
    allowed = epsilon + rounding_distance(base[0].numel())
    assert float(distances(rounded, base).max()) <= allowed
    change = images.double() - base.double() / 255
    scaled = change * (epsilon / change.flatten(1).norm(dim=1))[:, None, None, None]
    error = (rounded.double() - base.double()) / 255 - scaled
    assert float(error.abs().max()) <= 0.5 / 255 + 1e-6


def test_rounding_in_l2_leaves_what_is_inside_as_it_is():
    base, images = spread()
    assert torch.equal(quantise(images, base, 100.0, "l2"), quantise(images, base, 1.0))


@pytest.mark.parametrize("pixels", [0, 1, 3, 36])
def test_rounding_in_l0_keeps_the_largest_changes_of_an_image(pixels):
    base, images = spread()
    rounded = quantise(images, base, pixels, "l0")
    whole = quantise(images, base, 1.0)
    changed = (rounded != base).any(1).flatten(1)
    assert (changed.sum(1) == pixels).all()
    sizes = (whole.int() - base.int()).abs().sum(1).flatten(1)
    for row in range(len(base)):
        kept, left = sizes[row][changed[row]], sizes[row][~changed[row]]
        assert min(kept.tolist(), default=10**6) >= max(left.tolist(), default=0)
    keeps = changed.view(5, 1, 6, 6).expand_as(base)
    assert torch.equal(rounded[keeps], whole[keeps])


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.05), ("l2", 0.3), ("l0", 4)])
def test_what_is_overstepped_is_in_the_unit_of_the_norm(norm, epsilon):
    base, images = spread()
    change = images - base / 255
    expected = {
        "linf": 255 * (float(change.abs().max()) - epsilon),
        "l2": float(change.flatten(1).norm(dim=1).max()) - epsilon,
        "l0": 36 - epsilon,
    }[norm]
    assert overstep(images, base, epsilon, norm) == pytest.approx(expected, rel=1e-3)
    assert overstep(images, base, None, "convolution") == 0
    inside = quantise(images, base, epsilon, norm) / 255
    assert overstep(inside, base, epsilon + rounding_distance(108) * (norm == "l2"), norm) <= 1e-3


def test_how_far_images_leave_the_range():
    assert outside(torch.tensor([-0.1, 0.5, 1.02]).view(3, 1, 1, 1)) == pytest.approx(25.5)
    assert outside(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("norm", "epsilon", "message"),
    [("l2", 0.1, "expected an L2 change of at most 0.1"), ("l0", 2, "at most 2 changed pixels")],
)
def test_an_artefact_over_its_budget_is_refused(norm, epsilon, message):
    dataset = fake_dataset()
    sources = torch.zeros(4, dtype=torch.uint8)
    images = 255 - dataset.train.images[:4]
    with pytest.raises(ArtefactError, match=message):
        assemble(
            torch.arange(4),
            images,
            sources,
            dataset,
            attacks=("own",),
            epsilon=epsilon,
            spec=craft_spec("own"),
            norm=norm,
        )


def pool(dataset, name, norm, epsilon):
    images = dataset.train.images / 255
    images[:, :, 0, 0] = 0.5
    rows = torch.arange(len(images))
    spec = craft_spec(name)
    return make_poison(images, rows, dataset, attack=name, epsilon=epsilon, spec=spec, norm=norm)


@pytest.mark.parametrize(
    ("norm", "epsilon"), [("l2", 0.9), ("l0", 2.0), ("convolution", None), ("linf", 0.6)]
)
def test_an_artefact_of_any_norm_is_read_again(norm, epsilon, tmp_path):
    dataset = fake_dataset()
    poison = pool(dataset, "own", norm, epsilon)
    for name, content in poison_files(poison, dataset).items():
        (tmp_path / name).write_bytes(content)
    again = read_poison(tmp_path, dataset)
    assert again.card == poison.card
    assert check_dataset(again, dataset) == poison.card.measured


@pytest.mark.parametrize(
    ("norms", "expected"),
    [
        ((("l2", 0.9), ("l2", 1.2)), ("l2", 1.2)),
        ((("l2", 0.9), ("linf", 0.6)), ("mixed", None)),
        ((("convolution", None), ("convolution", None)), ("convolution", None)),
    ],
)
def test_a_mix_has_a_budget_where_its_attacks_share_a_norm(norms, expected):
    dataset = fake_dataset()
    pools = {f"own{n}": pool(dataset, f"own{n}", *each) for n, each in enumerate(norms)}
    mixed = mix(pools, dataset, rho=0.5, seed=0)
    assert (mixed.card.norm, mixed.card.epsilon) == expected
    assert (mixed.card.measured.max_l2 or 0) > 0


def test_a_card_of_linf_says_nothing_of_norms(tmp_path):
    dataset = fake_dataset()
    text = poison_files(crafted(dataset), dataset)["card.json"].decode()
    assert "norm" not in text
    assert "l2" not in text
