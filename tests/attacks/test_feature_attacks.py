"""Bullseye Polytope, Feature Collision and Convex Polytope: contracts, settings, watermark."""

import dataclasses
from collections import Counter

import pytest
import torch

from helpers.attack_tasks import BREWED, EPOCHS, SHAPE, K, P, T, double, small_classifier, task
from poisonbench.attacks import bullseye_polytope, convex_polytope, feature_collision
from poisonbench.attacks.shared import targeted_optimiser
from poisonbench.attacks.shared.feature_space import FeatureSpace, adam_steps
from poisonbench.attacks.shared.targeted_optimiser import OptimiserConfig
from poisonbench.core.settings import options_of, resolve
from poisonbench.core.work import Sizes
from poisonbench.training.recipe import Recipe

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
    assert module.VERSION >= 1
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
    features = space.embed(1, given.images)
    for t in range(T):
        assert torch.allclose(space.targets[1][t], model.embed(given.targets[t : t + 1])[0], 1e-4)
        for p in range(P):
            alone = model.embed(given.images[t, p : p + 1])[0]
            assert torch.allclose(features[t, p], alone, rtol=1e-4, atol=1e-6)
    assert not features.requires_grad


def test_adam_steps_are_torchs_adam_in_normalised_units_projected():
    given, unit = task(), torch.tensor([0.2, 0.3]).view(2, 1, 1)
    # Not a grey level: where a gradient is 0 but for rounding, Adam takes a whole step.
    goal = given.targets[:, None] + 0.5 / 255
    poisons = adam_steps(
        given,
        OptimiserConfig(epsilon=0.1, steps=4, step_size=0.1),
        lambda number, images, rows: (
            (1 + number) * (images - goal[rows]).square().flatten(1).sum(1)
        ),
        [small_classifier()] * 2,
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


# Restarts


@pytest.mark.parametrize("module", [bullseye_polytope, feature_collision])
def test_restarts_in_one_pass_are_restarts_one_after_another(module, monkeypatch):
    config = module.Config(**(BREWED | {"restarts": 3}))
    sequential = module.craft(task(), config)
    monkeypatch.setattr(targeted_optimiser, "groups_in_a_pass", lambda base: 7)
    batched = module.craft(task(), config)
    assert float((batched - sequential).abs().gt(1e-6).double().mean()) < 0.01


@pytest.mark.parametrize("form", ["mean", "collide", "watermark"])
def test_the_work_is_what_passes_the_surrogates(form, monkeypatch):
    """Poisons of one target, with and without a gradient to them."""
    passed, embed = Counter(), FeatureSpace.embed

    def counted(self, number, images):
        # The targets' own features are taken once, of one image each.
        if images.shape[1] == P:
            kind = "pixels" if images.requires_grad else "forward"
            passed[kind] += images.shape[0] * P
        return embed(self, number, images)

    monkeypatch.setattr(FeatureSpace, "embed", counted)
    config = feature_collision.Config(**(ADAM | {"form": form}))
    feature_collision.craft(task(slice(1)), config)
    sizes = Sizes(
        images=P,
        train=40,
        validation=4,
        shape=SHAPE,
        num_classes=K,
        weights=100,
        scenario="scratch",
    )
    work = feature_collision.work(config, Recipe(), sizes)
    assert {part.kind: part.images for part in work.passes} == passed


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
    poisons = feature_collision.forward_backward(
        feature_collision.walk_from(start, torch.full((2, 1, 1), length, dtype=torch.float64)),
        lambda images: (images - goal).flatten(1).norm(dim=1),
        lambda images: images,
        feature_collision.Config(steps=60, beta=beta),
        lambda done: None,
    )
    for p in range(P):
        alone = walk(start[p], lambda image: (image - goal).norm(), 60, length, beta)
        assert torch.allclose(poisons[p], alone, atol=1e-8)
    assert ((poisons - goal).flatten(1).norm(dim=1) < (start - goal).flatten(1).norm(dim=1)).all()


def test_forward_backward_stops_where_nothing_changes():
    seen = []
    start = double(8, 2, *SHAPE)
    poisons = feature_collision.forward_backward(
        feature_collision.walk_from(start, torch.full((2, 1, 1), 0.1, dtype=torch.float64)),
        lambda images: 0 * images.flatten(1).sum(1),
        lambda images: images,
        feature_collision.Config(steps=50, beta=0.1),
        seen.append,
    )
    assert torch.equal(poisons, start)
    assert seen == [50]
