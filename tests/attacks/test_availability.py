"""EM, REM and TAP against loops by hand in float64, and their structure; interrupted, resumed."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.attack_tasks import K, task_for
from poisonbench.attacks import error_minimising as em
from poisonbench.attacks import robust_error_minimising as rem
from poisonbench.attacks import targeted_adversarial as tap
from poisonbench.core.errors import DivergedError, UsageError
from poisonbench.models.classifier import Classifier, initialise

SIDE, P = 6, 13
EPSILON = 0.1


@pytest.fixture
def images():
    """Float64, with pixels at both ends of the range."""
    generator = torch.Generator().manual_seed(1)
    drawn = 1.4 * torch.rand(P, 1, SIDE, SIDE, generator=generator, dtype=torch.float64) - 0.2
    return drawn.clamp(0, 1)


@pytest.fixture
def labels():
    return torch.arange(P) % K


def linear():
    """A float64 classifier of one layer, whose gradients are known."""
    model = Classifier(nn.Flatten(), nn.Linear(SIDE * SIDE, K), (0.0,), (1.0,))
    initialise(model, torch.Generator().manual_seed(2))
    return model.double()


def task_of(model, images, labels, seed=5):
    """Weights that are the model's own, so that the generator is the attack's alone."""
    task = task_for(model.eval(), images, labels, seed)
    return dataclasses.replace(task, untrained=lambda: copy.deepcopy(model).train())


def pixel_gradient(weight, bias, image, label):
    """Of the cross-entropy of one image: W' (p - y)."""
    residual = torch.softmax(weight @ image.flatten() + bias, 0)
    residual[label] -= 1
    return (weight.T @ residual).view_as(image)


def clipped(image, centre, radius):
    """Pixel by pixel into the ball and then into [0, 1]."""
    moved = torch.minimum(torch.maximum(image, centre - radius), centre + radius)
    return moved.clamp(0, 1)


def sgd_by_hand(weight, bias, momenta, images, labels, config):
    """One step of SGD with momentum, decay and gradients of a norm of at most 5."""
    slopes = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for image, label in zip(images, labels.tolist(), strict=True):
        residual = torch.softmax(weight @ image.flatten() + bias, 0)
        residual[label] -= 1
        slopes[0] += residual[:, None] * image.flatten() / len(images)
        slopes[1] += residual / len(images)
    norm = (slopes[0].square().sum() + slopes[1].square().sum()).sqrt()
    scale = min(1.0, 5 / (float(norm) + 1e-6))
    parameters = []
    for number, value in enumerate((weight, bias)):
        slope = scale * slopes[number] + config.weight_decay * value
        momenta[number] = config.momentum * momenta[number] + slope
        parameters.append(value - config.learning_rate * momenta[number])
    return parameters


@pytest.mark.parametrize("noise", ["sample", "class"])
def test_em_alternates_as_by_hand(noise, images, labels):
    config = em.Config(
        epsilon=EPSILON,
        noise=noise,
        steps=2,
        step_ratio=0.3,
        batches=3,
        rounds=2,
        stop_error=0.0,
        share=0.6,
        batch_size=4,
        learning_rate=0.5,
        precision="float32",
    )
    model = linear()
    poisoned = em.craft(task_of(model, images, labels), config)

    draws = torch.Generator().manual_seed(5)
    weight, bias = model.head.weight.detach().clone(), model.head.bias.detach().clone()
    momenta = [torch.zeros_like(weight), torch.zeros_like(bias)]
    seen, delta = images.clone(), torch.zeros(K, 1, SIDE, SIDE, dtype=torch.float64)
    for _ in range(config.rounds):
        for rows in torch.randint(P, (3, 4), generator=draws):
            weight, bias = sgd_by_hand(weight, bias, momenta, seen[rows], labels[rows], config)
        parts = [list(range(P))]
        if noise == "class":
            order = torch.randperm(P, generator=draws)[:8].tolist()
            parts = [order[:4], order[4:]]
        for part in parts:
            moved = {}
            for row in part:
                image = images[row] + delta[labels[row]] if noise == "class" else seen[row]
                image = image.clamp(0, 1)
                for _ in range(config.steps):
                    step = pixel_gradient(weight, bias, image, int(labels[row])).sign()
                    image = clipped(image - 0.3 * EPSILON * step, images[row], EPSILON)
                moved[row] = image
            if noise == "sample":
                for row, image in moved.items():
                    seen[row] = image
                continue
            for label in range(K):
                own = [moved[row] - images[row] for row in part if int(labels[row]) == label]
                if own:
                    delta[label] = torch.stack(own).mean(0)
        if noise == "class":
            seen = (images + delta[labels]).clamp(0, 1)
    assert float((seen - images).abs().max()) > EPSILON / 3
    assert torch.allclose(poisoned, seen, rtol=0, atol=1e-9)


def test_em_lowers_the_error_of_a_fresh_network(images, labels):
    config = em.Config(epsilon=EPSILON, steps=5, rounds=5, learning_rate=0.5, precision="float32")
    poisoned = em.craft(task_of(linear(), images, labels), config)
    model = linear().requires_grad_(False)
    before, after = (F.cross_entropy(model(x), labels) for x in (images, poisoned))
    assert float(after) < float(before)


def test_em_of_classes_has_one_noise_a_class(labels):
    grey = torch.full((P, 1, SIDE, SIDE), 0.5, dtype=torch.float64)
    grey += 0.1 * torch.rand(grey.shape, generator=torch.Generator().manual_seed(3))
    config = em.Config(epsilon=EPSILON, noise="class", rounds=3, stop_error=0.0, batch_size=4)
    noise = em.craft(task_of(linear(), grey, labels), config) - grey
    for label in range(K):
        own = noise[labels == label]
        assert torch.allclose(own, own[:1].expand_as(own), atol=1e-12)
    assert not torch.allclose(noise[0], noise[1])


def test_em_ends_where_the_error_is_low_enough(images, labels):
    rounds = {}
    for error in (0.0, 1.0):
        seen = []
        task = task_of(linear(), images, labels)
        task = dataclasses.replace(task, report=lambda done, total, seen=seen: seen.append(done))
        em.craft(task, em.Config(steps=1, batches=1, rounds=4, stop_error=error, batch_size=4))
        rounds[error] = len(seen)
    assert rounds == {0.0: 4, 1.0: 1}


@pytest.mark.parametrize(("module", "flag"), [(em, "rounds"), (rem, "batches")])
def test_a_network_that_diverges_says_so(module, flag, images, labels):
    config = module.Config(**{flag: 30}, batch_size=4, learning_rate=1e30, precision="float32")
    images = images.float()
    with pytest.raises(DivergedError, match="lower --learning-rate"):
        module.craft(task_of(linear().float(), images, labels), config)


def crop_flip_by_hand(image, shift, flip):
    """A window of the image in zeros of 4 pixels, mirrored; and a function that leads back."""
    padded = F.pad(image, (4,) * 4)
    top, left = map(int, shift)
    window = padded[:, top : top + SIDE, left : left + SIDE]
    view = window.flip(-1) if flip else window

    def back(gradient):
        whole = torch.zeros_like(padded)
        whole[:, top : top + SIDE, left : left + SIDE] = gradient.flip(-1) if flip else gradient
        return whole[:, 4 : 4 + SIDE, 4 : 4 + SIDE]

    return view, back


@pytest.mark.parametrize("adversary_steps", [0, 2])
def test_rem_sums_gradients_over_views_and_leads_them_back(adversary_steps, images, labels):
    config = rem.Config(
        epsilon=EPSILON,
        noise_steps=2,
        step_ratio=0.3,
        draws=3,
        adversary_steps=adversary_steps,
        adversary_step_ratio=0.6,
        precision="float32",
    )
    model = linear().eval().requires_grad_(False)
    robust = rem.RobustNoise(config, torch.Generator().manual_seed(7))
    poisoned = robust.minimise(model, images, labels)

    draws = torch.Generator().manual_seed(7)
    weight, bias, radius = model.head.weight, model.head.bias, EPSILON / 2
    offsets = torch.rand(images.shape, generator=draws) * 2 - 1
    expected = (images + EPSILON * offsets).clamp(0, 1)
    for _ in range(2):
        shifts = torch.randint(0, 9, (3 * P, 2), generator=draws)
        flips = torch.randint(0, 2, (3 * P,), generator=draws).bool()
        starts = None
        if adversary_steps:
            starts = torch.rand((3 * P, *images.shape[1:]), generator=draws) * 2 - 1
        total = torch.zeros_like(images)
        for view in range(3 * P):
            row = view % P
            label = int(labels[row])
            centre, back = crop_flip_by_hand(expected[row], shifts[view], flips[view])
            image = centre
            if starts is not None:
                image = (centre + radius * starts[view]).clamp(0, 1)
                for _ in range(2):
                    slope = pixel_gradient(weight, bias, image, label)
                    image = clipped(image + 0.6 * radius * slope.sign(), centre, radius)
            total[row] += back(pixel_gradient(weight, bias, image, label))
        expected = clipped(expected - 0.3 * EPSILON * total.sign(), images, EPSILON)
    assert torch.allclose(poisoned, expected, rtol=0, atol=1e-9)


def test_rem_trains_on_robust_views_at_falling_rates():
    config = rem.Config(batches=5000)
    rates = [config.rate_at(batch) for batch in (0, 1999, 2000, 3999, 4000, 4999)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


@pytest.mark.parametrize(("augment", "steps", "restarts"), [("none", 3, 2), ("crop-flip", 1, 1)])
def test_tap_steps_against_the_gradient_of_the_next_class(augment, steps, restarts, images, labels):
    """The crop and flip of a step are an image's own; its gradient is led back through them.

    Pixels that the crop leaves out are not compared: their gradient is 0 but for what rounding
    lets through of a neighbour's, and a step has its sign. So one step is all that is known.
    """
    config = tap.Config(
        epsilon=EPSILON,
        steps=steps,
        step_ratio=0.4,
        restarts=restarts,
        augment=augment,
        precision="float32",
    )
    model = linear()
    poisoned = tap.craft(task_of(model, images, labels), config)

    draws = torch.Generator().manual_seed(5)
    weight, bias = model.head.weight.detach(), model.head.bias.detach()
    best, lowest = images.clone(), [float("inf")] * P
    compared = torch.ones_like(images, dtype=torch.bool)
    for _ in range(restarts):
        noise = torch.randn(images.shape, generator=draws).clamp(-1, 1)
        shifts, flips = torch.zeros(steps, P, 2, dtype=torch.int8), torch.zeros(steps, P)
        if augment == "crop-flip":
            shifts = torch.randint(-4, 5, (steps, P, 2), generator=draws, dtype=torch.int8)
            flips = torch.randint(0, 2, (steps, P), generator=draws, dtype=torch.uint8)
        for row in range(P):
            target = (int(labels[row]) + 1) % K
            image = (images[row] + EPSILON * noise[row]).clamp(0, 1)
            in_view = torch.ones_like(images[row], dtype=torch.bool)
            for step in range(steps):
                right, down = shifts[step, row].tolist()
                seen, back = crop_flip_by_hand(image, (4 - down, 4 - right), flips[step, row])
                slope = back(pixel_gradient(weight, bias, seen, target))
                in_view &= back(torch.ones_like(seen)) > 0
                image = clipped(image - 0.4 * EPSILON * slope.sign(), images[row], EPSILON)
            loss = -float(torch.log_softmax(weight @ image.flatten() + bias, 0)[target])
            if loss < lowest[row]:
                best[row], compared[row], lowest[row] = image, in_view, loss
    assert compared.sum() > 100
    assert torch.allclose(poisoned[compared], best[compared], rtol=0, atol=1e-9)


def test_tap_needs_another_class(images, labels):
    task = dataclasses.replace(task_of(linear(), images, labels), num_classes=1)
    with pytest.raises(UsageError, match="tap: expected at least 2 classes"):
        tap.craft(task, tap.Config())
