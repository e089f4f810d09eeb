"""The step loop against naive per-image code, and the ball's projection."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.attack_tasks import SHAPE, K, small_classifier
from helpers.waits import sync_debug_mode
from poisonbench.models.classifier import Classifier
from poisonbench.training import projected_gradient
from poisonbench.training.projected_gradient import (
    Ball,
    ProjectedGradient,
    draw_crop_flip,
    example_losses,
    project_linf,
    shift_flip,
    warn_of_zero_gradients,
)

BLACK = torch.zeros(1, 1, 1)
CPU = torch.device("cpu")


def ascent(epsilon=0.1, step_size=0.1, steps=2, **options):
    return ProjectedGradient(Ball(epsilon), steps, step_size / epsilon, **options)


def in_passes_of(size, monkeypatch):
    monkeypatch.setattr(projected_gradient, "pass_size", lambda images, gradients: size)


@pytest.fixture(scope="module")
def images():
    return torch.rand(7, *SHAPE, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def labels():
    return torch.arange(7) % K


@settings(max_examples=50, deadline=None)
@given(
    epsilon=st.floats(0, 1),
    values=st.lists(st.tuples(st.floats(-3, 3), st.floats(0, 1)), min_size=1, max_size=9),
)
def test_projection_is_the_closest_point_of_ball_and_range(epsilon, values):
    free, base = torch.tensor(values, dtype=torch.float64).unbind(1)
    projected = project_linf(free, base, epsilon)
    expected = [min(max(x, b - epsilon, 0.0), b + epsilon, 1.0) for x, b in values]
    assert torch.allclose(projected, torch.tensor(expected, dtype=torch.float64))
    assert torch.equal(project_linf(projected, base, epsilon), projected)


def naive_steps(model, base, label, start, sign, epsilon, step_size, steps):
    image = start.clone()
    for _ in range(steps):
        image = image.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(image[None]), label[None]), image)
        moved = image.detach() + sign * step_size * gradient.sign()
        low, high = (base - epsilon).clamp(min=0), (base + epsilon).clamp(max=1)
        image = torch.where(moved < low, low, torch.where(moved > high, high, moved))
    return image


@pytest.mark.parametrize("sign", [1, -1])
def test_steps_are_those_of_a_loop_over_images_in_float64(images, labels, sign, monkeypatch):
    in_passes_of(3, monkeypatch)
    model, base = small_classifier().double(), images.double()
    start = project_linf(base + 0.03 * torch.randn_like(base), base, 0.05)
    result = ascent(0.05, sign * 0.02, 5).perturb(model, base, labels, start=start)
    for row, image in enumerate(result[0]):
        expected = naive_steps(model, base[row], labels[row], start[row], sign, 0.05, 0.02, 5)
        assert torch.allclose(image, expected, atol=1e-12)


@pytest.mark.parametrize("augment", [False, True])
def test_batch_size_does_not_change_the_result(images, labels, augment, monkeypatch):
    model = small_classifier().double()
    results = []
    for size in (2, 100):
        in_passes_of(size, monkeypatch)
        draws = draw_crop_flip(3, 7, torch.Generator().manual_seed(1), CPU) if augment else None
        search = ascent(0.1, 0.03, 3)
        results.append(search.perturb(model, images.double(), labels, draws=draws)[0])
    assert torch.allclose(*results, atol=1e-12)


def test_augmented_steps_follow_the_gradient_through_the_augmentation(images, labels):
    model, base = small_classifier().double(), images.double()
    generator = torch.Generator().manual_seed(1)
    draws = draw_crop_flip(1, 7, generator, CPU)
    result = ascent(steps=1).perturb(model, base, labels, draws=draws)[0]
    generator.manual_seed(1)
    shifts = torch.randint(-4, 5, (1, 7, 2), generator=generator, dtype=torch.int8)[0]
    flips = torch.randint(0, 2, (1, 7), generator=generator, dtype=torch.uint8)[0].bool()
    source = base.clone().requires_grad_()
    F.cross_entropy(model(shift_flip(source, shifts, flips, BLACK)), labels).backward()
    assert torch.equal(result, project_linf(base + 0.1 * source.grad.sign(), base, 0.1))
    assert not torch.equal(result, ascent(steps=1).perturb(model, base, labels)[0])


def test_progress_counts_every_step_once(images, labels, monkeypatch):
    in_passes_of(3, monkeypatch)
    seen = []
    ascent().perturb(
        small_classifier(), images, labels, report=lambda done, total: seen.append((done, total))
    )
    assert seen == [(done, 6) for done in range(1, 7)]


def test_bfloat16_stays_in_the_network(images, labels):
    search = ascent(8 / 255, 0.3 / 255, precision="bfloat16")
    result, _ = search.perturb(small_classifier(), images, labels)
    moved = (result - images).abs()
    assert result.dtype == torch.float32
    # Pixels in bfloat16 could not move by 0.3 levels: near 1 its values are 1 level apart.
    inside = (images > 0.01) & (images < 0.99)
    steps = (moved[inside] * 255 / 0.3).round()
    assert set(steps.unique().tolist()) <= {0.0, 1.0, 2.0}
    assert (steps == 2).float().mean() > 0.5


def test_no_images_give_none(images, labels):
    result, zero_share = ascent().perturb(small_classifier(), images[:0], labels[:0])
    assert result.shape == (0, *SHAPE)
    assert float(zero_share) == 0
    assert example_losses(small_classifier(), images[:0], labels[:0]).shape == (0,)


def test_share_of_zero_gradients_is_reported_and_warned_of():
    class Dead(nn.Module):
        def forward(self, images):
            return F.relu(images - 0.5).flatten(1)

    model = Classifier(Dead(), nn.Linear(4, 2), (0.0,), (1.0,))
    images = torch.full((4, 1, 2, 2), 0.8)
    images[0] = 0.2
    _, share = ascent(steps=1).perturb(model, images, torch.tensor([0, 1, 0, 1]))
    assert float(share) == 0.25
    with pytest.warns(UserWarning, match="pgd: expected an input gradient .* got none for 25.0%"):
        warn_of_zero_gradients(share, "pgd")


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(images, labels, training):
    model = small_classifier().train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ascent().perturb(model, images, labels)
    assert model.training is training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())


def test_losses_are_those_of_single_images(images, labels, monkeypatch):
    in_passes_of(2, monkeypatch)
    model = small_classifier()
    losses = example_losses(model, images, labels)
    with torch.no_grad():
        expected = [
            F.cross_entropy(model(image[None]), label[None])
            for image, label in zip(images, labels, strict=True)
        ]
    assert torch.allclose(losses, torch.stack(expected), atol=1e-5)


def test_crop_flip_shifts_and_mirrors_and_is_differentiable(images):
    shifts = torch.tensor([[0, 0], [1, 0], [0, -2], [-3, 4], [4, 4], [0, 0], [-4, 1]])
    flips = torch.tensor([False, False, False, True, False, True, True])
    source = images.double().requires_grad_()
    result = shift_flip(source, shifts, flips, BLACK)
    _, height, width = SHAPE
    padded = F.pad(images.double(), (4, 4, 4, 4))
    expected = []
    for image, (right, down), flip in zip(padded, shifts.tolist(), flips.tolist(), strict=True):
        window = image[:, 4 - down : 4 - down + height, 4 - right : 4 - right + width]
        expected.append(window.flip(2) if flip else window)
    assert torch.allclose(result, torch.stack(expected), atol=1e-6)

    (gradient,) = torch.autograd.grad(result.sum(), source)
    # A pixel's gradient is 1 where the shift keeps it in the window, else 0.
    assert torch.allclose(gradient[0], torch.ones(SHAPE, dtype=torch.float64), atol=1e-6)
    assert gradient[4].sum().item() == pytest.approx(
        SHAPE[0] * (height - 4) * (width - 4), abs=1e-3
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_loop_never_waits_for_the_device(images, labels):
    model, base, labels = small_classifier().cuda(), images.cuda(), labels.cuda()
    with sync_debug_mode("error"):
        ascent(steps=3, precision="bfloat16").perturb(model, base, labels)
