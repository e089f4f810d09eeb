"""Draws of targets, poisons and transfer sets, and parts of known data sets."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from msgspec import structs, to_builtins
from scipy.stats import chisquare

from helpers.attack_tasks import K, fake_dataset, fake_split
from poisonbench.core.errors import UsageError
from poisonbench.core.settings import as_json
from poisonbench.data import sources
from poisonbench.data.names import split_size
from poisonbench.data.sources import load_dataset
from poisonbench.data.splits import Split
from poisonbench.data.targets import (
    draw_goal,
    draw_poison_rows,
    draw_transfer_rows,
    transfer_counts,
)
from poisonbench.registry import ATTACKS, DEFENSES
from poisonbench.targeting import Goal, Targeting

NUM_TEST = 60


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def dataset():
    """Class 0 has half of the 60 test images, the others ten each; four classes."""
    test = fake_split(NUM_TEST, 2)
    labels = torch.tensor([0, 0, 0, 1, 2, 3] * 10)
    return replace(fake_dataset(200), test=Split(test.images, labels))


def goals(dataset, targeting, count=2000, probabilities=None):
    """Goals of that many seeds."""
    return [draw_goal(dataset, targeting, generator(n), probabilities) for n in range(count)]


# Random targets


def test_the_same_seed_draws_the_same_goal_and_another_one_another(dataset):
    first, second = goals(dataset, Targeting(), 50), goals(dataset, Targeting(), 50)
    assert first == second
    assert len({goal.target for goal in first}) > 20


def test_settings_of_the_attack_and_of_the_victim_leave_the_target_alone(dataset):
    plain = draw_goal(dataset, Targeting(), generator(5))
    for change in ({"rho": 0.2}, {"scenario": "transfer", "transfer_share": 0.5}):
        other = draw_goal(dataset, Targeting(**change), generator(5))
        assert structs.replace(other, scenario="scratch") == plain


def test_random_goals_are_uniform_over_classes_then_over_images(dataset):
    """Not over images: class 0 has three times the others' test images."""
    drawn = goals(dataset, Targeting())
    labels = dataset.test.labels
    assert all(int(labels[goal.target]) == goal.target_class for goal in drawn)
    assert all(goal.poison_class == goal.intended_class for goal in drawn)
    assert {goal.targets for goal in drawn} == {"random"}
    pairs = Counter((goal.target_class, goal.intended_class) for goal in drawn)
    assert len(pairs) == K * (K - 1)
    assert not any(own == intended for own, intended in pairs)
    assert chisquare(list(pairs.values())).pvalue > 1e-3
    for label in range(K):
        rows = Counter(goal.target for goal in drawn if goal.target_class == label)
        assert len(rows) == int((labels == label).sum())
        assert chisquare(list(rows.values())).pvalue > 1e-3


def test_a_given_intended_class_draws_the_target_from_the_others(dataset):
    drawn = goals(dataset, Targeting(intended_class=2))
    assert {goal.intended_class for goal in drawn} == {2}
    classes = Counter(goal.target_class for goal in drawn)
    assert set(classes) == {0, 1, 3}
    assert chisquare(list(classes.values())).pvalue > 1e-3
    # Where the class was another one anyway, nothing changes.
    free = goals(dataset, Targeting())
    same = [f.target == d.target for f, d in zip(free, drawn, strict=True) if f.target_class != 2]
    assert all(same)


def test_what_is_given_is_taken(dataset):
    given = {"target": 3, "intended_class": 2, "poison_class": 0}
    (goal,) = goals(dataset, Targeting(**given), 1)
    assert goal == Goal(3, 1, 2, 0, "scratch", "given")
    assert to_builtins(goal)["kind"] == "targeted"
    drawn = goals(dataset, Targeting(target=3), 200)
    assert {goal.target for goal in drawn} == {3}
    assert {goal.intended_class for goal in drawn} == {0, 2, 3}
    assert {g.targets for g in goals(dataset, Targeting(intended_class=2), 20)} == {"random"}


def test_a_class_without_test_images_gives_its_draws_to_all_others(dataset):
    labels = torch.tensor([0, 1, 2, 0, 1, 2] * 10)
    fewer = replace(dataset, test=Split(dataset.test.images, labels))
    drawn = goals(fewer, Targeting(intended_class=1), 300)
    assert {goal.target_class for goal in drawn} == {0, 2}


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"target": NUM_TEST}, "--target: expected a row of the test split in 0..59, got 60"),
        ({"intended_class": K}, "--intended-class: expected a class in 0..3, got 4"),
        ({"poison_class": K}, "--poison-class: expected a class in 0..3, got 4"),
        ({"target": 3, "intended_class": 1}, "--intended-class: expected another class"),
    ],
)
def test_goals_that_do_not_exist(dataset, given, match):
    with pytest.raises(UsageError, match=match):
        draw_goal(dataset, Targeting(**given), generator())


def test_no_test_image_but_of_the_intended_class(dataset):
    ones = replace(dataset, test=Split(dataset.test.images, torch.ones(NUM_TEST).long()))
    with pytest.raises(UsageError, match="expected test images of other classes than 1"):
        draw_goal(ones, Targeting(intended_class=1), generator())


# Easy targets


@pytest.fixture(scope="module")
def easy():
    """400 test images, and what three models say of them: right on four of five."""
    base = fake_dataset()
    test = fake_split(400, 2)
    logits = 3 * torch.randn(3, 400, K, generator=generator(1))
    logits += 6 * torch.nn.functional.one_hot(test.labels, K)
    return replace(base, test=test), logits.softmax(2)


def brute_window(labels, probabilities, excluded=None):
    """The easy targets, image by image."""
    margins = []
    for row, label in enumerate(labels.tolist()):
        votes = [int(p[row].argmax()) for p in probabilities]
        if all(vote == label for vote in votes) and label != excluded:
            first, second = sorted((probabilities[:, row].mean(0)).tolist())[:-3:-1]
            margins.append((first - second, row))
    margins.sort()
    count = len(margins)
    assert 100 < count < 390
    return {row for _, row in margins[int(0.01 * count) : int(0.05 * count)]}


@pytest.mark.parametrize("intended", [None, 2])
def test_easy_targets_are_those_of_small_margin(easy, intended):
    dataset, probabilities = easy
    targeting = Targeting(targets="easy", intended_class=intended)
    drawn = goals(dataset, targeting, 300, probabilities)
    window = brute_window(dataset.test.labels, probabilities, intended)
    assert {goal.target for goal in drawn} == window
    assert {goal.targets for goal in drawn} == {"easy"}
    for goal in drawn:
        mean = probabilities[:, goal.target].mean(0).tolist()
        runner_up = max((k for k in range(K) if k != goal.target_class), key=mean.__getitem__)
        assert goal.intended_class == (runner_up if intended is None else intended)


def test_a_given_target_is_not_sought_among_the_easy(easy):
    goal = draw_goal(easy[0], Targeting(targets="easy", target=7), generator())
    assert (goal.target, goal.targets) == (7, "given")


def test_easy_needs_one_image_and_takes_the_only_one(easy):
    dataset, _ = easy
    wrong = torch.eye(K)[(dataset.test.labels + 1) % K].expand(2, -1, -1).clone()
    with pytest.raises(UsageError, match="every clean model gets right, got none"):
        draw_goal(dataset, Targeting(targets="easy"), generator(), wrong)
    wrong[:, 9] = torch.eye(K)[dataset.test.labels[9]]
    assert draw_goal(dataset, Targeting(targets="easy"), generator(), wrong).target == 9
    with pytest.raises(ValueError, match="expected probabilities"):
        draw_goal(dataset, Targeting(targets="easy"), generator())


# Poisons


def goal_of(poison_class, scenario="scratch"):
    return Goal(0, (poison_class + 1) % K, poison_class, poison_class, scenario, "random")


@pytest.mark.parametrize(("rho", "count"), [(0.0, 0), (1e-15, 1), (0.01, 2), (0.07, 14), (0.1, 20)])
def test_poison_rows(dataset, rho, count):
    labels = dataset.train.labels
    rows = draw_poison_rows(labels, goal_of(2), Targeting(rho=rho), generator(3))
    assert len(rows) == count
    assert bool((rows.diff() > 0).all())
    assert bool((labels[rows] == 2).all())
    more = draw_poison_rows(labels, goal_of(2), Targeting(rho=0.2), generator(3))
    assert set(rows.tolist()) <= set(more.tolist())


def test_hints_counts():
    """490 of 49,000, and a transfer set of 4,900 in which the class is poison throughout."""
    labels = torch.arange(49_000) % 10
    targeting = Targeting(scenario="transfer")
    goal = Goal(0, 1, 4, 4, "transfer", "random")
    poisons = draw_poison_rows(labels, goal, targeting, generator())
    rows = draw_transfer_rows(labels, poisons, targeting.transfer_share, generator(1))
    assert (len(poisons), len(rows)) == (490, 4900)
    assert torch.bincount(labels[rows]).tolist() == [490] * 10
    assert set(rows[labels[rows] == 4].tolist()) == set(poisons.tolist())


def test_every_image_of_the_class_is_drawn_as_often(dataset):
    labels = dataset.train.labels
    drawn = Counter(
        row
        for seed in range(400)
        for row in draw_poison_rows(
            labels, goal_of(1), Targeting(rho=0.02), generator(seed)
        ).tolist()
    )
    assert len(drawn) == 50
    assert chisquare(list(drawn.values())).pvalue > 1e-3


def test_too_many_poisons(dataset):
    labels = dataset.train.labels
    with pytest.raises(UsageError, match=r"at most 50 poisons.*50 training images, got 51"):
        draw_poison_rows(labels, goal_of(1), Targeting(rho=0.255), generator())
    transfer = Targeting(rho=0.03, scenario="transfer")
    with pytest.raises(UsageError, match=r"at most 5 poisons.*5 places in the transfer set, got 6"):
        draw_poison_rows(labels, goal_of(1, "transfer"), transfer, generator())


# Transfer sets


@pytest.mark.parametrize("rho", [0.0, 0.01, 0.025])
def test_a_transfer_set_has_the_poisons_and_its_share_of_every_class(dataset, rho):
    labels = dataset.train.labels
    targeting = Targeting(scenario="transfer", rho=rho)
    poisons = draw_poison_rows(labels, goal_of(3, "transfer"), targeting, generator(1))
    rows = draw_transfer_rows(labels, poisons, 0.1, generator(2))
    assert bool((rows.diff() > 0).all())
    assert set(poisons.tolist()) <= set(rows.tolist())
    assert torch.bincount(labels[rows], minlength=K).tolist() == [5] * K
    share = torch.isin(rows[labels[rows] == 3], poisons).float().mean()
    assert float(share) == pytest.approx(len(poisons) / 5)
    clean = draw_transfer_rows(labels, poisons[:0], 0.1, generator(2))
    others = labels[rows] != 3
    assert torch.equal(rows[others], clean[labels[clean] != 3])


def test_transfer_counts_are_rounded_shares_of_each_class():
    labels = torch.tensor([0] * 14 + [1] * 15 + [2] * 26)
    assert transfer_counts(labels, 0.1).tolist() == [1, 2, 3]
    rows = draw_transfer_rows(labels, torch.empty(0).long(), 0.1, generator())
    assert torch.bincount(labels[rows]).tolist() == [1, 2, 3]


def test_more_poisons_than_places(dataset):
    poisons = (dataset.train.labels == 1).nonzero().flatten()[:6]
    with pytest.raises(UsageError, match=r"places for 6 poisons of class 1, got 5 at 0.1"):
        draw_transfer_rows(dataset.train.labels, poisons, 0.1, generator())


# Settings


@pytest.mark.parametrize(
    "settings",
    [
        {"rho": -0.1},
        {"rho": 1.1},
        {"target": -1},
        {"intended_class": -1},
        {"poison_class": -1},
        {"transfer_share": 0.0},
        {"transfer_share": 1.0},
        {"norm_drift": True},
    ],
)
def test_settings_out_of_range(settings):
    with pytest.raises(ValueError, match=r"expected"):
        Targeting(**settings)


def test_no_setting_of_a_method_hides_the_targets():
    """Of a name in both, the method's own could not be set."""
    names = set(as_json(Targeting()))
    targeted = [entry for entry in ATTACKS if entry.scenario]
    assert len(targeted) >= 6
    for entry in (*targeted, *DEFENSES):
        assert not names & set(as_json(entry.load().Config())), entry.name


# Parts of known data sets: NAME@SIZE


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("mnist", ("mnist", None)),
        ("mnist-sample@1000", ("mnist-sample", 1000)),
        ("cifar10@010", ("cifar10", 10)),
        ("npz:a@7.npz", ("npz:a@7.npz", None)),
        ("folder:x@9", ("folder:x@9", None)),
    ],
)
def test_names_with_sizes(name, parts):
    assert split_size(name) == parts


@pytest.mark.parametrize("size", ["", "0", "-5", "x", "1.5", "1e3", "²", "٣", "5@5", "9" * 5000])
def test_bad_sizes(size):
    with pytest.raises(UsageError, match="a number of training images behind the @"):
        split_size(f"cifar10@{size}")


@pytest.fixture
def mnist_like(monkeypatch):
    """A data set of 200 images, 30 of its smallest class, under the name of the sample."""
    labels = torch.cat([torch.arange(4)[:3].repeat(57)[:170], torch.full((30,), 3)])
    whole = replace(fake_dataset(200, labels=labels), name="mnist-sample", is_paper=True)
    monkeypatch.setattr(sources, "assemble", lambda *loaded: whole)
    return whole


def test_a_part_is_balanced_and_nothing_else_changes(mnist_like, tmp_path):
    part = load_dataset("mnist-sample@42", tmp_path, 0)
    assert torch.bincount(part.train.labels).tolist() == [11, 11, 10, 10]
    assert part.name == "mnist-sample@42"
    assert part.presets == (*mnist_like.presets, "mnist-sample@42")
    assert not part.is_paper
    assert part.test is mnist_like.test
    assert part.validation is mnist_like.validation
    assert part.digest != mnist_like.digest
    pixels = {image.numpy().tobytes() for image in mnist_like.train.images}
    assert {image.numpy().tobytes() for image in part.train.images} <= pixels
    assert load_dataset("mnist-sample@42", tmp_path, 0).digest == part.digest
    assert load_dataset("mnist-sample@42", tmp_path, 1).digest != part.digest


def test_a_larger_part_holds_a_smaller_one(mnist_like, tmp_path):
    small, large = (load_dataset(f"mnist-sample@{n}", tmp_path, 0) for n in (20, 60))
    images = [{image.numpy().tobytes() for image in d.train.images} for d in (small, large)]
    assert images[0] < images[1]


@pytest.mark.parametrize("size", [3, 117, 200])
def test_a_part_of_no_such_size(mnist_like, tmp_path, size):
    """4 classes; the smallest has 30 images, of which one stays outside."""
    with pytest.raises(UsageError, match=f"4 to 116 training images.*got {size}"):
        load_dataset(f"mnist-sample@{size}", tmp_path, 0)
    assert len(load_dataset("mnist-sample@116", tmp_path, 0).train) == 116


def test_a_part_of_the_embedded_sample(tmp_path):
    part = load_dataset("mnist-sample@1000", tmp_path, 0)
    assert torch.bincount(part.train.labels).tolist() == [100] * 10
    assert part.presets == ("mnist", "mnist-sample", "mnist-sample@1000")
    with pytest.raises(UsageError, match="did you mean 'mnist-sample'"):
        load_dataset("mnist-sampel@1000", tmp_path, 0)
