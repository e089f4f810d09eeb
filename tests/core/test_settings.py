"""Settings: texts to values, profiles to configs, and what a mistake is answered with."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.attack_tasks import fake_dataset
from poisonbench import registry
from poisonbench.core.canonical import canonical_json
from poisonbench.core.errors import UsageError
from poisonbench.core.settings import (
    BaseConfig,
    Bounds,
    as_json,
    did_you_mean,
    options_of,
    parse_value,
    resolve,
    setting,
    unknown_option,
)
from poisonbench.defenses import hint
from poisonbench.entries import profiles_of
from poisonbench.runs.method_settings import read_settings
from poisonbench.training.recipe import Recipe, recipe_profiles

#: Examples are the same in every run, and a busy machine is no failure.
calm = settings(deadline=None, derandomize=True)


@dataclass(frozen=True, kw_only=True)
class Config(BaseConfig):
    epsilon: float = setting(8 / 255, "The budget.")
    steps: int = setting(10, "Steps.", low=1)
    schedule: tuple[int, ...] = setting((5, 15), "Epochs.", low=1)
    weights: tuple[float, ...] = setting((), "Weights.")
    kind: Literal["near", "far"] = setting("near", "Which.")
    from_epoch: int | None = setting(None, "From then on.", low=0)
    sign: bool = setting(False, "Sign.")
    name: str = setting("x", "A name.")


KINDS = {option.name: option.kind for option in options_of(Config)}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("epsilon", "0.5", 0.5),
        ("epsilon", "8/255", 8 / 255),
        ("epsilon", "-1/3", -1 / 3),
        ("epsilon", "1e-3", 1e-3),
        ("epsilon", "2", 2.0),
        ("steps", "250", 250),
        ("steps", "-3", -3),
        ("schedule", "5,15,40", (5, 15, 40)),
        ("schedule", " 5 , 15,", (5, 15)),
        ("schedule", "9", (9,)),
        ("schedule", "", ()),
        ("schedule", "none", ()),
        ("weights", "8/255, 0.1", (8 / 255, 0.1)),
        ("kind", "far", "far"),
        ("from_epoch", "40", 40),
        ("from_epoch", "none", None),
        ("from_epoch", "None", None),
        ("from_epoch", "", None),
        ("sign", "true", True),
        ("sign", "YES", True),
        ("sign", "1", True),
        ("sign", "false", False),
        ("sign", "no", False),
        ("sign", "0", False),
        ("name", "8/255", "8/255"),
    ],
)
def test_texts_become_the_declared_type(name, text, value):
    parsed = parse_value(text, KINDS[name], "--x")
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("epsilon", "half", "--x: expected a number such as 0.5 or 8/255, got 'half'"),
        ("epsilon", "", "--x: expected a number"),
        ("epsilon", "8/0", "--x: expected a number"),
        ("epsilon", "8/255/2", "--x: expected a number"),
        ("epsilon", "nan", "--x: expected a number"),
        ("epsilon", "inf", "--x: expected a number"),
        ("epsilon", "-Infinity", "--x: expected a number"),
        ("epsilon", "1e400", "--x: expected a number"),
        ("epsilon", f"1{'0' * 400}/3", "--x: expected a number"),
        ("steps", "2.5", "--x: expected a whole number, got '2.5'"),
        ("steps", "1e3", "--x: expected a whole number"),
        ("schedule", "5;15", "--x: expected a whole number, got '5;15'"),
        ("weights", "0.1,inf", "--x: expected a number"),
        ("kind", "fur", "--x: expected one of near, far, got 'fur'; did you mean 'far'?"),
        ("kind", "FAR", "--x: expected one of near, far, got 'FAR'"),
        ("from_epoch", "soon", "--x: expected a whole number, got 'soon'"),
        ("sign", "maybe", "--x: expected true or false, got 'maybe'"),
    ],
)
def test_texts_that_do_not_fit_name_the_option_and_the_text(name, text, message):
    with pytest.raises(UsageError) as caught:
        parse_value(text, KINDS[name], "--x")
    assert message in str(caught.value)


@calm
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_float_survives_its_text(value):
    assert parse_value(str(value), float, "--x") == value


@calm
@given(st.integers(-(10**6), 10**6), st.integers(1, 10**6))
def test_fractions_are_the_nearest_floats(above, below):
    assert parse_value(f"{above}/{below}", float, "--x") == float(Fraction(above, below))


@calm
@given(st.lists(st.integers(-(10**9), 10**9)))
def test_lists_survive_their_text(values):
    assert parse_value(",".join(map(str, values)), tuple[int, ...], "--x") == tuple(values)


@calm
@given(st.text())
def test_any_text_is_a_number_or_a_usage_error(text):
    try:
        value = parse_value(text, float, "--x")
    except UsageError:
        return
    assert canonical_json(value)


def test_options_are_the_fields():
    options = {option.name: option for option in options_of(Config)}
    assert list(options) == [*KINDS]
    assert options["from_epoch"].flag == "--from-epoch"
    assert options["epsilon"].help == "The budget."
    assert options["steps"].help == "Steps. At least 1."
    assert options["epsilon"].default == 8 / 255
    assert options["kind"].choices == ("near", "far")
    assert options["epsilon"].choices == ()


# Bounds


@pytest.mark.parametrize(
    ("bounds", "text", "inside", "outside"),
    [
        (Bounds(), "", (-math.inf, 0, math.nan), ()),
        (Bounds(low=1), "at least 1", (1, 2, math.inf), (0, 0.999, math.nan, "2")),
        (Bounds(low=0), "0 or more", (0, 1), (-1e-9, math.nan)),
        (Bounds(over=0), "over 0", (1e-9, 1), (0, -1, math.nan)),
        (Bounds(low=0, high=1), "in [0, 1]", (0, 0.5, 1), (-1e-9, 1.01, math.nan)),
        (Bounds(over=0, high=1e30), "in (0, 1e30]", (1e-9, 1e30), (0, 1e31, math.inf)),
        (Bounds(low=-1, under=1), "in [-1, 1)", (-1, 0.999), (1, -1.1)),
        (Bounds(over=0, under=0.5), "in (0, 0.5)", (0.1,), (0, 0.5)),
        (Bounds(high=5), "in (-inf, 5]", (-7, 5), (5.1, math.nan)),
    ],
)
def test_bounds_say_what_they_hold(bounds, text, inside, outside):
    assert str(bounds) == text
    assert all(value in bounds for value in inside)
    assert not any(value in bounds for value in outside)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"steps": math.nan}, "steps: expected at least 1, got nan"),
        ({"schedule": (5, 0)}, r"schedule: expected at least 1, got \(5, 0\)"),
        ({"from_epoch": -1}, "from_epoch: expected 0 or more, got -1"),
    ],
)
def test_a_setting_out_of_its_bounds_is_named(values, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Config(**values)
    Config(schedule=(), from_epoch=None)


# Profiles

PROFILES = {
    "paper": {"mnist": {"steps": 20, "epsilon": 0.3}, "mnist-sample": {"steps": 5}},
    "code": {"*": {"kind": "far", "steps": 7}, "mnist": {"steps": 8}},
}
SAMPLE = ("mnist", "mnist-sample")


def resolved(profile="paper", presets=(), profiles=PROFILES, **overrides):
    return resolve(
        Config, profiles, profile=profile, presets=presets, overrides=overrides, owner="method"
    )


@pytest.mark.parametrize(
    ("profile", "presets", "overrides", "expected"),
    [
        ("paper", (), {}, {"steps": 10, "epsilon": 8 / 255}),
        ("paper", ("cifar10",), {}, {"steps": 10}),
        ("paper", ("mnist",), {}, {"steps": 20, "epsilon": 0.3}),
        ("paper", SAMPLE, {}, {"steps": 5, "epsilon": 0.3}),
        ("paper", SAMPLE, {"steps": 1}, {"steps": 1, "epsilon": 0.3}),
        ("code", (), {}, {"steps": 7, "kind": "far", "epsilon": 8 / 255}),
        ("code", SAMPLE, {}, {"steps": 8, "kind": "far", "epsilon": 8 / 255}),
        ("code", SAMPLE, {"kind": "near"}, {"steps": 8, "kind": "near"}),
    ],
)
def test_defaults_then_profile_then_presets_then_the_user(profile, presets, overrides, expected):
    config = resolved(profile, presets, **overrides)
    assert {name: getattr(config, name) for name in expected} == expected


def test_the_order_of_presets_decides_not_the_tables():
    turned = {"paper": dict(reversed(PROFILES["paper"].items()))}
    assert resolved(presets=SAMPLE, profiles=turned).steps == 5
    assert resolved(presets=tuple(reversed(SAMPLE))).steps == 20


def test_a_method_without_profiles_has_the_papers():
    assert resolved(profiles={}) == Config()


@pytest.mark.parametrize(
    ("profile", "overrides", "message"),
    [
        ("cod", {}, "method has no profile 'cod'; it has paper, code; did you mean 'code'?"),
        ("paper", {"stps": 3}, "method has no option --stps; its own options: --epsilon, --steps"),
        ("paper", {"stps": 3}, "did you mean '--steps'?"),
        ("paper", {"steps": 0}, "method: steps: expected at least 1, got 0"),
        ("paper", {"steps": "3"}, "method: "),
    ],
)
def test_bad_settings_name_the_method(profile, overrides, message):
    with pytest.raises(UsageError) as caught:
        resolved(profile, **overrides)
    assert message in str(caught.value)


def test_unknown_options_list_the_methods_own():
    assert unknown_option("a_b", [], "none") == "none has no option --a-b; its own options: none"
    text = unknown_option("rati", ["ratio", "lissa_steps"], "hint")
    assert text == (
        "hint has no option --rati; its own options: --ratio, --lissa-steps; "
        "did you mean '--ratio'?"
    )


def test_did_you_mean_is_silent_when_nothing_is_close():
    assert did_you_mean("zzz", ["hint", "none"]) == ""
    assert did_you_mean("hnt", ["hint", "none"]) == "; did you mean 'hint'?"


def test_configs_as_json_are_json():
    plain = as_json(Config(schedule=(1, 2)))
    assert plain["schedule"] == [1, 2]
    assert plain["epsilon"] == 8 / 255
    assert plain["from_epoch"] is None
    assert canonical_json(plain)


@dataclass(frozen=True, kw_only=True)
class Extended(Config):
    twist: float = setting(0.0, "Twist.", extension=True)


def test_an_extension_is_left_out_of_the_json_at_its_default():
    assert as_json(Extended()) == as_json(Config())
    assert as_json(Extended(twist=0.5)) == as_json(Config()) | {"twist": 0.5}
    assert [option.name for option in options_of(Extended)][-1] == "twist"


# The recipe


@pytest.mark.parametrize(
    ("profile", "presets", "expected"),
    [
        ("paper", ("cifar10",), {"epochs": 80, "learning_rate": 0.1, "momentum": 0.9,
                                 "weight_decay": 5e-4, "milestones": (30, 50, 70),
                                 "augment": "crop-flip", "batch_size": 128}),
        ("paper", ("mnist",), {"epochs": 30, "learning_rate": 0.01, "momentum": 0.0,
                               "weight_decay": 0.0, "milestones": (), "augment": "none"}),
        ("code", ("mnist",), {"epochs": 10, "learning_rate": 0.01, "momentum": 0.0}),
        ("code", ("cifar10",), {"epochs": 80, "milestones": (30, 50, 70)}),
    ],
)  # fmt: skip
def test_recipes_are_the_papers(profile, presets, expected):
    profiles = recipe_profiles(hint.RECIPE_CHANGES)
    recipe = resolve(
        Recipe, profiles, profile=profile, presets=presets, overrides={}, owner="recipe"
    )
    assert {name: getattr(recipe, name) for name in expected} == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 0},
        {"batch_size": 1},
        {"learning_rate": 0.0},
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"weight_decay": -1e-9},
        {"milestones": (0, 3)},
    ],
)
def test_recipes_out_of_range_name_the_setting(changes):
    (name,) = changes
    with pytest.raises(ValueError, match=f"{name}: expected"):
        Recipe(**changes)


@pytest.mark.parametrize("table", [registry.ATTACKS, registry.DEFENSES])
@pytest.mark.parametrize("presets", [("cifar10",), ("mnist",), SAMPLE])
def test_every_method_and_profile_resolves_on_every_preset(table, presets):
    for entry in table:
        for profile in ("paper", *profiles_of(entry.load())):
            chosen = read_settings(entry, dataset_with(presets), profile, {})
            assert chosen.profile == profile
            assert chosen.overrides == {}
            assert chosen.overrides == {}
            assert canonical_json(as_json(chosen.config))


def dataset_with(presets):
    dataset = fake_dataset()
    return type(dataset)(**{**vars(dataset), "presets": presets})


def test_a_method_without_profiles_gets_the_data_sets_recipe(monkeypatch):
    """A plug-in may leave its profiles empty; its classifier is still trained as the paper's."""
    none = registry.find("a defense", registry.defenses(), "none")
    monkeypatch.setattr(none.load(), "PROFILES", {})
    recipe = read_settings(none, dataset_with(("mnist",)), "paper", {}).recipe
    assert (recipe.epochs, recipe.momentum) == (30, 0.0)


def test_settings_of_a_method_win_over_the_recipes():
    """Where both have an option of one name it is the method's."""
    pgd = registry.find("an attack", registry.attacks(), "pgd")
    chosen = read_settings(pgd, dataset_with(("mnist",)), "paper", {"precision": "float32"})
    assert chosen.config.precision == "float32"
    assert chosen.recipe.precision == "auto"
