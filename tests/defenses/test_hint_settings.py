"""HINT's extensions and settings: other selections and steps, profiles, bad values."""

import copy
import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from helpers.attack_tasks import fake_dataset
from helpers.defense_problems import BETA, DATA, pixels, start
from helpers.tiny_training import recipe, train
from poisonbench.core.errors import UsageError
from poisonbench.core.seeds import Seeds
from poisonbench.core.settings import as_json, resolve
from poisonbench.data.splits import other_labels
from poisonbench.defenses import hint, none
from poisonbench.defenses.hint import Config, Hint, build
from poisonbench.registry import DEFENSES
from poisonbench.runs.method_settings import read_settings
from poisonbench.training.recipe import Recipe, recipe_profiles

# Extensions


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_selection_by_loss_takes_the_highest_cross_entropies(trained, ratio):
    model = copy.deepcopy(trained).double().eval()
    losses = F.cross_entropy(model(DATA.images.double() / 255), DATA.labels, reduction="none")
    hardest = losses.detach().argsort(descending=True)[: math.ceil(ratio * 30)].sort().values
    _, defense, notes = start(Config(ratio=ratio, select_by="loss"), trained)
    assert torch.equal(defense.memory["selected"], hardest)
    assert notes[0]["selected"] == len(hardest)


def test_selection_at_random_is_drawn_once_from_the_states_generator(trained):
    config = Config(ratio=0.4, select_by="random", schedule=(1, 2))
    order = torch.randperm(30, generator=Seeds().generator("defense", "selection", 1, 0)).tolist()
    chosen = [row for row in range(30) if order[row] >= 18]
    first, defense, _ = start(config, trained)
    assert defense.memory["selected"].tolist() == chosen
    start(config, trained, defense=defense, train=first, epoch=2)
    assert defense.memory["selected"].tolist() == chosen
    _, other, _ = start(config, trained, epoch=2)
    assert other.memory["selected"].tolist() != chosen
    _, influence, _ = start(Config(ratio=0.4), trained)
    assert influence.memory["selected"].tolist() != chosen


MAPS = torch.randn(6, 2, 4, 4, generator=torch.Generator().manual_seed(5))
ONES = torch.ones(1, 2, 1, 1)


def test_a_sign_step_moves_each_pixel_by_beta_and_against_the_influence():
    step = hint.noise_step(MAPS, ONES, Config(step="sign"), 0.1)
    assert torch.equal(step, torch.where(MAPS > 0, -BETA, BETA))
    assert hint.noise_step(MAPS * 0, ONES, Config(step="sign"), 0.1).abs().max() == 0


def test_an_linf_step_moves_each_images_largest_pixel_by_beta():
    config = Config(step="linf")
    step = hint.noise_step(MAPS, ONES, config, 0.1)
    assert torch.equal(step.abs().amax((1, 2, 3)), torch.full((6,), BETA))
    for image, influence in zip(step.double(), MAPS.double(), strict=True):
        torch.testing.assert_close(image, -BETA * influence / influence.abs().max())
    # Neither the influence's size nor gamma matters, and no influence is no step.
    torch.testing.assert_close(hint.noise_step(MAPS * 1e-6, ONES, config, 9.0), step)
    assert hint.noise_step(MAPS * 0, ONES, config, 0.1).abs().max() == 0
    # The largest is found after the pixel space's scale.
    scale = torch.tensor([1.0, 100.0]).view(1, 2, 1, 1)
    scaled = hint.noise_step(MAPS, scale, config, 0.1)
    assert torch.equal(scaled.abs().amax((1, 2, 3)), torch.full((6,), BETA))
    assert (scaled[:, 1].abs().amax((1, 2)) == BETA).all()


def test_a_literal_step_is_the_papers():
    assert torch.equal(hint.noise_step(MAPS, ONES, Config(), 0.1), -0.1 * MAPS)


@pytest.mark.parametrize("step", ["sign", "linf"])
def test_steps_of_other_sizes_stay_in_their_bounds(trained, step):
    config = Config(step=step, ratio=0.5, beta=0.1, schedule=(1, 2))
    clean = DATA.images.double() / 255
    train_set, defense, notes = start(config, trained)
    inside = ((clean >= 0.1) & (clean <= 0.9))[defense.memory["selected"]]
    noise = (pixels(train_set) - clean)[defense.memory["selected"]].abs()
    if step == "sign":
        torch.testing.assert_close(noise[inside], torch.full_like(noise[inside], 0.1))
    assert notes[0]["max_abs_noise"] == pytest.approx(0.1)
    assert notes[0]["mean_abs_noise"] == pytest.approx(float(noise.mean()))
    later, _ = train(data=DATA, recipe=recipe(epochs=2))
    again, _, _ = start(config, later, defense=defense, train=train_set, epoch=2)
    for images in (pixels(train_set), pixels(again)):
        assert (images - clean).abs().max() <= 0.1 + 1e-7
        assert images.min() >= 0
        assert images.max() <= 1


def noise_of(config, model):
    """What one round adds to the selected images, (S, C, H, W) float64, and to which."""
    train_set, defense, _ = start(config, model)
    rows = defense.memory["selected"]
    return (pixels(train_set) - DATA.images.double() / 255)[rows], rows


def inner(noise, *others):
    """Pixels that no clip at 0 or 1 has touched in any of them."""
    return torch.stack([(n != 0) for n in (noise, *others)]).all(0)


def test_opposite_noise_is_the_noise_with_its_sign_turned(trained):
    healthy, rows = noise_of(Config(ratio=0.5, beta=1.0), trained)
    opposite, same = noise_of(Config(ratio=0.5, beta=1.0, noise="opposite"), trained)
    assert torch.equal(rows, same)
    free = inner(healthy, opposite)
    assert free.double().mean() > 0.5
    torch.testing.assert_close(opposite[free], -healthy[free], atol=1e-6, rtol=0)


def test_wrong_label_noise_is_of_other_classes_on_the_same_images(trained):
    healthy, rows = noise_of(Config(ratio=0.5), trained)
    wrong, same = noise_of(Config(ratio=0.5, noise="wrong-label"), trained)
    assert torch.equal(rows, same)
    assert not torch.equal(healthy, wrong)
    labels = other_labels(torch.arange(3).repeat(2000), 3, torch.Generator().manual_seed(0))
    counts = torch.stack([(labels[c::3]).bincount(minlength=3) for c in range(3)])
    assert counts.diagonal().tolist() == [0, 0, 0]
    assert counts[counts > 0].min() > 900


def test_gaussian_noise_has_each_images_own_norm(trained):
    step = torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.01
    step[3] = 0
    noise = hint.white_noise_like(step, torch.Generator().manual_seed(2))
    torch.testing.assert_close(noise.flatten(1).norm(dim=1), step.flatten(1).norm(dim=1))
    cosine = F.cosine_similarity(noise.flatten(1)[:3], step.flatten(1)[:3])
    assert cosine.abs().max() < 0.6
    _, rows = noise_of(Config(ratio=0.5), trained)
    gaussian, same = noise_of(Config(ratio=0.5, noise="gaussian"), trained)
    again, _ = noise_of(Config(ratio=0.5, noise="gaussian"), trained)
    assert torch.equal(rows, same)
    assert torch.equal(gaussian, again)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("select_by", "loss"),
        ("select_by", "random"),
        ("step", "sign"),
        ("step", "linf"),
        ("noise", "gaussian"),
    ],
)
def test_an_extension_is_an_override_and_its_default_is_in_no_spec(name, text):
    settings = hint_settings(("mnist",), "paper", **{name: text})
    assert settings.overrides == {name: text}
    assert as_json(settings.config)[name] == text
    assert set(as_json(Config())) == set(SHARED | PAPER | CODE) | {"schedule", "lissa_scale"}


# Settings


def hint_settings(presets, profile, **values):
    entry = next(entry for entry in DEFENSES if entry.name == "hint")
    dataset = dataclasses.replace(fake_dataset(), presets=presets)
    return read_settings(entry, dataset, profile, values)


CODE = {
    "solver": "lissa",
    "hessian_set": "selected",
    "gamma_decay_epoch": 40,
    "pixel_space": "normalised",
    "storage": "uint8",
    "lissa_steps": 980,
    "lissa_batch": 50,
    "lissa_repeats": 1,
}
PAPER = {
    "solver": "cg",
    "hessian_set": "all",
    "gamma_decay_epoch": None,
    "pixel_space": "raw",
    "storage": "float",
}
SHARED = {"ratio": 0.5, "gamma": 0.1, "beta": 16 / 255, "damping": 0.5}


@pytest.mark.parametrize(
    ("profile", "presets", "config", "training"),
    [
        ("paper", ("cifar10",), PAPER | {"schedule": (5, 15, 40)}, {"epochs": 80}),
        ("paper", ("mnist",), PAPER | {"schedule": (5, 15)}, {"epochs": 30, "momentum": 0.0}),
        ("code", ("cifar10",), CODE | {"schedule": (5, 15, 40)}, {"epochs": 80, "momentum": 0.9}),
        ("code", ("mnist",), CODE | {"schedule": (9,)}, {"epochs": 10, "learning_rate": 0.01}),
        ("paper", ("mnist", "mnist-sample"), PAPER | {"schedule": (2, 5)}, {"epochs": 7}),
        ("code", ("mnist", "mnist-sample"), CODE | {"schedule": (9,)}, {"epochs": 10}),
    ],
)
def test_profiles_give_the_papers_and_the_codes_settings(profile, presets, config, training):
    settings = hint_settings(presets, profile)
    for name, value in (SHARED | config).items():
        assert getattr(settings.config, name) == value, name
    for name, value in training.items():
        assert getattr(settings.recipe, name) == value, name
    assert (settings.profile, settings.overrides) == (profile, {})
    # LiSSA's constants amount to the damping: damp 0.01 x scale 50.
    assert settings.config.lissa_scale * 0.01 == settings.config.damping
    assert isinstance(build(settings.config, settings.recipe), Hint)


def test_changed_settings_are_overrides():
    settings = hint_settings(("mnist",), "paper", ratio=0.25, epochs=20)
    assert (settings.config.ratio, settings.recipe.epochs) == (0.25, 20)
    assert settings.overrides == {"ratio": 0.25, "epochs": 20}
    same = hint_settings(("mnist",), "paper", ratio=0.5, schedule=(5, 15))
    assert same.overrides == {}


def test_an_option_of_neither_lists_the_methods_own():
    with pytest.raises(UsageError, match=r"hint has no option --gama.*--gamma.*did you mean"):
        hint_settings(("mnist",), "paper", gama=0.1)


def test_a_schedule_after_the_last_epoch_is_refused():
    with pytest.raises(ValueError, match="schedule: expected an update before epoch 5"):
        build(Config(schedule=(5, 15)), recipe(epochs=5))
    assert isinstance(build(Config(schedule=(4, 15)), recipe(epochs=5)), Hint)


@pytest.mark.parametrize(
    "changes",
    [
        {"ratio": 0.0},
        {"ratio": 1.01},
        {"ratio": math.nan},
        {"gamma": 0.0},
        {"beta": -0.1},
        {"beta": 1.5},
        {"damping": 0.0},
        {"schedule": ()},
        {"schedule": (0, 5)},
        {"lissa_scale": 0.0},
        {"lissa_steps": 0},
        {"lissa_batch": -1},
        {"lissa_repeats": 0},
    ],
)
def test_values_out_of_range_are_named(changes):
    (name,) = changes
    with pytest.raises(ValueError, match=f"{name}: expected"):
        Config(**changes)


def test_one_channel_and_an_untrained_network_work():
    """Shapes other than the fixture's, through the whole loop."""
    defense = Hint(Config(schedule=(1,), ratio=0.3))
    _, result = train(defense, recipe=recipe(epochs=2, augment="crop-flip"), shape=(1, 9, 7))
    assert len(defense.memory["selected"]) == math.ceil(0.3 * 22)
    assert [row["epoch"] for row in result.notes] == [1]


@pytest.mark.parametrize("presets", [("mnist",), ("mnist", "mnist-sample"), ("cifar10",)])
def test_plain_training_has_the_recipe_of_the_reference_code_too(presets):
    """For a column beside HINT's profile of that name."""
    recipes = [
        resolve(
            Recipe,
            recipe_profiles(module.RECIPE_CHANGES),
            profile="code",
            presets=presets,
            overrides={},
            owner="x",
        )
        for module in (hint, none)
    ]
    assert recipes[0] == recipes[1]
