"""Objectives of the attacks on features, by loops in float64; Convex Polytope's by scipy."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from helpers.attack_tasks import BREWED, EPOCHS, P, T, double, surrogate, task
from poisonbench.attacks import bullseye_polytope, convex_polytope, feature_collision
from poisonbench.attacks.shared.feature_space import FeatureSpace, mean_distance

# Objectives against loops, in float64

FEATURES, TARGET = double(0, T, P, 7), double(1, T, 7)


@pytest.mark.parametrize("relative", [False, True])
def test_bullseye_is_its_formula(relative):
    distance = bullseye_polytope.relative_distance if relative else mean_distance
    distances = distance(FEATURES, TARGET)
    for t in range(T):
        squares = norm = 0.0
        for f in range(7):
            mean = sum(float(FEATURES[t, p, f]) for p in range(P)) / P
            squares += (mean - float(TARGET[t, f])) ** 2
            norm += float(TARGET[t, f]) ** 2
        expected = (squares / norm) ** 0.5 if relative else squares / 7
        assert float(distances[t]) == pytest.approx(expected, rel=1e-12)


def test_collisions_are_their_formulas():
    mean = mean_distance(FEATURES, TARGET)
    each = feature_collision.collision(FEATURES, TARGET)
    for t in range(T):
        norm = sum(float(value) ** 2 for value in TARGET[t])
        total = sum(
            (float(FEATURES[t, p, f]) - float(TARGET[t, f])) ** 2
            for p in range(P)
            for f in range(7)
        )
        assert float(each[t]) == pytest.approx(total / norm / P, rel=1e-12)
        centre = FEATURES[t].numpy().mean(0)
        assert float(mean[t]) == pytest.approx(np.mean((centre - TARGET[t].numpy()) ** 2))


def test_polytope_distance_is_its_formula():
    coefficients = torch.rand(T, P, generator=torch.Generator().manual_seed(2)).double()
    coefficients /= coefficients.sum(1, keepdim=True)
    offsets = FEATURES - TARGET[:, None]
    distances = convex_polytope.polytope_distance(offsets, coefficients, TARGET)
    for t in range(T):
        point = sum(float(coefficients[t, p]) * FEATURES[t, p].numpy() for p in range(P))
        residual = TARGET[t].numpy() - point
        expected = 0.5 * (residual @ residual) / float(TARGET[t] @ TARGET[t])
        assert float(distances[t]) == pytest.approx(expected, rel=1e-12)


def gradient_of(loss):
    features = FEATURES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(features, TARGET).sum(), features)
    return gradient


def test_the_mean_collision_is_bullseye_polytope():
    assert not torch.allclose(gradient_of(feature_collision.collision), gradient_of(mean_distance))
    settings = BREWED | {"brew_augment": "shift-flip"}
    poisons = [
        module.craft(task(), module.Config(**settings))
        for module in (bullseye_polytope, feature_collision)
    ]
    assert torch.equal(*poisons)


def test_collide_pulls_every_poison_where_mean_pulls_their_mean():
    given, space = task(), FeatureSpace([surrogate(EPOCHS)], task().targets)
    settings = BREWED | {"surrogates": 1, "steps": 20}
    mean, each = (
        space.embed(
            0, feature_collision.craft(given, feature_collision.Config(form=form, **settings))
        )
        for form in ("mean", "collide")
    )
    by_mean, by_each = (
        loss(mean, space.targets[0]) - loss(each, space.targets[0])
        for loss in (mean_distance, feature_collision.collision)
    )
    assert (by_mean < 0).all()
    assert (by_each > 0).all()


def test_both_forms_of_bullseye_pull_in_one_direction():
    mean = gradient_of(mean_distance).flatten(1)
    relative = gradient_of(bullseye_polytope.relative_distance).flatten(1)
    assert torch.allclose(torch.cosine_similarity(mean, relative), torch.ones(T).double())


class Enlarged(nn.Module):
    """Features that are eight times as large."""

    def __init__(self, features):
        super().__init__()
        self.inner = features

    def forward(self, images):
        return 8 * self.inner(images)


def test_with_the_authors_form_large_features_weigh_no_more():
    small, large = surrogate(1), copy.deepcopy(surrogate(2))
    enlarged = copy.deepcopy(large)
    enlarged.features = Enlarged(large.features)
    changed = []
    for values in ({"form": "authors", "restarts": 1, "step_size": 0.04}, {}):
        poison_sets = []
        for second in (large, enlarged):
            models = [small, second]
            given = dataclasses.replace(
                task(), snapshots=lambda number, epochs, models=models: [models[number]]
            )
            config = bullseye_polytope.Config(**(BREWED | values))
            poison_sets.append(bullseye_polytope.craft(given, config))
        changed.append(float(((poison_sets[0] - poison_sets[1]).abs() > 1e-3).double().mean()))
    assert changed[0] < 0.01
    assert changed[1] > 0.1


# Convex Polytope's coefficients


def gram_of(seed, groups, poisons, width):
    offsets = double(seed, groups, poisons, width) + 0.5
    return offsets @ offsets.mT


def value(gram, coefficients):
    return (coefficients * (gram @ coefficients[..., None])[..., 0]).sum(-1)


def by_slsqp(gram):
    """The minimum over the simplex, by scipy."""
    size = len(gram)
    scaled = gram / np.trace(gram)
    solution = minimize(
        lambda c: c @ scaled @ c,
        np.full(size, 1 / size),
        jac=lambda c: 2 * scaled @ c,
        method="SLSQP",
        bounds=[(0, 1)] * size,
        constraints={"type": "eq", "fun": lambda c: c.sum() - 1, "jac": lambda c: np.ones(size)},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return solution.x


@pytest.mark.parametrize("width", [3, 12])
@pytest.mark.parametrize("poisons", [1, 2, 5, 9])
def test_coefficients_are_the_minimum_over_the_simplex(poisons, width):
    gram = gram_of(poisons, 6, poisons, width)
    uniform = torch.full((6, poisons), 1 / poisons, dtype=torch.float64)
    coefficients = convex_polytope.simplex_coefficients(gram, uniform, steps=2000)
    assert (coefficients >= 0).all()
    assert torch.allclose(coefficients.sum(1), torch.ones(6).double(), atol=1e-12)
    assert (value(gram, coefficients) <= value(gram, uniform) + 1e-12).all()
    largest = gram.diagonal(dim1=-2, dim2=-1).amax(-1)
    for g in range(6):
        best = torch.from_numpy(by_slsqp(gram[g].numpy()))
        expected = float(value(gram[g], best))
        assert float(value(gram, coefficients)[g]) == pytest.approx(
            expected, abs=1.1e-6 * float(largest[g])
        )


def test_groups_do_not_depend_on_each_other():
    gram = gram_of(0, 6, 5, 12)
    start = convex_polytope.project_simplex(double(1, 6, 5))
    together = convex_polytope.simplex_coefficients(gram, start)
    for g in range(6):
        alone = convex_polytope.simplex_coefficients(gram[g : g + 1], start[g : g + 1])
        assert torch.allclose(together[g], alone[0], atol=1e-12)


def test_a_solution_stays_and_a_warm_start_is_closer():
    gram = gram_of(3, 4, 5, 12)
    uniform = torch.full((4, 5), 0.2, dtype=torch.float64)
    solved = convex_polytope.simplex_coefficients(gram, uniform, steps=2000)
    assert torch.equal(convex_polytope.simplex_coefficients(gram, solved), solved)
    cold, warm = (
        convex_polytope.simplex_coefficients(1.01 * gram + 0.01, start, steps=1)
        for start in (uniform, solved)
    )
    assert (value(gram, warm) < value(gram, cold)).all()


def test_a_target_inside_the_hull_is_reached():
    offsets = double(5, 1, 4, 6)
    inside = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    offsets = offsets - (inside[:, None] * offsets[0]).sum(0)
    uniform = torch.full((1, 4), 0.25, dtype=torch.float64)
    coefficients = convex_polytope.simplex_coefficients(
        offsets @ offsets.mT, uniform, steps=5000, tolerance=1e-14
    )
    assert torch.allclose(coefficients[0], inside, atol=1e-5)


def test_the_projection_is_the_closest_point_of_the_simplex():
    points = 2 * double(4, 50, 5)
    projected = convex_polytope.project_simplex(points)
    assert (projected >= 0).all()
    assert torch.allclose(projected.sum(1), torch.ones(50).double(), atol=1e-12)
    # At the closest point y, no corner lies in the direction x - y: max_i (x - y)_i <= (x - y)'y.
    direction = points - projected
    assert (direction.amax(1) - (direction * projected).sum(1)).abs().max() < 1e-12


def test_the_first_step_of_the_polytope_is_down_its_loss():
    """Adam's first step has the length of its learning rate in every pixel."""
    given = task()
    config = convex_polytope.Config(epsilon=0.1, steps=1, step_size=0.01, surrogates=2)
    expected = torch.empty_like(given.images)
    unit = torch.tensor([0.2, 0.3]).view(2, 1, 1)
    for t in range(T):
        images = given.images[t].clone().requires_grad_()
        loss = 0.0
        for number in range(2):
            model = given.snapshots(number, [EPOCHS])[0]
            features, target = model.embed(images), model.embed(given.targets[t : t + 1])[0]
            offsets = (features - target).detach().double().numpy()
            best = torch.from_numpy(by_slsqp(offsets @ offsets.T)).float()
            assert float(best.max()) > 0.3
            loss = loss + (target - best @ features).square().sum() / target.square().sum()
        (gradient,) = torch.autograd.grad(loss, images)
        expected[t] = (given.images[t] - 0.01 * unit * gradient.sign()).clamp(0, 1)
    wrong = (convex_polytope.craft(given, config) - expected).abs() > 1e-4
    assert float(wrong.double().mean()) < 0.02
