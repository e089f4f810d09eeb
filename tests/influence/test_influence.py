"""Influence and the inverse Hessian against brute force in float64."""

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import nn

from helpers.attack_tasks import frozen
from poisonbench.core.errors import DivergedError
from poisonbench.influence.head import (
    embed_all,
    head_inputs,
    head_weights,
    mean_gradient,
    pixel_influence,
    residuals,
    upweight_influence,
)
from poisonbench.influence.inverse_hessian import (
    HeadHessian,
    conjugate_gradient,
    lissa,
)
from poisonbench.models.classifier import Classifier, initialise

K, N = 4, 40
DAMPING = 0.05


@pytest.fixture(scope="module")
def problem():
    """A tiny float64 network with batch norm whose running statistics are not trivial."""
    generator = torch.Generator().manual_seed(3)
    features = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Softplus(), nn.AvgPool2d(2), nn.Flatten()
    )
    model = Classifier(features, nn.Linear(12, K), (0.4, 0.5), (0.2, 0.3)).double()
    initialise(model, generator)
    images = torch.rand(N, 2, 6, 6, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, K, (N,), generator=generator)
    validation = torch.rand(15, 2, 6, 6, dtype=torch.float64, generator=generator)
    validation_labels = torch.randint(0, K, (15,), generator=generator)
    model.train()
    model(images)
    return model, images, labels, validation, validation_labels


def head_parameters(model):
    return [model.head.weight, model.head.bias]


def flat(gradients):
    weight, bias = gradients
    return torch.cat([weight, bias[:, None]], 1)


def dense_hessian(model, images, labels):
    """The head's Hessian by autograd, (K (F + 1), K (F + 1)), rows ordered like (K, F + 1)."""
    inputs = head_inputs(model, images).detach()

    def loss(vector):
        return F.cross_entropy(inputs @ vector.view(K, -1).T, labels)

    return torch.autograd.functional.hessian(loss, head_weights(model).detach().flatten())


def pieces(problem):
    model, images, labels, validation, validation_labels = problem
    inputs = head_inputs(model, images).detach()
    probabilities = (inputs @ head_weights(model).T).softmax(1).detach()
    held = head_inputs(model, validation).detach()
    held_residual = residuals((held @ head_weights(model).T).softmax(1), validation_labels)
    gradient = mean_gradient(held, held_residual.detach())
    return inputs, probabilities, residuals(probabilities, labels), gradient


def test_mean_gradient_is_autograds(problem):
    model, _, _, validation, labels = problem
    with frozen(model):
        _, _, _, gradient = pieces(problem)
        for parameter in head_parameters(model):
            parameter.requires_grad_(True)
        loss = F.cross_entropy(model(validation), labels)
        expected = flat(torch.autograd.grad(loss, head_parameters(model)))
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-14)


def test_hessian_products_are_the_dense_hessians(problem):
    model, images, labels, _, _ = problem
    with frozen(model):
        inputs, probabilities, _, _ = pieces(problem)
        dense = dense_hessian(model, images, labels)
    vector = torch.randn(K, inputs.shape[1], dtype=torch.float64, generator=torch.Generator())
    product = HeadHessian(inputs, probabilities).product(vector)
    torch.testing.assert_close(product.flatten(), dense @ vector.flatten(), rtol=0, atol=1e-13)


def test_conjugate_gradient_is_the_dense_solve(problem):
    model, images, labels, _, _ = problem
    with frozen(model):
        inputs, probabilities, _, gradient = pieces(problem)
        dense = dense_hessian(model, images, labels)
    damped = dense + DAMPING * torch.eye(len(dense), dtype=torch.float64)
    expected = torch.linalg.solve(damped, gradient.flatten()).view_as(gradient)
    solution = conjugate_gradient(
        HeadHessian(inputs, probabilities), gradient, damping=DAMPING, tolerance=1e-12
    )
    torch.testing.assert_close(solution.vector, expected, rtol=1e-9, atol=1e-12)
    assert solution.residual <= 1e-12
    # The same vector added to all classes changes no probability: the solution has none of it.
    torch.testing.assert_close(
        solution.vector.sum(0), torch.zeros_like(solution.vector[0]), rtol=0, atol=1e-12
    )


def test_lissa_settles_on_the_damped_solve(problem):
    model = problem[0]
    with frozen(model):
        inputs, probabilities, _, gradient = pieces(problem)
    hessian = HeadHessian(inputs, probabilities)
    exact = conjugate_gradient(hessian, gradient, damping=0.5, tolerance=1e-12).vector
    solution = lissa(hessian, gradient, torch.Generator().manual_seed(0), 0.5, 50.0, (8, 1500, N))
    assert (solution.vector - exact).norm() / exact.norm() < 0.05
    assert solution.iterations == 12000


def test_lissa_that_diverges_names_its_setting(problem):
    model = problem[0]
    with frozen(model):
        inputs, probabilities, _, gradient = pieces(problem)
    hessian = HeadHessian(inputs * 100, probabilities)
    with pytest.raises(DivergedError, match="--lissa-scale"):
        lissa(hessian, gradient, torch.Generator().manual_seed(0), 0.5, 1.0, (1, 200, 5))


def test_a_gradient_that_is_not_finite_is_no_matter_of_damping(problem):
    with frozen(problem[0]):
        inputs, probabilities, _, gradient = pieces(problem)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(DivergedError, match="--learning-rate"):
            conjugate_gradient(HeadHessian(inputs, probabilities), gradient * bad, damping=0.5)


def test_conjugate_gradient_that_stalls_names_its_setting(problem):
    model = problem[0]
    with frozen(model):
        inputs, probabilities, _, gradient = pieces(problem)
    with pytest.raises(DivergedError, match="--damping"):
        conjugate_gradient(
            HeadHessian(inputs, probabilities), gradient, damping=1e-6, max_iterations=2
        )


def test_scores_and_maps_are_the_double_backwards(problem):
    """The authors' way, one example at a time: gradient with a graph, dot product, backward."""
    model, images, labels, _, _ = problem
    direction = torch.randn(K, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with frozen(model):
        inputs, _, residual, _ = pieces(problem)
        scores = upweight_influence(inputs, residual, direction)
        maps = pixel_influence(model, images, labels, direction)
        for parameter in head_parameters(model):
            parameter.requires_grad_(True)
        for row in range(6):
            image = images[row : row + 1].clone().requires_grad_(True)
            loss = F.cross_entropy(model(image), labels[row : row + 1])
            gradient = flat(torch.autograd.grad(loss, head_parameters(model), create_graph=True))
            dot = (gradient * direction).sum()
            (pixel,) = torch.autograd.grad(dot, image)
            torch.testing.assert_close(scores[row], -dot.detach(), rtol=1e-10, atol=1e-13)
            torch.testing.assert_close(maps[row], -pixel[0], rtol=1e-9, atol=1e-12)


def test_train_mode_would_mix_the_examples(problem):
    """Negative control: without ``frozen`` the batched maps are not the single ones."""
    model, images, labels, _, _ = problem
    direction = torch.randn(K, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    model.train()
    batched = pixel_influence(model, images, labels, direction)[:4]
    single = pixel_influence(model, images[:4], labels[:4], direction)
    assert (batched - single).abs().max() > 1e-3


def test_embed_all_is_the_whole_batch_at_once(problem):
    model, images, *_ = problem
    many = images.repeat(8, 1, 1, 1)
    with frozen(model):
        torch.testing.assert_close(embed_all(model, many), head_inputs(model, many).detach())


def fit_head(inputs, labels, weights, penalty):
    """The minimiser of sum_i w_i loss_i / n + penalty / 2 |theta|^2, by Newton's method."""
    theta = torch.zeros(K * inputs.shape[1], dtype=torch.float64)

    def loss(vector):
        each = F.cross_entropy(inputs @ vector.view(K, -1).T, labels, reduction="none")
        return (weights * each).sum() / len(inputs) + penalty / 2 * vector.square().sum()

    for _ in range(30):
        gradient = torch.autograd.functional.jacobian(loss, theta)
        step = torch.linalg.solve(torch.autograd.functional.hessian(loss, theta), gradient)
        theta = theta - step
        if step.norm() < 1e-12:
            break
    return theta.view(K, -1)


@pytest.fixture(scope="module")
def convex():
    """A head trained to its optimum, where influence functions are exact to first order."""
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(N, 5, dtype=torch.float64, generator=generator)
    inputs[:, -1] = 1
    labels = torch.randint(0, K, (N,), generator=generator)
    held = torch.randn(20, 5, dtype=torch.float64, generator=generator)
    held_labels = torch.randint(0, K, (20,), generator=generator)
    ones = torch.ones(N, dtype=torch.float64)
    penalty = 0.05
    theta = fit_head(inputs, labels, ones, penalty)

    def validation_loss(weights):
        return float(
            F.cross_entropy(held @ fit_head(inputs, labels, weights, penalty).T, held_labels)
        )

    probabilities = (inputs @ theta.T).softmax(1)
    held_residual = residuals((held @ theta.T).softmax(1), held_labels)
    direction = conjugate_gradient(
        HeadHessian(inputs, probabilities),
        mean_gradient(held, held_residual),
        damping=penalty,
        tolerance=1e-12,
    ).vector
    scores = upweight_influence(inputs, residuals(probabilities, labels), direction)
    return scores, validation_loss, ones


def test_influence_is_the_derivative_of_retraining(convex):
    """I_up is d(validation loss) / d(weight of an example), sign and size included."""
    scores, validation_loss, ones = convex
    for row in range(0, N, 8):
        up, down = ones.clone(), ones.clone()
        up[row] += 1e-3 * N
        down[row] -= 1e-3 * N
        slope = (validation_loss(up) - validation_loss(down)) / 2e-3
        assert slope == pytest.approx(float(scores[row]), rel=2e-2, abs=1e-5)


def test_influence_ranks_examples_like_leaving_them_out(convex):
    scores, validation_loss, ones = convex
    base = validation_loss(ones)
    changes = []
    for row in range(N):
        without = ones.clone()
        without[row] = 0
        changes.append(validation_loss(without) - base)
    # Leaving one out is up-weighting it by -1/n: a helpful example has I_up < 0 and a gain > 0.
    assert spearmanr(changes, (-scores).numpy()).statistic > 0.95


def test_healthy_noise_lowers_the_validation_loss_after_a_step(problem):
    """The sign of the noise: a Newton step on x - gamma I_pert helps more than one on x."""
    model, images, labels, validation, validation_labels = problem
    with frozen(model), torch.no_grad():
        inputs, probabilities, _, gradient = pieces(problem)
        direction = conjugate_gradient(
            HeadHessian(inputs, probabilities), gradient, damping=DAMPING, tolerance=1e-12
        ).vector
        noisy = images - 0.01 * pixel_influence(model, images, labels, direction)
        held = head_inputs(model, validation)

        def loss_after_step(pixels):
            a = head_inputs(model, pixels)
            residual = residuals((a @ head_weights(model).T).softmax(1), labels)
            damped = dense_hessian(model, images, labels) + DAMPING * torch.eye(
                gradient.numel(), dtype=torch.float64
            )
            step = torch.linalg.solve(damped, mean_gradient(a, residual).flatten())
            moved = head_weights(model) - 1e-3 * step.view_as(gradient)
            return float(F.cross_entropy(held @ moved.T, validation_labels))

        assert loss_after_step(noisy) < loss_after_step(images)
