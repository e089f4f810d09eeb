"""Each defense in the loop against its own code and gradients by hand in float64."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from kornia.enhance import jpeg_codec_differentiable
from torch import nn

from helpers.attack_tasks import K, noise_task, small_classifier, task_for
from poisonbench import registry
from poisonbench.attacks import error_minimising as em
from poisonbench.attacks import gradient_matching as gm
from poisonbench.attacks import pgd
from poisonbench.attacks.shared import adaptive, matching
from poisonbench.attacks.shared.adaptive import DRAWS, EPIC_WEIGHT, assumed_defense
from poisonbench.core.errors import UsageError
from poisonbench.core.settings import as_json, options_of
from poisonbench.defenses import friends, grayscale, hint, jpeg, ueraser
from poisonbench.defenses.jpeg import reencoded
from poisonbench.models.classifier import Classifier, initialise
from poisonbench.training.projected_gradient import project_linf

SIDE, P, EPSILON = 8, 10, 0.1
#: What the harness gives of each defense that has settings.
ASSUMED = {
    "jpeg": jpeg.Config(quality=30),
    "friends": friends.Config(),
    "ueraser": ueraser.Config(),
    "hint": hint.Config(),
}


def drawing(seed=0):
    return torch.Generator().manual_seed(seed)


def defense_of(name, seed=0):
    return assumed_defense(name, ASSUMED.get(name), drawing(seed))


@pytest.fixture
def images():
    drawn = torch.randint(0, 256, (P, 3, SIDE, SIDE), generator=drawing(1), dtype=torch.uint8)
    return drawn.double() / 255


@pytest.fixture
def labels():
    return torch.arange(P) % K


def linear():
    """A float64 classifier of one layer, frozen, whose gradients are known."""
    model = Classifier(nn.Flatten(), nn.Linear(3 * SIDE**2, K), (0.0,) * 3, (1.0,) * 3)
    initialise(model, drawing(2))
    # So that validation images, which are uint8, become float64 too.
    model.is_normalised = True
    return model.double().eval().requires_grad_(False)


def levels(images):
    return (images * 255).round().to(torch.uint8)


def residual_of(model, image, label):
    """Softmax - onehot of one image, class by class."""
    scores = model.head.weight @ image.flatten() + model.head.bias
    odds = (scores - scores.max()).exp()
    residual = odds / odds.sum()
    residual[label] -= 1
    return residual


def gradient_at(model, image, label):
    """Of the cross-entropy of one image: W' (p - y)."""
    return (model.head.weight.T @ residual_of(model, image, label)).view_as(image)


def loop_gradient(defense, model, images, labels):
    source = images.clone().requires_grad_()
    loss = defense.loss(model(defense.view(source, 0)), labels)
    return torch.autograd.grad(loss, source)[0]


def kornias(images, quality, slopes):
    """What Kornia's JPEG of each image, its last row and column repeated, makes of the slopes."""
    source = images.float().requires_grad_()
    rows = [min(row, SIDE - 1) for row in range(16)]
    padded = source[:, :, rows][..., rows]
    soft = jpeg_codec_differentiable(padded, torch.full((len(images),), float(quality)))
    shown = soft[..., :SIDE, :SIDE]
    return torch.autograd.grad(shown, source, slopes.float())[0].double()


def by_hand(name, model, images, labels):
    """The gradients that the loop shall have, image by image."""
    if name == "jpeg":
        seen = reencoded(levels(images), 30).double() / 255
        rows = [gradient_at(model, *row) for row in zip(seen, labels, strict=True)]
        return kornias(images, 30, torch.stack(rows))
    if name == "grayscale":
        weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
        rows = []
        for image, label in zip(images, labels, strict=True):
            luma = sum(weight * plane for weight, plane in zip(weights, image, strict=True))
            slope = gradient_at(model, torch.stack([luma] * 3), label).sum(0)
            rows.append(torch.stack([weight * slope for weight in weights]))
        return torch.stack(rows)
    if name == "friends":
        coin = torch.rand((DRAWS * P, 3, SIDE, SIDE), generator=drawing()) * 2 - 1
        total = torch.zeros_like(images)
        for draw in torch.where(coin < 0, -16 / 255, 16 / 255).view(DRAWS, *images.shape):
            for row in range(P):
                total[row] += gradient_at(model, images[row] + draw[row], labels[row]) / DRAWS
        return total
    if name == "ueraser":
        draws, total = drawing(), torch.zeros_like(images)
        for _ in range(DRAWS):
            source = images.clone().requires_grad_()
            shown = ueraser.augmented(source, 0.5, draws)
            rows = [gradient_at(model, *row) for row in zip(shown, labels, strict=True)]
            slopes = torch.stack(rows).detach()
            total += torch.autograd.grad(shown, source, slopes)[0] / DRAWS
        return total
    residuals = [residual_of(model, *row) for row in zip(images, labels, strict=True)]
    rows = []
    for row, label in enumerate(labels.tolist()):
        # Those of the class are the mean's; J = diag(p) - p p'.
        own = [residuals[other] for other in range(P) if int(labels[other]) == label]
        apart = residuals[row] - sum(own) / len(own)
        chances = residuals[row].clone()
        chances[label] += 1
        slope = torch.stack(
            [p * (a - chances @ apart) for p, a in zip(chances, apart, strict=True)]
        )
        logits = residuals[row] - EPIC_WEIGHT * 2 * slope
        rows.append((model.head.weight.T @ logits).view_as(images[row]))
    return torch.stack(rows)


@pytest.mark.parametrize("name", ["jpeg", "grayscale", "friends", "epic"])
def test_the_gradient_of_the_loop_is_that_by_hand(name, images, labels):
    model, defense = linear(), defense_of(name)
    defense.meet(model, images, labels, K)
    gradient = loop_gradient(defense, model, images, labels)
    expected = by_hand(name, model, images, labels)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-6)
    plain = loop_gradient(defense_of("none"), model, images, labels)
    assert float((gradient - plain).abs().max()) > 1e-3


def test_the_gradient_behind_augmentations_is_that_of_each_draw(images, labels):
    """In float32, as the augmentations are."""
    model, images = linear().float(), images.float()
    gradient = loop_gradient(defense_of("ueraser"), model, images, labels)
    expected = by_hand("ueraser", model, images, labels)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


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


# EM


def em_task(images, labels, name):
    task = task_for(linear().requires_grad_(True), images, labels, seed=5)
    untrained = task.surrogate().train()
    return dataclasses.replace(
        task,
        untrained=lambda: copy.deepcopy(untrained),
        assumed=ASSUMED.get(name),
    )


def sgd_by_hand(model, images, labels, rate):
    """One step without momentum or decay; the norm of the gradients is at most 5."""
    gradients = [torch.zeros_like(model.head.weight), torch.zeros_like(model.head.bias)]
    for image, label in zip(images, labels, strict=True):
        residual = residual_of(model, image, label) / len(images)
        gradients[0] += residual[:, None] * image.flatten()
        gradients[1] += residual
    norm = sum(gradient.square().sum() for gradient in gradients).sqrt()
    scale = min(1.0, 5 / (float(norm) + 1e-6))
    model.head.weight -= rate * scale * gradients[0]
    model.head.bias -= rate * scale * gradients[1]


@pytest.mark.parametrize("name", ["jpeg", "grayscale"])
def test_em_trains_and_steps_behind_the_defense(name, images, labels):
    config = em.Config(
        epsilon=EPSILON,
        steps=2,
        step_ratio=0.3,
        batches=2,
        rounds=2,
        stop_error=0.0,
        batch_size=4,
        momentum=0.0,
        weight_decay=0.0,
        precision="float32",
        against=name,
    )
    poisoned = em.craft(em_task(images, labels, name), config)
    model, defense, draws, current = linear(), defense_of(name), drawing(5), images.clone()
    for _ in range(2):
        for rows in torch.randint(P, (2, 4), generator=draws):
            sgd_by_hand(model, defense.seen(current)[rows], labels[rows], 0.1)
        for _ in range(2):
            slope = by_hand(name, model, current, labels)
            moved = current - 0.3 * EPSILON * slope.sign()
            current = project_linf(moved, images, EPSILON)
    torch.testing.assert_close(poisoned, current, rtol=0, atol=1e-9)


def hint_noise_by_hand(model, images, labels, validation, config):
    """-gamma I_pert of the images with the largest |I_up|, by dense algebra."""
    inputs = torch.cat([images.flatten(1), images.new_ones(len(images), 1)], 1)
    held = torch.cat([validation.images.flatten(1), images.new_ones(K, 1)], 1)
    weights = torch.cat([model.head.weight, model.head.bias[:, None]], 1)
    size = weights.numel()
    hessian = config.damping * torch.eye(size, dtype=torch.float64)
    for x in inputs:
        p = (weights @ x).softmax(0)
        hessian += torch.kron(torch.diag(p) - torch.outer(p, p), torch.outer(x, x)) / len(inputs)
    slope = torch.zeros_like(weights)
    for x, label in zip(held, validation.labels, strict=True):
        q = (weights @ x).softmax(0) - F.one_hot(label, K)
        slope += torch.outer(q, x) / K
    direction = torch.linalg.solve(hessian, slope.flatten()).view_as(weights)

    def score(image, label):
        x = torch.cat([image.flatten(), image.new_ones(1)])
        return ((weights @ x).softmax(0) - F.one_hot(label, K)) @ (direction @ x)

    sizes = [abs(float(score(*row))) for row in zip(images, labels, strict=True)]
    chosen = sorted(range(P), key=lambda row: -sizes[row])[: int(config.ratio * P)]
    noise = torch.zeros_like(images)
    for row in chosen:
        source = images[row].clone().requires_grad_()
        (slope,) = torch.autograd.grad(score(source, labels[row]), source)
        delta = (config.gamma * slope).clamp(-config.beta, config.beta)
        noise[row] = (images[row] + delta).clamp(0, 1) - images[row]
    return noise


def test_em_has_hints_noise_on_what_its_network_trains_on(images, labels):
    config = hint.Config(gamma=2.0, beta=0.05)
    task = em_task(images, labels, "none")
    defense = adaptive.AssumedHint(config, task.validation, drawing(), torch.zeros_like(images))
    model = linear()
    assert torch.equal(defense.seen(images), images)
    defense.meet(model, images, labels, K)
    expected = hint_noise_by_hand(model, images, labels, task.validation, config)
    torch.testing.assert_close(defense.noise, expected, rtol=0, atol=1e-5)
    assert 0.01 < float(expected.abs().max()) <= 0.05 + 1e-9
    rows = torch.tensor([3, 0, 3])
    torch.testing.assert_close(
        defense.seen(images[rows], rows), (images + expected)[rows], atol=1e-5, rtol=0
    )
    assert torch.equal(defense.view(images, 0), images)


@pytest.mark.parametrize(
    ("name", "noise"), [("hint", "sample"), ("hint", "class"), ("friends", "sample")]
)
def test_em_against_hint_and_friends_is_another_poison_in_its_budget(name, noise, images, labels):
    config = em.Config(
        epsilon=EPSILON, noise=noise, steps=2, batches=3, rounds=3, stop_error=0.0, batch_size=4,
        learning_rate=0.5, precision="float32", against=name,
    )  # fmt: skip
    task = em_task(images, labels, name)
    if name == "hint":
        task = dataclasses.replace(task, assumed=hint.Config(gamma=2.0, beta=0.05))
    poisoned = em.craft(task, config)
    assert float((poisoned - images).abs().max()) <= EPSILON + 1e-9
    plain = em.craft(em_task(images, labels, "none"), dataclasses.replace(config, against="none"))
    assert not torch.equal(poisoned, plain)


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
        start = base + (0.2 * noise).clamp(-0.2, 0.2).double()
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


def test_gm_against_friends_is_augmented_draw_by_draw():
    config = gm.Config(epsilon=0.2, steps=2, restarts=2, against="friends")
    task = dataclasses.replace(noise_task(), assumed=friends.Config())
    alone = gm.craft(dataclasses.replace(noise_task(slice(1, 2)), assumed=friends.Config()), config)
    poisons = gm.craft(task, config)
    assert poisons.shape == task.images.shape
    # A target's draws are its own.
    assert torch.equal(poisons[1:], alone)


# Settings


ADAPTIVE = {entry.name: entry for entry in registry.ATTACKS if entry.against}


def accepted(config, choice):
    try:
        return bool(config(against=choice))
    except ValueError:
        return False


def test_the_registry_says_which_attacks_can_be_adaptive():
    assert set(ADAPTIVE) == {"pgd", "em", "gm"}
    for entry in registry.ATTACKS:
        config = entry.load().Config
        choices = {option.name: option.choices for option in options_of(config)}.get("against", ())
        taken = {choice for choice in choices if accepted(config, choice)}
        assert taken - {"none"} == set(entry.against)
        assert ("adaptive against" in entry.about) is bool(entry.against)
        assert "against" not in as_json(config())


def test_em_says_why_it_is_not_crafted_against_epic():
    with pytest.raises(ValueError, match=r"EM's own loss takes that of every poison to 0"):
        em.Config(against="epic")


def test_an_entry_that_adapts_needs_the_setting():
    entry = dataclasses.replace(registry.attacks()["dap"], against=("jpeg",))
    assert "expected Config in poisonbench.attacks.delusive_adversarial" in entry.fault()
    assert "with a setting against" in entry.fault()
    assert not registry.attacks()["pgd"].fault()


def test_a_form_of_a_defense_is_named_by_its_value():
    entry, form = registry.find_form("jpeg:10")
    assert (entry.name, form) == ("jpeg", {"quality": 10})
    assert registry.find_form("jpeg") == (entry, {})
    with pytest.raises(UsageError, match=r"among these: jpeg:10; got jpeg:20"):
        registry.find_form("jpeg:20")
    with pytest.raises(UsageError, match="among these: none; got knn:3"):
        registry.find_form("knn:3")
