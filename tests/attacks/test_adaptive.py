"""Each defense in the loop against its own code and gradients by hand in float64."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.adaptive import (
    ASSUMED,
    EPSILON,
    SIDE,
    P,
    by_hand,
    defense_of,
    drawing,
    few_images,
    levels,
    linear,
    loop_gradient,
    residual_of,
    their_labels,
)
from helpers.attack_tasks import K, noise_task, small_classifier, task_for
from poisonbench import registry
from poisonbench.attacks import gradient_matching as gm
from poisonbench.attacks import pgd
from poisonbench.attacks import targeted_adversarial as tap
from poisonbench.attacks.shared import adaptive, class_descent, matching, targeted_optimiser
from poisonbench.attacks.shared.adaptive import EPIC_WEIGHT, assumed_defense
from poisonbench.core.errors import UsageError
from poisonbench.core.settings import as_json, options_of
from poisonbench.defenses import friends, grayscale, jpeg
from poisonbench.defenses.shared.jpeg_codec import reencoded
from poisonbench.models.classifier import BLOCK, Classifier, initialise
from poisonbench.training import projected_gradient
from poisonbench.training.projected_gradient import project_linf


@pytest.fixture
def images():
    return few_images()


@pytest.fixture
def labels():
    return their_labels()


@pytest.mark.parametrize("name", ["jpeg", "grayscale", "friends", "epic"])
def test_the_gradient_of_the_loop_is_that_by_hand(name, images, labels):
    model, defense = linear(), defense_of(name)
    defense.meet(model, images, labels, K)
    gradient = loop_gradient(defense, model, images, labels)
    expected = by_hand(name, model, images, labels)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-6)
    plain = loop_gradient(defense_of("none"), model, images, labels)
    assert float((gradient - plain).abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["ueraser", "ueraser:lite-jpeg"])
def test_the_gradient_behind_augmentations_is_that_of_each_draw(name, images, labels):
    """In float32, as the augmentations are."""
    model, images = linear().float(), images.float()
    gradient = loop_gradient(defense_of(name), model, images, labels)
    expected = by_hand(name, model, images, labels)
    torch.testing.assert_close(gradient, expected.to(gradient), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_jpeg_is_seen_as_the_defense_leaves_it(channels):
    images = torch.rand(3, channels, 12, 20, generator=drawing(4))
    seen = defense_of("jpeg").seen(images)
    assert torch.equal(levels(seen), reencoded(levels(images), 30))
    assert float((seen - images).abs().max()) > 0.01
    # With a gradient it looks the same.
    assert torch.equal(defense_of("jpeg").seen(images.clone().requires_grad_()), seen)


@pytest.mark.parametrize("channels", [1, 3])
def test_little_of_a_gradient_reaches_what_jpeg_takes_away(channels):
    ramp = torch.linspace(0.2, 0.8, 16).expand(1, channels, 16, 16)
    images = (ramp + 0.02 * torch.rand(ramp.shape, generator=drawing(4))).requires_grad_()
    seen = assumed_defense("jpeg", jpeg.Config(quality=10), drawing()).seen(images)
    board = (-1.0) ** (torch.arange(16)[:, None] + torch.arange(16)).expand_as(images)
    smooth = torch.ones_like(images)
    fine, coarse = (
        float(torch.autograd.grad(seen, images, slope, retain_graph=True)[0].norm())
        for slope in (board, smooth)
    )
    assert fine < 0.2 * coarse


def test_the_luma_is_the_defenses_but_for_its_rounding(images):
    seen = defense_of("grayscale").seen(images)
    exact = grayscale.luma(levels(images)).expand_as(images) / 255
    assert float((seen - exact).abs().max()) <= 0.5 / 255 + 1e-6


def test_friends_noise_is_the_defenses_and_new_each_time(images):
    defense = defense_of("friends", 3)
    first, second = (defense.seen(images) - images for _ in range(2))
    sizes = (first.abs() * 255).round()
    assert torch.equal(sizes, torch.full_like(sizes, 16))
    assert not torch.equal(first, second)
    assert torch.equal(first, defense_of("friends", 3).seen(images) - images)


def test_class_gradients_are_means_by_class(images, labels):
    model = linear()
    labels = torch.where(labels == 2, 1, labels)
    centres = adaptive.class_gradients(model, images, labels, K)
    for label in range(K):
        own = [residual_of(model, images[row], label) for row in range(P) if labels[row] == label]
        expected = sum(own) / len(own) if own else torch.zeros(K, dtype=torch.float64)
        torch.testing.assert_close(centres[label], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["jpeg", "grayscale", "friends", "epic"])
def test_pgd_takes_its_step_in_the_loop(name, images, labels):
    model = linear()
    config = pgd.Config(epsilon=EPSILON, steps=1, step_ratio=0.5, precision="float32", against=name)
    task = dataclasses.replace(task_for(model, images, labels, seed=7), assumed=ASSUMED.get(name))
    poisoned = pgd.craft(task, config)
    again, defense = drawing(7), None
    offsets = torch.rand(images.shape, generator=again) * 2 - 1
    start = (images + EPSILON * offsets).clamp(0, 1)
    defense = assumed_defense(name, ASSUMED.get(name), again)
    defense.meet(model, images, labels, K)
    slope = loop_gradient(defense, model, start, labels)
    expected = project_linf(start + 0.5 * EPSILON * slope.sign(), images, EPSILON)
    assert torch.equal(poisoned, expected)
    plain = pgd.craft(
        task_for(model, images, labels, seed=7), dataclasses.replace(config, against="none")
    )
    assert not torch.equal(poisoned, plain)


@pytest.mark.parametrize("name", ["jpeg", "epic", "friends"])
def test_pgd_raises_the_loss_behind_the_defense(name, images, labels):
    """Restarts and crops too; images stay in the budget."""
    model = linear()
    config = pgd.Config(
        epsilon=EPSILON,
        steps=5,
        step_ratio=0.3,
        restarts=2,
        augment="crop-flip",
        precision="float32",
        against=name,
    )
    task = dataclasses.replace(
        task_for(model, images.float(), labels),
        assumed=ASSUMED.get(name),
        surrogate=lambda: model.float(),
    )
    poisoned = pgd.craft(task, config)
    assert float((poisoned - images).abs().max()) <= EPSILON + 1e-6
    seen = [defense_of(name).seen(part) for part in (images.float(), poisoned)]
    before, after = (F.cross_entropy(model(part), labels) for part in seen)
    assert float(after) > float(before)


def test_pgd_raises_the_loss_behind_augmentations(images, labels):
    """The mean one of many draws; random crops of such small images would drown it."""
    model = linear().float()
    config = pgd.Config(
        epsilon=EPSILON,
        steps=40,
        step_ratio=0.1,
        augment="none",
        precision="float32",
        against="ueraser",
    )
    task = dataclasses.replace(task_for(model, images.float(), labels), assumed=ASSUMED["ueraser"])
    losses = []
    for part in (images.float(), pgd.craft(task, config)):
        defense = defense_of("ueraser")
        drawn = [F.cross_entropy(model(defense.seen(part)), labels) for _ in range(100)]
        losses.append(float(sum(drawn)) / 100)
    assert losses[1] > losses[0] + 0.1


def test_epics_term_keeps_poisons_near_their_class(images, labels):
    model = linear()
    ends = []
    for name in ("none", "epic"):
        config = pgd.Config(
            epsilon=EPSILON, steps=8, step_ratio=0.3, precision="float32", against=name
        )
        poisoned = pgd.craft(task_for(model, images, labels), config)
        centres = adaptive.class_gradients(model, images, labels, K)
        ends.append(float(adaptive.gradient_distance(model(poisoned), labels, centres).mean()))
    assert ends[1] < ends[0]


# TAP


@pytest.mark.parametrize("name", ["jpeg", "grayscale", "friends"])
def test_tap_takes_its_step_in_the_loop(name, images, labels):
    model = linear()
    config = tap.Config(
        epsilon=EPSILON,
        steps=1,
        step_ratio=0.5,
        restarts=1,
        augment="none",
        precision="float32",
        against=name,
    )
    task = dataclasses.replace(task_for(model, images, labels, seed=7), assumed=ASSUMED.get(name))
    poisoned = tap.craft(task, config)
    again = drawing(7)
    noise = torch.randn(images.shape, generator=again).clamp(-1, 1)
    start = (images + EPSILON * noise).clamp(0, 1)
    defense = assumed_defense(name, ASSUMED.get(name), again)
    slope = loop_gradient(defense, model, start, (labels + 1) % K)
    expected = project_linf(start - 0.5 * EPSILON * slope.sign(), images, EPSILON)
    assert torch.equal(poisoned, expected)
    plain = tap.craft(
        task_for(model, images, labels, seed=7), dataclasses.replace(config, against="none")
    )
    assert not torch.equal(poisoned, plain)


def test_tap_chooses_among_restarts_by_what_the_defense_leaves(images, labels):
    model = linear().float()
    config = tap.Config(
        epsilon=EPSILON,
        steps=2,
        step_ratio=0.3,
        augment="none",
        precision="float32",
        against="jpeg",
    )
    behind = assumed_defense("jpeg", ASSUMED["jpeg"], drawing(0))
    losses = []
    for restarts in (1, 4):
        task = dataclasses.replace(task_for(model, images.float(), labels), assumed=ASSUMED["jpeg"])
        poisoned = tap.craft(task, dataclasses.replace(config, restarts=restarts))
        seen = model(behind.seen(poisoned))
        losses.append(F.cross_entropy(seen, (labels + 1) % K, reduction="none"))
    assert (losses[1] <= losses[0]).all()
    assert (losses[1] < losses[0]).any()


# GM


@pytest.mark.parametrize("name", ["jpeg", "friends", "epic", "grayscale"])
def test_gm_takes_its_first_step_in_the_loop(name):
    """Signed Adam's first step is a whole one along the sign; the last decay divides it by 1000."""
    model = small_classifier().requires_grad_(False).double()
    if name == "grayscale":
        features = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5), nn.Softplus())
        model = Classifier(features, nn.Linear(5, K), (0.5,) * 3, (0.2,) * 3)
        initialise(model, drawing(1))
        model = model.double().eval().requires_grad_(False)
    config = gm.Config(
        epsilon=0.2,
        steps=1,
        step_size=10.0,
        step_unit="pixel",
        restarts=1,
        brew_augment="none",
        against=name,
    )
    task = noise_task(dtype=torch.float64, snapshots=lambda number, ends: [model for _ in ends])
    if name == "grayscale":
        task = dataclasses.replace(
            task,
            images=task.images[:, :, :1].repeat(1, 1, 3, 1, 1)
            ** torch.tensor([1, 2, 3])[:, None, None],
            targets=task.targets[:, :1].repeat(1, 3, 1, 1),
        )
    task = dataclasses.replace(task, assumed=ASSUMED.get(name))
    poisons = gm.craft(task, config)
    for number, generator in enumerate(drawing(seed) for seed in (3, 4)):
        base, labels = task.images[number], task.labels[number]
        noise = torch.randn(base[None].shape, generator=generator)[0]
        start = (base + (0.2 * noise).clamp(-0.2, 0.2).double()).clamp(0, 1)
        defense = assumed_defense(name, ASSUMED.get(name), generator)
        source = start.clone().requires_grad_()
        seen = defense.view(source, 0)
        copies = labels.repeat(len(seen) // len(labels))
        gradient = matching.parameter_gradient(model, seen, copies, create_graph=True)
        goal = matching.parameter_gradient(
            model, task.targets[number, None], task.intended[number, None]
        )
        loss = 1 - F.cosine_similarity(gradient, goal, dim=0)
        if name == "epic":
            clean = (model(task.train.images.double() / 255)).softmax(1)
            own = (clean - F.one_hot(task.train.labels, K))[task.train.labels == labels[0]].mean(0)
            apart = model(seen).softmax(1) - F.one_hot(labels, K) - own
            loss = loss + EPIC_WEIGHT * apart.square().sum(1).mean()
        (slope,) = torch.autograd.grad(loss, source)
        expected = project_linf(start - 0.01 * slope.sign(), base, 0.2)
        agree = (poisons[number] - expected).abs() < 1e-9
        # The sign of a slope that is mostly rounding may be either.
        assert float(agree.double().mean()) > 0.99


def test_what_a_defense_sees_of_gms_poisons_are_images(monkeypatch):
    """Starts too, whose noise may lead out of [0, 1]."""
    seen = []

    def view(self, images, step):
        seen.append((float(images.detach().min()), float(images.detach().max())))
        return images

    monkeypatch.setattr(adaptive.AssumedDefense, "view", view)
    task = dataclasses.replace(noise_task(), assumed=ASSUMED["jpeg"])
    gm.craft(task, gm.Config(epsilon=0.2, steps=2, restarts=2, against="jpeg"))
    assert len(seen) == 8
    assert min(low for low, _ in seen) == 0
    assert max(high for _, high in seen) == 1


def test_gm_against_friends_is_augmented_draw_by_draw():
    config = gm.Config(epsilon=0.2, steps=2, restarts=2, against="friends")
    task = dataclasses.replace(noise_task(), assumed=friends.Config())
    alone = gm.craft(dataclasses.replace(noise_task(slice(1, 2)), assumed=friends.Config()), config)
    poisons = gm.craft(task, config)
    assert poisons.shape == task.images.shape
    # A target's draws are its own.
    assert torch.equal(poisons[1:], alone)


# Draws


@pytest.mark.parametrize("attack", [pgd, tap])
@pytest.mark.parametrize("name", ["friends", "ueraser", "ueraser:lite-jpeg"])
def test_draws_do_not_depend_on_a_devices_pass(name, attack, monkeypatch):
    images = torch.rand(2 * BLOCK + 10, 3, SIDE, SIDE, generator=drawing(6))
    labels = torch.arange(len(images)) % K
    config = attack.Config(
        epsilon=EPSILON, steps=1, restarts=2, augment="crop-flip", precision="float32", against=name
    )
    poisons = []
    for size in (BLOCK, 4 * BLOCK):
        for module in (projected_gradient, class_descent):
            monkeypatch.setattr(module, "pass_size", lambda *_, size=size, **__: size)
        task = task_for(linear().float(), images, labels)
        poisons.append(attack.craft(dataclasses.replace(task, assumed=ASSUMED[name]), config))
    assert torch.equal(*poisons)


@pytest.mark.parametrize("name", ["friends", "ueraser"])
def test_gms_draws_do_not_depend_on_a_devices_pass(name, monkeypatch):
    """With several restarts and surrogates, which take turns in a pass."""
    config = gm.Config(
        epsilon=0.2, steps=2, restarts=2, surrogates=2, brew_augment="none", against=name
    )
    poisons = []
    for size in (1, 4):
        monkeypatch.setattr(targeted_optimiser, "groups_in_a_pass", lambda base, size=size: size)
        task = dataclasses.replace(noise_task(), assumed=ASSUMED[name])
        poisons.append(gm.craft(task, config))
    assert torch.equal(*poisons)


# Settings


ADAPTIVE = {entry.name: entry for entry in registry.ATTACKS if entry.against}


def accepted(config, choice):
    try:
        return bool(config(against=choice))
    except ValueError:
        return False


def test_the_registry_says_which_attacks_can_be_adaptive():
    assert set(ADAPTIVE) == {"pgd", "em", "tap", "gm"}
    for entry in registry.ATTACKS:
        config = entry.load().Config
        choices = {option.name: option.choices for option in options_of(config)}.get("against", ())
        taken = {choice for choice in choices if accepted(config, choice)}
        assert taken - {"none"} == set(entry.against)
        assert ("adaptive against" in entry.about) is bool(entry.against)
        assert "against" not in as_json(config())


def test_an_entry_that_adapts_needs_the_setting():
    entry = dataclasses.replace(registry.attacks()["dap"], against=("jpeg",))
    assert "expected Config in poisonbench.attacks.delusive_adversarial" in entry.fault()
    assert "with a setting against" in entry.fault()
    assert not registry.attacks()["pgd"].fault()


def test_a_form_of_a_defense_is_named_by_its_value():
    entry, form = registry.find_form("jpeg:10")
    assert (entry.name, form) == ("jpeg", {"quality": 10})
    assert registry.find_form("jpeg") == (entry, {})
    with pytest.raises(UsageError, match=r"a form of it among jpeg:10; got jpeg:20"):
        registry.find_form("jpeg:20")
    with pytest.raises(UsageError, match="expected knn, which has no form; got knn:3"):
        registry.find_form("knn:3")
