"""EM with a model of the defense in the loop of its network and of its noise."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F

from helpers.adaptive import (
    ASSUMED,
    EPSILON,
    SIDE,
    P,
    by_hand,
    defense_of,
    drawing,
    few_images,
    linear,
    residual_of,
    their_labels,
)
from helpers.attack_tasks import K, task_for
from poisonbench.attacks import error_minimising as em
from poisonbench.attacks.shared import adaptive
from poisonbench.defenses import hint
from poisonbench.models.classifier import BLOCK
from poisonbench.training.projected_gradient import project_linf


@pytest.fixture
def images():
    return few_images()


@pytest.fixture
def labels():
    return their_labels()


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


@pytest.mark.parametrize("name", ["friends", "ueraser"])
def test_ems_draws_do_not_depend_on_a_devices_pass(name, monkeypatch):
    images = torch.rand(2 * BLOCK + 10, 3, SIDE, SIDE, generator=drawing(6))
    labels = torch.arange(len(images)) % K
    config = em.Config(
        epsilon=EPSILON, steps=2, batches=2, rounds=2, stop_error=0.0, batch_size=16,
        learning_rate=0.5, precision="float32", against=name,
    )  # fmt: skip
    poisons = []
    for size in (BLOCK, 4 * BLOCK):
        monkeypatch.setattr(em, "pass_size", lambda *_, size=size, **__: size)
        task = em_task(images, labels, name)
        network = task.untrained().float()
        task = dataclasses.replace(task, untrained=lambda network=network: network)
        poisons.append(em.craft(task, config))
    assert torch.equal(*poisons)


def test_em_says_why_it_is_not_crafted_against_epic():
    with pytest.raises(ValueError, match=r"EM's own loss takes that of every poison to 0"):
        em.Config(against="epic")
