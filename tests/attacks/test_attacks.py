"""One contract for all attacks, then what each one claims."""

import dataclasses
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.attack_tasks import SHAPE, K, craft_spec, small_classifier, task_for
from poisonbench import registry
from poisonbench.attacks import (
    ar,
    cuda,
    deep_confuse,
    delusive_adversarial,
    delusive_universal,
    error_minimising,
    lsp,
    ops,
    pgd,
    robust_error_minimising,
    targeted_adversarial,
    untargeted_noise,
)
from poisonbench.core.errors import UsageError
from poisonbench.core.settings import as_json, options_of, resolve
from poisonbench.data.budget import TOLERANCE, overstep
from poisonbench.data.poison import make_poison
from poisonbench.models.classifier import Classifier, initialise
from poisonbench.training.projected_gradient import example_losses

MODULES = {
    "pgd": pgd,
    "dap": delusive_adversarial,
    "durp": delusive_universal,
    "dc": deep_confuse,
    "lsp": lsp,
    "ar": ar,
    "ops": ops,
    "cuda": cuda,
    "untargeted-noise": untargeted_noise,
    "em": error_minimising,
    "rem": robust_error_minimising,
    "tap": targeted_adversarial,
}
#: Targeted attacks and triggers have other tasks, and tests of their own.
ATTACKS = [entry for entry in registry.ATTACKS if not (entry.scenario or entry.has_trigger)]
#: DC with networks of a sixteenth of their channels.
TINY_DC = {
    "rounds": 1,
    "epochs_per_round": 1,
    "batch_size": 16,
    "generator_width": 1 / 16,
    "surrogate_width": 1 / 16,
}
#: EM in two rounds, which no error ends before.
TINY_EM = {
    "rounds": 2,
    "steps": 2,
    "step_ratio": 0.5,
    "batches": 2,
    "batch_size": 8,
    "stop_error": 0.0,
    "precision": "float32",
}
TINY_REM = {
    "batches": 2,
    "batch_size": 8,
    "noise_steps": 2,
    "step_ratio": 0.5,
    "draws": 2,
    "adversary_steps": 1,
    "precision": "float32",
}
#: Settings that keep a step loop short; the second of a pair is a variant.
CASES = [
    ("pgd", {"steps": 2, "precision": "float32"}, True),
    ("pgd", {"steps": 2, "restarts": 2, "augment": "crop-flip", "precision": "bfloat16"}, True),
    ("dap", {"steps": 2, "precision": "float32"}, False),
    ("dap", {"steps": 2, "target": "random", "precision": "bfloat16"}, True),
    ("durp", {}, True),
    ("durp", {"distribution": "sign", "epsilon": 0.3}, True),
    ("dc", TINY_DC, True),
    ("dc", TINY_DC | {"objective": "next-class", "rounds": 2, "epsilon": 0.3}, True),
    ("lsp", {"patch": 2}, True),
    ("lsp", {"patch": 3, "epsilon": 0.3}, True),
    ("ar", {}, True),
    ("ar", {"epsilon": 0.3}, True),
    ("ops", {}, False),
    ("cuda", {}, True),
    ("cuda", {"blur": 1.0}, True),
    ("untargeted-noise", {}, True),
    ("untargeted-noise", {"distribution": "uniform", "pattern": "class-wise"}, True),
    ("untargeted-noise", {"norm": "l2", "epsilon": 1.0}, True),
    ("untargeted-noise", {"norm": "l2", "epsilon": 0.5, "pattern": "class-wise"}, True),
    ("untargeted-noise", {"norm": "l0", "epsilon": 2.0}, True),
    ("untargeted-noise", {"norm": "convolution", "epsilon": 0.3}, True),
    ("em", TINY_EM, True),
    ("em", TINY_EM | {"noise": "class", "share": 0.6, "precision": "bfloat16"}, True),
    ("rem", TINY_REM, True),
    ("rem", TINY_REM | {"augment": "none", "adversary_steps": 0, "precision": "bfloat16"}, True),
    ("tap", {"steps": 2, "restarts": 1, "augment": "none", "precision": "float32"}, True),
    ("tap", {"steps": 2, "restarts": 2, "precision": "bfloat16"}, True),
]


def config_norm(name, values):
    """The norm of an attack's budget with these settings."""
    return MODULES[name].Config(**values).norm


@pytest.fixture(scope="module")
def images(dataset):
    return dataset.train.images.float() / 255


@pytest.fixture(scope="module")
def labels(dataset):
    return dataset.train.labels


def test_every_registered_attack_is_tested():
    assert {case[0] for case in CASES} == {entry.name for entry in ATTACKS}


@pytest.mark.parametrize("entry", ATTACKS, ids=lambda entry: entry.name)
def test_module_holds_what_the_registry_promises(entry):
    module = entry.load()
    assert module is MODULES[entry.name]
    assert module.VERSION >= 1
    assert all(option.help for option in options_of(module.Config))
    assert "Deviations" in module.__doc__
    with pytest.raises(dataclasses.FrozenInstanceError):
        module.Config().VERSION = 1
    assert module.Config().norm in re.split(", | or ", entry.norm)


@pytest.mark.parametrize(("name", "values", "is_random"), CASES)
class TestContract:
    def test_budget_range_and_type(self, name, values, is_random, dataset, images, labels):
        module = MODULES[name]
        config = module.Config(**values)
        poisoned = module.craft(task_for(small_classifier(), images, labels), config)
        assert poisoned.shape == images.shape
        assert poisoned.dtype == torch.float32
        assert not poisoned.requires_grad
        assert 0 <= float(poisoned.min()) <= float(poisoned.max()) <= 1
        base = dataset.train.images
        excess = overstep(poisoned, base, config.budget, config.norm)
        assert excess <= TOLERANCE.get(config.norm, 0)
        poison = make_poison(
            poisoned,
            torch.arange(len(images)),
            dataset,
            attack=name,
            epsilon=config.budget,
            spec=craft_spec(name, **as_json(config)),
            norm=config.norm,
        )
        assert poison.card.norm == config.norm
        assert 0 < poison.card.measured.max_abs_levels <= poison.card.largest_levels

    def test_the_seed_decides(self, name, values, is_random, images, labels):
        module = MODULES[name]
        config = module.Config(**values)
        torch.manual_seed(1)
        first, again, other = (
            module.craft(task_for(small_classifier(), images, labels, seed), config)
            for seed in (0, 0, 1)
        )
        assert torch.equal(first, again)
        assert torch.equal(first, other) is not is_random

    def test_global_generator_and_inputs_are_untouched(
        self, name, values, is_random, images, labels
    ):
        module, model = MODULES[name], small_classifier()
        state, images_before = torch.random.get_rng_state(), images.clone()
        before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        module.craft(task_for(model, images, labels), module.Config(**values))
        assert torch.equal(torch.random.get_rng_state(), state)
        assert torch.equal(images, images_before)
        assert all(torch.equal(before[key], now) for key, now in model.state_dict().items())
        assert not model.training

    def test_progress_ends_at_the_whole(self, name, values, is_random, images, labels):
        module, seen = MODULES[name], []
        task = task_for(
            small_classifier(),
            images,
            labels,
            report=lambda done, total: seen.append((done, total)),
        )
        module.craft(task, module.Config(**values))
        assert seen == [(done + 1, len(seen)) for done in range(len(seen))]

    def test_a_tiny_budget_changes_as_little(self, name, values, is_random, images, labels):
        module = MODULES[name]
        if config_norm(name, values) not in ("linf", "l2") or values.get("norm") == "l2":
            pytest.skip("its size is no setting, or is not allowed to vanish")
        config = module.Config(**(values | {"epsilon": 1e-6}))
        poisoned = module.craft(task_for(small_classifier(), images, labels), config)
        assert torch.allclose(poisoned, images, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        (name, bad)
        for name in MODULES
        if name not in ("ops", "cuda")
        for bad in (
            {"epsilon": -0.1},
            {"epsilon": 0.0},
            {"epsilon": 1.1},
            {"epsilon": float("nan")},
        )
        if name not in ("lsp", "ar") or bad != {"epsilon": 1.1}
    ]
    + [(name, bad) for name in ("pgd", "dap") for bad in ({"steps": 0}, {"step_ratio": 0.0})]
    + [("pgd", {"restarts": 0}), ("tap", {"restarts": 0}), ("tap", {"step_ratio": 3.0})]
    + [
        ("em", bad)
        for bad in (
            {"steps": 0},
            {"batches": 0},
            {"rounds": 0},
            {"stop_error": 1.5},
            {"share": 0.0},
            {"learning_rate": 0.0},
            {"momentum": 1.0},
        )
    ]
    + [
        ("rem", bad)
        for bad in ({"draws": 0}, {"adversary_steps": -1}, {"adversary_ratio": 2.0}, {"batches": 0})
    ]
    + [
        ("dc", bad)
        for bad in (
            {"rounds": 0},
            {"epochs_per_round": 0},
            {"batch_size": 1},
            {"surrogate_rate": 0.0},
            {"generator_rate": float("nan")},
            {"surrogate_width": 0.0},
            {"generator_width": 2.0},
        )
    ],
)
def test_bad_settings_are_refused(name, bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))}: expected"):
        MODULES[name].Config(**bad)


@pytest.mark.parametrize(
    ("name", "presets", "expected"),
    [
        ("pgd", (), {"epsilon": 8 / 255, "steps": 40, "step_ratio": 0.1, "restarts": 1}),
        ("pgd", ("mnist",), {"epsilon": 76 / 255, "steps": 40, "step_ratio": 0.1}),
        ("pgd", ("mnist", "mnist-sample"), {"epsilon": 76 / 255, "steps": 10, "step_ratio": 0.25}),
        ("dap", (), {"epsilon": 8 / 255, "steps": 100, "step_ratio": 0.2, "target": "next"}),
        ("dap", ("mnist",), {"epsilon": 76 / 255, "steps": 40, "step_ratio": 0.1}),
        ("dap", ("mnist", "mnist-sample"), {"epsilon": 76 / 255, "steps": 10, "step_ratio": 0.25}),
        ("durp", ("mnist", "mnist-sample"), {"epsilon": 76 / 255, "distribution": "uniform"}),
        ("dc", (), {"epsilon": 8 / 255, "rounds": 30, "epochs_per_round": 10, "generator": "unet"}),
        ("dc", ("mnist",), {"epsilon": 76 / 255, "rounds": 100, "generator": "autoencoder"}),
        (
            "em",
            (),
            {"epsilon": 8 / 255, "step_ratio": 0.1, "steps_a_round": 20, "last_error": 0.01},
        ),
        ("em", ("mnist",), {"epsilon": 76 / 255, "steps_a_round": 20, "batches": 10}),
        ("rem", (), {"epsilon": 8 / 255, "batches": 5000, "draws": 5, "adversary_ratio": 0.5}),
        ("rem", ("mnist",), {"epsilon": 76 / 255, "draws": 1, "augment": "none"}),
        ("tap", (), {"epsilon": 8 / 255, "steps": 250, "restarts": 8, "augment": "crop-flip"}),
        ("tap", ("mnist",), {"epsilon": 76 / 255, "restarts": 1, "augment": "none"}),
        ("dc", ("mnist", "mnist-sample"), {"epsilon": 76 / 255, "surrogate_width": 0.25}),
        ("lsp", ("cifar10", "colour"), {"epsilon": 6 / 255 * 3072**0.5, "patch": 8}),
        ("lsp", ("mnist", "mnist-sample"), {"epsilon": 28 * 57 / 255, "patch": 7}),
        ("ar", ("cifar10", "colour"), {"epsilon": 1.0}),
        ("ar", ("mnist",), {"epsilon": 28 * 76 / 8 / 3072**0.5}),
        ("cuda", ("mnist",), {"blur": 0.3}),
        ("untargeted-noise", (), {"epsilon": 8 / 255, "norm": "linf"}),
        ("untargeted-noise", ("mnist",), {"epsilon": 76 / 255, "pattern": "sample-wise"}),
    ],
)
def test_presets(name, presets, expected):
    module = MODULES[name]
    config = resolve(
        module.Config, module.PROFILES, profile="paper", presets=presets, overrides={}, owner=name
    )
    assert {key: getattr(config, key) for key in expected} == expected


def test_pgd_raises_the_loss_of_the_true_label(images, labels):
    model = small_classifier()
    config = pgd.Config(epsilon=0.05, steps=5, step_ratio=0.3, precision="float32")
    poisoned = pgd.craft(task_for(model, images, labels), config)
    before, after = (example_losses(model, x, labels) for x in (images, poisoned))
    assert (after > before).all()


def test_pgd_keeps_the_best_restart_of_each_image(images, labels):
    model = small_classifier()
    settings = {"epsilon": 0.3, "steps": 1, "step_ratio": 0.1, "precision": "float32"}
    task = task_for(model, images, labels)
    single = [pgd.craft(task, pgd.Config(**settings)) for _ in range(3)]
    losses = torch.stack([example_losses(model, each, labels) for each in single])
    best = pgd.craft(task_for(model, images, labels), pgd.Config(restarts=3, **settings))
    assert len(losses.argmax(0).unique()) > 1
    expected = torch.stack(single)[losses.argmax(0), torch.arange(len(images))]
    assert torch.equal(best, expected)


def test_dap_lowers_the_loss_of_the_next_class(images, labels):
    model = small_classifier()
    config = delusive_adversarial.Config(epsilon=0.05, steps=5, precision="float32")
    poisoned = delusive_adversarial.craft(task_for(model, images, labels), config)
    following = (labels + 1) % K
    before, after = (example_losses(model, x, following) for x in (images, poisoned))
    assert (after < before).all()


def test_dap_needs_another_class(images, labels):
    task = dataclasses.replace(task_for(small_classifier(), images, labels), num_classes=1)
    with pytest.raises(UsageError, match="expected at least 2 classes"):
        delusive_adversarial.craft(task, delusive_adversarial.Config())


def fit(images, labels, seed):
    """A network trained by full-batch gradient descent."""
    features = nn.Sequential(nn.Flatten(), nn.Linear(128, 32), nn.ReLU())
    model = Classifier(features, nn.Linear(32, K), (0.5, 0.5), (0.2, 0.2))
    initialise(model, torch.Generator().manual_seed(seed))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model


def test_the_victim_of_dap_calls_a_class_by_the_one_before():
    generator = torch.Generator().manual_seed(0)
    templates = torch.rand(K, *SHAPE, generator=generator)
    labels = torch.arange(400) % K
    noise = torch.randn(800, *SHAPE, generator=generator)
    images = (0.5 + 0.1 * (templates[labels.repeat(2)] - 0.5) + 0.1 * noise).clamp(0, 1)
    train, test = images[:400], images[400:]
    crafter = fit(train, labels, 1)
    config = delusive_adversarial.Config(epsilon=0.15, steps=10, precision="float32")
    poisoned = delusive_adversarial.craft(task_for(crafter, train, labels), config)
    predicted = fit(poisoned, labels, 2)(test).argmax(1)
    before, after = ((predicted == (labels + step) % K).float().mean() for step in (-1, 1))
    assert before > 0.8
    assert after < 0.1


#: Mean size of a pixel of each, of the Gaussian 2 phi(0) - 2 phi(1) + P(|z| > 1).
MEAN_SIZE = {"uniform": 0.5, "sign": 1.0, "gaussian": 0.6313}


@pytest.mark.parametrize("distribution", MEAN_SIZE)
def test_durp_adds_one_pattern_a_class(distribution):
    grey = torch.full((12, *SHAPE), 0.5)
    labels = torch.arange(12) % K
    config = delusive_universal.Config(epsilon=0.2, distribution=distribution)
    noise = delusive_universal.craft(task_for(small_classifier(), grey, labels), config) - grey
    assert torch.equal(noise[:K].repeat(3, 1, 1, 1), noise)
    assert not torch.equal(noise[0], noise[1])
    mean = float(noise[:K].abs().mean())
    assert mean == pytest.approx(0.2 * MEAN_SIZE[distribution], rel=0.15)
    assert float(noise.abs().max()) <= 0.2 + 1e-6
    share_of_corners = float((noise[:K].abs() > 0.2 - 1e-6).float().mean())
    corners = {"uniform": 0.0, "sign": 1.0, "gaussian": 0.3173}[distribution]
    assert share_of_corners == pytest.approx(corners, abs=0.08)


def test_durp_needs_no_surrogate(images, labels):
    def absent():
        raise AssertionError("no surrogate is needed")

    task = dataclasses.replace(task_for(small_classifier(), images, labels), surrogate=absent)
    delusive_universal.craft(task, delusive_universal.Config())
