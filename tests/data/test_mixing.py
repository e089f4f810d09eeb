"""Mixes: equal, disjoint, nested in rho, balanced over classes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import to_builtins

from helpers.attack_tasks import craft_spec, fake_dataset
from poisonbench.core.errors import ArtefactError, UsageError
from poisonbench.data.artefacts import poison_files, read_poison
from poisonbench.data.mixing import assign, mix
from poisonbench.data.poison import Poison, make_poison

#: Training images a class once 1,000 are held out in equal shares.
MNIST = [5823, 6642, 5858, 6031, 5742, 5321, 5818, 6165, 5751, 5849]
CIFAR10 = [4900] * 10


def labels_of(counts, seed=0):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]


def largest_imbalance(labels, owners, num_attacks):
    """The most by which an attack's images of a class differ from the class's share of them."""
    totals = torch.bincount(labels).double()
    worst = 0.0
    for attack in range(num_attacks):
        mine = torch.bincount(labels[owners == attack], minlength=len(totals))
        worst = max(worst, float((mine - totals / len(labels) * mine.sum()).abs().max()))
    return worst


@pytest.mark.parametrize("selection", ["stratified", "uniform"])
@pytest.mark.parametrize(
    ("counts", "shares"),
    [
        (CIFAR10, {0.0: 0, 0.2: 2450, 0.4: 4900, 0.6: 7350, 0.8: 9800, 1.0: 12250}),
        (MNIST, {0.0: 0, 0.2: 2950, 0.4: 5900, 0.6: 8850, 0.8: 11800, 1.0: 14750}),
    ],
    ids=["cifar10", "mnist"],
)
def test_the_paper_s_counts(counts, shares, selection):
    labels = labels_of(counts)
    for rho, share in shares.items():
        owners = assign(labels, 4, rho, 0, selection)
        assert torch.bincount(owners + 1, minlength=5)[1:].tolist() == [share] * 4
        if selection == "stratified":
            assert largest_imbalance(labels, owners, 4) <= 1


def test_cifar10_s_classes_are_exact():
    labels = labels_of(CIFAR10)
    owners = assign(labels, 4, 0.4, 0)
    for attack in range(4):
        assert torch.bincount(labels[owners == attack]).tolist() == [490] * 10


cases = {
    "counts": st.lists(st.integers(1, 40), min_size=1, max_size=8),
    "num_attacks": st.integers(1, 5),
    "rhos": st.tuples(st.floats(0, 1), st.floats(0, 1)),
    "seed": st.integers(0, 5),
}


@settings(max_examples=150, deadline=None)
@given(selection=st.sampled_from(["stratified", "uniform"]), **cases)
def test_shares_are_equal_and_nested(counts, num_attacks, rhos, seed, selection):
    labels = labels_of(counts)
    few, many = (assign(labels, num_attacks, rho, seed, selection) for rho in sorted(rhos))
    for rho, owners in zip(sorted(rhos), (few, many), strict=True):
        share = math.floor(rho * len(labels) / num_attacks + 1e-9)
        sizes = torch.bincount(owners + 1, minlength=num_attacks + 1)[1:]
        # One owner an image makes the shares disjoint.
        assert sizes.tolist() == [share] * num_attacks
    assert torch.equal(many[few >= 0], few[few >= 0])


@settings(max_examples=150, deadline=None)
@given(**cases)
def test_stratified_shares_follow_the_classes(counts, num_attacks, rhos, seed):
    labels = labels_of(counts)
    owners = assign(labels, num_attacks, rhos[0], seed)
    # Half an image of rounding; another half for each class, weighted by the class's size; and
    # one where a part ends.
    largest_class = max(counts) / len(labels)
    assert largest_imbalance(labels, owners, num_attacks) <= 1.5 + len(counts) * largest_class / 2


@settings(max_examples=100, deadline=None)
@given(
    size=st.integers(1, 40),
    num_classes=st.integers(1, 12),
    num_attacks=st.integers(1, 5),
    rho=st.floats(0, 1),
)
def test_equal_classes_are_balanced_to_one_image(size, num_classes, num_attacks, rho):
    labels = labels_of([size] * num_classes)
    assert largest_imbalance(labels, assign(labels, num_attacks, rho, 0), num_attacks) <= 1 + 1e-9


def test_the_seed_decides_and_the_global_generator_does_not():
    labels = labels_of([30] * 4)
    state = torch.random.get_rng_state()
    assert torch.equal(assign(labels, 3, 0.5, 0), assign(labels, 3, 0.5, 0))
    assert not torch.equal(assign(labels, 3, 0.5, 0), assign(labels, 3, 0.5, 1))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("rho", [-0.1, 1.1, float("nan")])
def test_rho_outside_its_range(rho):
    with pytest.raises(UsageError, match="expected a poison ratio rho"):
        assign(labels_of([5, 5]), 2, rho, 0)


def test_no_attack_and_unknown_selection():
    with pytest.raises(UsageError, match="expected at least one attack"):
        assign(labels_of([5, 5]), 0, 0.5, 0)
    with pytest.raises(UsageError, match="expected a selection among stratified, uniform"):
        assign(labels_of([5, 5]), 2, 0.5, 0, "sorted")


# --- mixes of artefacts


def pool(dataset, name, shift, epsilon=8 / 255, size=40):
    """Every image lighter by ``shift`` levels, so a row tells which attack made it."""
    images = dataset.train.images[:size].float().add(shift).clamp(0, 255) / 255
    return make_poison(
        images,
        torch.arange(size),
        dataset,
        attack=name,
        epsilon=epsilon,
        spec=craft_spec(name, shift=shift),
    )


@pytest.fixture(scope="module")
def pools(dataset):
    return {"pgd": pool(dataset, "pgd", 3), "dap": pool(dataset, "dap", -7, epsilon=0.3)}


def test_rows_come_from_their_attack(dataset, pools):
    mixed = mix(pools, dataset, rho=0.5, seed=0)
    assert len(mixed) == 20
    assert torch.bincount(mixed.sources.long()).tolist() == [10, 10]
    for position, name in enumerate(pools):
        mine = mixed.sources == position
        assert torch.equal(mixed.images[mine], pools[name].images[mixed.indices[mine]])
    owners = assign(dataset.train.labels, 2, 0.5, 0)
    assert torch.equal(owners[mixed.indices], mixed.sources.long())


def test_card_of_a_mix(dataset, pools):
    card = mix(pools, dataset, rho=0.5, seed=4).card
    assert card.attacks == ["pgd", "dap"]
    assert card.epsilon == 0.3
    assert card.measured.max_abs_levels == 7
    assert to_builtins(card.spec) == {
        "kind": "mix",
        "recipe_number": 1,
        "pools": {name: each.digest for name, each in pools.items()},
        "order": ["pgd", "dap"],
        "rho": 0.5,
        "selection": "stratified",
        "seed": 4,
    }


@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
def test_a_mix_is_an_artefact(tmp_path, dataset, pools, rho):
    mixed = mix(pools, dataset, rho=rho, seed=0)
    for name, data in poison_files(mixed, dataset).items():
        (tmp_path / name).write_bytes(data)
    stored = read_poison(tmp_path, dataset)
    assert stored.card == mixed.card
    assert torch.equal(stored.images, mixed.images)
    assert len(stored) == round(40 * rho)


def test_a_ratio_of_less_than_an_image_is_refused(dataset, pools):
    with pytest.raises(UsageError, match=r"at least 0.05, an image for each attack among 40"):
        mix(pools, dataset, rho=0.04, seed=0)


def test_sources_cannot_be_edited(tmp_path, dataset, pools):
    mixed = mix(pools, dataset, rho=1.0, seed=0)
    edited = Poison(mixed.indices, mixed.images, mixed.sources.flip(0), mixed.card)
    assert not torch.equal(edited.sources, mixed.sources)
    for name, data in poison_files(edited, dataset).items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ArtefactError, match="expected tensors with sources_digest"):
        read_poison(tmp_path)


def test_pools_that_do_not_fit(dataset, pools):
    with pytest.raises(ArtefactError, match="pgd: expected poisons of all 40 training images"):
        mix({"pgd": pool(dataset, "pgd", 3, size=39)}, dataset, rho=0.5, seed=0)
    with pytest.raises(ArtefactError, match="dap: expected poisons of this attack alone, got pgd"):
        mix({"dap": pools["pgd"]}, dataset, rho=0.5, seed=0)
    with pytest.raises(ArtefactError, match="made for another split"):
        mix(pools, fake_dataset(seed=8), rho=0.5, seed=0)
    with pytest.raises(UsageError, match="at least one attack"):
        mix({}, dataset, rho=0.5, seed=0)
