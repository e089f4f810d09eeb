"""Bullseye Polytope, Feature Collision and Convex Polytope: contracts and objectives."""

import copy
import dataclasses
import functools

import numpy as np
import pytest
import torch
from fake_data import SHAPE, K, fake_split, small_classifier
from scipy.optimize import minimize
from torch import nn

from poisonbench import brewing
from poisonbench.attacks import bullseye_polytope, convex_polytope, feature_collision
from poisonbench.attacks.base import TargetedTask
from poisonbench.config import options_of, resolve
from poisonbench.feature_space import FeatureSpace, adam_steps

T, P, EPOCHS = 3, 4, 6
BREWED = {"steps": 3, "restarts": 2, "surrogates": 2, "epsilon": 0.1, "brew_augment": "none"}
ADAM = BREWED | {"restarts": 1, "step_size": 0.04}
#: Name, module, settings, whether the seed matters.
CASES = [
    ("bp", bullseye_polytope, BREWED, True),
    ("bp", bullseye_polytope, BREWED | {"brew_augment": "shift-flip", "stagger": "full"}, True),
    ("bp", bullseye_polytope, ADAM | {"form": "authors"}, False),
    ("fc", feature_collision, BREWED, True),
    ("fc", feature_collision, BREWED | {"form": "collide"}, True),
    ("fc", feature_collision, ADAM | {"form": "watermark"}, False),
    ("fc", feature_collision, ADAM | {"form": "watermark", "epsilon": 1.0}, False),
    ("cp", convex_polytope, {"steps": 3, "surrogates": 2, "epsilon": 0.1}, False),
]
EVERY_CASE = pytest.mark.parametrize(("name", "module", "values", "is_random"), CASES)


def double(generator_seed, *shape):
    generator = torch.Generator().manual_seed(generator_seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


#: Made once: its layers draw weights from the global generator before they get their own.
surrogate = functools.cache(small_classifier)


def task(rows=slice(None), seed=0, report=lambda done, total: None):
    """Three targets with four poisons each; ``rows`` takes some of them."""
    train = fake_split(40, 0)
    intended = torch.arange(T)
    indices = torch.stack([(train.labels == label).nonzero()[:P, 0] for label in intended])
    return TargetedTask(
        images=train.images[indices][rows].float() / 255,
        labels=train.labels[indices][rows],
        rows=indices[rows],
        targets=fake_split(T, 1).images[rows].float() / 255,
        intended=intended[rows],
        train=train,
        num_classes=K,
        epochs=EPOCHS,
        snapshots=lambda number, epochs: [surrogate(100 * number + epoch) for epoch in epochs],
        generators=[torch.Generator().manual_seed(10 * seed + t) for t in range(T)][rows],
        report=report,
    )


@EVERY_CASE
class TestContract:
    def test_budget_range_and_that_every_poison_moves(self, name, module, values, is_random):
        given = task()
        before = given.images.clone()
        poisons = module.craft(given, module.Config(**values))
        assert poisons.shape == given.images.shape
        assert poisons.dtype == torch.float32
        assert not poisons.requires_grad
        assert 0 <= float(poisons.min()) <= float(poisons.max()) <= 1
        moved = (poisons - before).abs().flatten(2).amax(2)
        assert float(moved.max()) <= values["epsilon"] + 1e-6
        assert float(moved.min()) > 0.01
        assert torch.equal(given.images, before)

    def test_the_seed_decides(self, name, module, values, is_random):
        config = module.Config(**values)
        first = module.craft(task(), config)
        state = torch.random.get_rng_state()
        again, other = (module.craft(task(seed=seed), config) for seed in (0, 1))
        assert torch.equal(first, again)
        assert torch.equal(first, other) is not is_random
        assert torch.equal(torch.random.get_rng_state(), state)

    def test_targets_do_not_depend_on_their_neighbours(self, name, module, values, is_random):
        config = module.Config(**values)
        together = module.craft(task(), config)
        alone = module.craft(task(slice(1, 2)), config)
        assert torch.equal(together[1:2], alone)

    def test_progress_ends_at_the_whole(self, name, module, values, is_random):
        seen = []
        module.craft(task(report=lambda *progress: seen.append(progress)), module.Config(**values))
        whole = 3 * T if values.get("form") == "watermark" else 3
        assert seen == [(done + 1, whole) for done in range(whole)]

    def test_the_distance_falls(self, name, module, values, is_random):
        given = task()
        config = module.Config(**(values | {"steps": 20}))
        poisons = module.craft(given, config)
        models = [given.snapshots(number, [EPOCHS])[0] for number in range(2)]
        if values.get("stagger"):
            models[0] = given.snapshots(0, [EPOCHS // 2])[0]
        space = FeatureSpace(models, given.targets)
        before, after = (
            distances(name, values.get("form"), space, images).sum(0)
            for images in (given.images, poisons)
        )
        assert (after < 0.9 * before).all()


def distances(name, form, space, images):
    """The objective of each surrogate and target, (M, T)."""
    result = []
    for number, target in enumerate(space.targets):
        features = space.embed(number, images).detach()
        if name == "cp":
            result.append(hull_distance(features, target))
        elif form in ("collide", "watermark"):
            result.append((features - target[:, None]).norm(dim=2).mean(1))
        else:
            result.append((features.mean(1) - target).norm(dim=1))
    return torch.stack(result)


def hull_distance(features, target):
    offsets = (features - target[:, None]).double()
    start = torch.full(offsets.shape[:2], 1 / P, dtype=torch.float64)
    solved = convex_polytope.simplex_coefficients(offsets @ offsets.mT, start)
    return (solved[..., None] * offsets).sum(1).norm(dim=1)


@pytest.mark.parametrize(
    ("module", "bad", "message"),
    [
        (bullseye_polytope, {"epsilon": 0.0}, "epsilon: expected"),
        (bullseye_polytope, {"form": "authors"}, "form: expected restarts 1"),
        (bullseye_polytope, {"form": "authors", "restarts": 1}, "form: expected restarts 1"),
        (feature_collision, {"steps": 0}, "steps: expected"),
        (feature_collision, {"opacity": 1.0}, "opacity: expected"),
        (feature_collision, {"beta": -1.0}, "beta: expected"),
        (feature_collision, {"beta": float("nan")}, "beta: expected"),
        (feature_collision, {"form": "watermark"}, "form: expected restarts 1"),
        (convex_polytope, {"epsilon": 1.5}, "epsilon: expected"),
        (convex_polytope, {"steps": 0}, "steps: expected"),
        (convex_polytope, {"step_size": 0.0}, "step_size: expected"),
        (convex_polytope, {"surrogates": 0}, "surrogates: expected"),
    ],
)
def test_bad_settings_are_refused(module, bad, message):
    with pytest.raises(ValueError, match=message):
        module.Config(**bad)


SAMPLE = ("mnist", "mnist-sample")


@pytest.mark.parametrize(
    ("module", "profile", "presets", "expected"),
    [
        (bullseye_polytope, "paper", (), {"epsilon": 16 / 255, "steps": 4000, "restarts": 8}),
        (bullseye_polytope, "paper", ("mnist",), {"epsilon": 76 / 255, "brew_augment": "none"}),
        (bullseye_polytope, "paper", SAMPLE, {"epsilon": 64 / 255, "steps": 30, "surrogates": 3}),
        (bullseye_polytope, "original", (), {"form": "authors", "epsilon": 0.1, "surrogates": 6}),
        (bullseye_polytope, "original", SAMPLE, {"form": "authors", "surrogates": 3}),
        (feature_collision, "paper", (), {"epsilon": 16 / 255, "steps": 1000, "form": "mean"}),
        (feature_collision, "paper", SAMPLE, {"step_unit": "pixel", "restarts": 1}),
        (feature_collision, "original", (), {"form": "collide", "epsilon": 16 / 255}),
        (feature_collision, "original", SAMPLE, {"form": "collide", "epsilon": 64 / 255}),
        (feature_collision, "watermark", (), {"epsilon": 1.0, "steps": 12000, "beta": 0.1}),
        (feature_collision, "watermark", SAMPLE, {"form": "watermark", "epsilon": 1.0}),
        (convex_polytope, "paper", (), {"epsilon": 0.1, "steps": 4000, "surrogates": 6}),
        (convex_polytope, "paper", SAMPLE, {"epsilon": 64 / 255, "surrogates": 3}),
    ],
)
def test_presets(module, profile, presets, expected):
    config = resolve(
        module.Config, module.PROFILES, profile=profile, presets=presets, overrides={}, owner="x"
    )
    assert {key: getattr(config, key) for key in expected} == expected


@pytest.mark.parametrize("module", [bullseye_polytope, feature_collision, convex_polytope])
def test_module_holds_what_the_registry_needs(module):
    assert module.RECIPE_NUMBER >= 1
    assert all(option.help for option in options_of(module.Config))
    assert "Deviations" in module.__doc__
    names = {option.name for option in options_of(module.Config)}
    for presets in module.PROFILES.values():
        assert all(set(values) <= names for values in presets.values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        module.Config().epsilon = 0.1


# Feature space


def test_features_of_groups_and_targets():
    given = task()
    model = small_classifier(3)
    space = FeatureSpace([small_classifier(2), model], given.targets)
    assert len(space) == 2
    features = space.embed(1, given.images)
    for t in range(T):
        assert torch.allclose(space.targets[1][t], model.embed(given.targets[t : t + 1])[0], 1e-4)
        for p in range(P):
            alone = model.embed(given.images[t, p : p + 1])[0]
            assert torch.allclose(features[t, p], alone, rtol=1e-4, atol=1e-6)
    assert not features.requires_grad
    assert torch.equal(space.std, torch.tensor([0.2, 0.3]).view(2, 1, 1))


def test_adam_steps_are_torchs_adam_in_normalised_units_projected():
    given, unit = task(), torch.tensor([0.2, 0.3]).view(2, 1, 1)
    # Not a grey level: where a gradient is 0 but for rounding, Adam takes a whole step.
    goal = given.targets[:, None] + 0.5 / 255
    poisons = adam_steps(
        given.images,
        lambda number, images, rows: (
            (1 + number) * (images - goal[rows]).square().flatten(1).sum(1)
        ),
        num_surrogates=2,
        epsilon=0.1,
        steps=4,
        step_size=0.1,
        unit=unit,
        report=lambda done, total: None,
    )
    base = given.images / unit
    normalised = base.clone().requires_grad_()
    adam = torch.optim.Adam([normalised], lr=0.1)
    for _ in range(4):
        adam.zero_grad()
        (3 * (unit * normalised - goal).square().sum()).backward()
        adam.step()
        low = (given.images - 0.1).clamp(min=0) / unit
        high = (given.images + 0.1).clamp(max=1) / unit
        normalised.data = torch.minimum(torch.maximum(normalised.data, low), high)
    assert torch.allclose(poisons, unit * normalised.detach(), atol=1e-5)
    assert float((poisons - given.images).abs().max()) > 0.05


# Objectives against loops, in float64

FEATURES, TARGET = double(0, T, P, 7), double(1, T, 7)


@pytest.mark.parametrize("relative", [False, True])
def test_bullseye_is_its_formula(relative):
    found = bullseye_polytope.bullseye(FEATURES, TARGET, relative=relative)
    for t in range(T):
        squares = norm = 0.0
        for f in range(7):
            mean = sum(float(FEATURES[t, p, f]) for p in range(P)) / P
            squares += (mean - float(TARGET[t, f])) ** 2
            norm += float(TARGET[t, f]) ** 2
        expected = (squares / norm) ** 0.5 if relative else squares / 7
        assert float(found[t]) == pytest.approx(expected, rel=1e-12)


def test_collisions_are_their_formulas():
    mean = feature_collision.mean_collision(FEATURES, TARGET)
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
    found = convex_polytope.polytope_distance(offsets, coefficients, TARGET)
    for t in range(T):
        point = sum(float(coefficients[t, p]) * FEATURES[t, p].numpy() for p in range(P))
        residual = TARGET[t].numpy() - point
        expected = 0.5 * (residual @ residual) / float(TARGET[t] @ TARGET[t])
        assert float(found[t]) == pytest.approx(expected, rel=1e-12)


def gradient_of(loss, *settings, **named):
    features = FEATURES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(features, TARGET, *settings, **named).sum(), features)
    return gradient


def test_the_mean_collision_is_bullseye_polytope():
    bullseye = gradient_of(bullseye_polytope.bullseye, relative=False)
    assert torch.equal(gradient_of(feature_collision.mean_collision), bullseye)
    assert not torch.allclose(gradient_of(feature_collision.collision), bullseye)
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
        for loss in (feature_collision.mean_collision, feature_collision.collision)
    )
    assert (by_mean < 0).all()
    assert (by_each > 0).all()


def test_both_forms_of_bullseye_pull_in_one_direction():
    mean = gradient_of(bullseye_polytope.bullseye, relative=False).flatten(1)
    relative = gradient_of(bullseye_polytope.bullseye, relative=True).flatten(1)
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
        found = []
        for second in (large, enlarged):
            models = [small, second]
            given = dataclasses.replace(
                task(), snapshots=lambda number, epochs, models=models: [models[number]]
            )
            config = bullseye_polytope.Config(**(BREWED | values))
            found.append(bullseye_polytope.craft(given, config))
        changed.append(float(((found[0] - found[1]).abs() > 1e-3).double().mean()))
    assert changed[0] < 0.01
    assert changed[1] > 0.1


# Restarts


@pytest.mark.parametrize("module", [bullseye_polytope, feature_collision])
def test_restarts_in_one_pass_are_restarts_one_after_another(module, monkeypatch):
    config = module.Config(**(BREWED | {"restarts": 3}))
    sequential = module.craft(task(), config)
    monkeypatch.setattr(brewing, "_groups_in_a_pass", lambda base: 7)
    batched = module.craft(task(), config)
    assert float((batched - sequential).abs().gt(1e-6).double().mean()) < 0.01


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
    found = minimize(
        lambda c: c @ scaled @ c,
        np.full(size, 1 / size),
        jac=lambda c: 2 * scaled @ c,
        method="SLSQP",
        bounds=[(0, 1)] * size,
        constraints={"type": "eq", "fun": lambda c: c.sum() - 1, "jac": lambda c: np.ones(size)},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return found.x


@pytest.mark.parametrize("width", [3, 12])
@pytest.mark.parametrize("poisons", [1, 2, 5, 9])
def test_coefficients_are_the_minimum_over_the_simplex(poisons, width):
    gram = gram_of(poisons, 6, poisons, width)
    uniform = torch.full((6, poisons), 1 / poisons, dtype=torch.float64)
    found = convex_polytope.simplex_coefficients(gram, uniform, steps=2000)
    assert (found >= 0).all()
    assert torch.allclose(found.sum(1), torch.ones(6).double(), atol=1e-12)
    assert (value(gram, found) <= value(gram, uniform) + 1e-12).all()
    largest = gram.diagonal(dim1=-2, dim2=-1).amax(-1)
    for g in range(6):
        best = torch.from_numpy(by_slsqp(gram[g].numpy()))
        expected = float(value(gram[g], best))
        assert float(value(gram, found)[g]) == pytest.approx(
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
    found = convex_polytope.simplex_coefficients(
        offsets @ offsets.mT, uniform, steps=5000, tolerance=1e-14
    )
    assert torch.allclose(found[0], inside, atol=1e-5)


def test_the_projection_is_the_closest_point_of_the_simplex():
    points = 2 * double(4, 50, 5)
    found = convex_polytope.project_simplex(points)
    assert (found >= 0).all()
    assert torch.allclose(found.sum(1), torch.ones(50).double(), atol=1e-12)
    # At the closest point y, no corner lies in the direction x - y: max_i (x - y)_i <= (x - y)'y.
    direction = points - found
    assert (direction.amax(1) - (direction * found).sum(1)).abs().max() < 1e-12


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


# The watermark form


def test_the_watermark_starts_at_the_blend():
    given = task()
    config = feature_collision.Config(
        **(ADAM | {"form": "watermark", "epsilon": 1.0, "steps": 1, "step_size": 1e-9})
    )
    blend = 0.3 * given.targets[:, None] + 0.7 * given.images
    assert torch.allclose(feature_collision.craft(given, config), blend, atol=1e-6)
    bounded = feature_collision.craft(given, dataclasses.replace(config, epsilon=0.1))
    expected = given.images + (blend - given.images).clamp(-0.1, 0.1)
    assert torch.allclose(bounded, expected, atol=1e-6)


def walk(start, distance, steps, length, beta):
    """One poison by torch's Adam, step by step, in float64."""
    image, variable = start.clone(), start.clone().requires_grad_()
    adam = torch.optim.Adam([variable], lr=length)
    for _ in range(steps):
        variable.data = image.clone()
        adam.zero_grad()
        before = distance(variable)
        before.backward()
        adam.param_groups[0]["lr"] = length
        adam.step()
        stepped = variable.detach().clone()
        if (stepped - image).norm() < 1e-5 * stepped.norm():
            break
        if distance(stepped) < before.detach():
            pull = beta * 255 * length
            image = (stepped + pull * start) / (1 + pull)
        else:
            length /= 5
    return image


@pytest.mark.parametrize(("length", "beta"), [(0.002, 0.1), (0.1, 0.0), (0.3, 0.1)])
def test_forward_backward_is_a_walk_of_each_poison(length, beta):
    start = double(6, P, *SHAPE).abs() + 0.2
    goal = double(7, *SHAPE)
    found = feature_collision.forward_backward(
        start,
        lambda images: (images - goal).flatten(1).norm(dim=1),
        lambda images: images,
        steps=60,
        step_size=torch.full((2, 1, 1), length, dtype=torch.float64),
        beta=beta,
        report=lambda done, total: None,
    )
    for p in range(P):
        alone = walk(start[p], lambda image: (image - goal).norm(), 60, length, beta)
        assert torch.allclose(found[p], alone, atol=1e-8)
    assert ((found - goal).flatten(1).norm(dim=1) < (start - goal).flatten(1).norm(dim=1)).all()


def test_forward_backward_stops_where_nothing_changes():
    seen = []
    start = double(8, 2, *SHAPE)
    found = feature_collision.forward_backward(
        start,
        lambda images: 0 * images.flatten(1).sum(1),
        lambda images: images,
        steps=50,
        step_size=torch.full((2, 1, 1), 0.1, dtype=torch.float64),
        beta=0.1,
        report=lambda *progress: seen.append(progress),
    )
    assert torch.equal(found, start)
    assert seen == [(50, 50)]
