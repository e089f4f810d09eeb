"""A request is its words, and its JSON; values that no request may have."""

import json
import shlex
import types
from pathlib import Path
from typing import Literal, Union, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from poisonbench.cli.request_words import from_words
from poisonbench.core.errors import UsageError
from poisonbench.core.settings import number_text, options_of, parse_value, typed
from poisonbench.registry import MIX, attacks, defenses, networks
from poisonbench.requests import (
    TARGETING,
    CraftRequest,
    PoisonRequest,
    RunRequest,
    command_of,
    from_json,
    poison_request,
    read_mix,
    split_values,
    to_json,
    to_words,
)
from poisonbench.targeting import Targeting
from poisonbench.training.recipe import Recipe

UNTARGETED = [
    name for name, entry in attacks().items() if not (entry.scenario or entry.has_trigger)
]
TARGETED = [name for name, entry in attacks().items() if entry.scenario]

NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-255, 255).map(lambda level: level / 255),
    st.decimals(-10, 10, places=3).map(float),
)
COUNTS = st.integers(0, 2**40)
DATASETS = st.sampled_from(["mnist-sample", "cifar10@5000", "npz:/my data/a.npz", "folder:it's"])
NETWORKS = st.sampled_from([None, *networks()])
PROFILES = st.sampled_from(["paper", "code", "watermark"])


def values_of(kind):
    """Values of the type that an option declares."""
    origin = get_origin(kind)
    if origin is Literal:
        return st.sampled_from(get_args(kind))
    if origin in (Union, types.UnionType):
        inner = next(k for k in get_args(kind) if k is not type(None))
        return st.none() | values_of(inner)
    if origin is tuple:
        return st.lists(values_of(get_args(kind)[0]), max_size=3).map(tuple)
    plain = {bool: st.booleans(), int: st.integers(1 - 2**31, 2**31 - 1), float: NUMBERS}
    return plain[kind]


def some_of(options):
    """Settings of some of these options."""
    return st.fixed_dictionaries({}, optional={o.name: values_of(o.kind) for o in options})


def settings_of(entry):
    recipe = options_of(Recipe) if entry.trains else []
    # A method's own options go before the recipe's of the same name.
    return some_of([*recipe, *options_of(entry.load().Config)])


@st.composite
def poisons(draw, to_craft):
    kinds = [] if to_craft else ["clean", "path"]
    kind = draw(st.sampled_from(["mix", "untargeted", "targeted", *kinds]))
    names = {
        "mix": st.just(MIX),
        "untargeted": st.lists(st.sampled_from(UNTARGETED), min_size=1, unique=True).map(tuple),
        "targeted": st.sampled_from(TARGETED).map(lambda name: (name,)),
    }.get(kind, st.just(()))
    chosen = draw(names)
    own = {name: draw(settings_of(attacks()[name])) for name in chosen}
    has_targeting = kind == "targeted" or not to_craft
    targeting = some_of([o for o in options_of(Targeting) if o.name in TARGETING])
    lowest = {"min_value": 0.0, "exclude_min": to_craft}
    return PoisonRequest(
        attacks=chosen,
        path=Path("/my results/poisons/1") if kind == "path" else None,
        rho=draw(st.none() | st.floats(max_value=1.0, **lowest)) if chosen else None,
        selection=draw(st.sampled_from(["stratified", "uniform"])) if chosen else "stratified",
        trial=draw(COUNTS) if chosen else 0,
        profile=draw(PROFILES),
        surrogate=draw(NETWORKS),
        targeting=draw(targeting) if has_targeting else {},
        settings={name: values for name, values in own.items() if values},
    )


CRAFTS = st.builds(CraftRequest, dataset=DATASETS, poison=poisons(True), seed=COUNTS)


@st.composite
def runs(draw):
    method = draw(st.sampled_from(sorted(defenses())))
    return RunRequest(
        method=method,
        dataset=draw(DATASETS),
        poison=draw(poisons(False)),
        profile=draw(PROFILES),
        settings=draw(settings_of(defenses()[method])),
        model=draw(NETWORKS),
        seed=draw(COUNTS),
        trial=draw(COUNTS),
        save_model=draw(st.booleans()),
    )


@given(request=CRAFTS | runs())
@examples(deadline=None)
def test_a_request_is_what_its_words_and_its_json_say(request):
    """To the last bit: what is printed as 8/255 or in full is read as the same float."""
    words = to_words(request)
    assert from_words(words) == [request]
    assert from_words(shlex.split(command_of(request))[1:]) == [request]
    plain = json.loads(json.dumps(to_json(request)))
    assert from_json(words[0], plain) == request


@given(number=NUMBERS)
def test_a_number_is_its_text(number):
    assert parse_value(number_text(number), float, "--x") == number


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (8 / 255, "8/255"),
        (0.2, "0.2"),
        (0.0, "0"),
        (1.0, "1"),
        (1e-4, "0.0001"),
        (-1 / 255, "-1/255"),
    ],
)
def test_a_number_is_written_as_people_do(number, text):
    assert number_text(number) == text


def test_the_words_leave_out_what_is_the_default():
    assert command_of(RunRequest(method="hint", dataset="mnist")) == (
        "poisonbench defend --method hint --dataset mnist --trial 0"
    )
    poison = PoisonRequest(attacks=("pgd",), settings={"pgd": {"epsilon": 8 / 255}})
    assert command_of(CraftRequest(dataset="mnist", poison=poison)) == (
        "poisonbench craft --attack pgd --dataset mnist --epsilon 8/255 --trial 0"
    )
    assert "--pgd.epsilon 8/255" in command_of(RunRequest(method="hint", poison=poison))


def test_a_share_is_written_as_a_decimal():
    words = to_words(
        CraftRequest(dataset="mnist", poison=PoisonRequest(attacks=("gm",), rho=1 / 3))
    )
    assert words[words.index("--rho") + 1] == "0.3333333333333333"
    (asked,) = from_words(words)
    assert asked.poison.rho == 1 / 3


@pytest.mark.parametrize(
    ("name", "attacks", "words"),
    [
        ("mix", MIX, []),
        ("mix-sign", MIX, ["--durp.distribution", "sign"]),
        ("Mix-Gaussian", MIX, ["--durp.distribution", "gaussian"]),
        ("mix-no-durp", ("pgd", "dap", "dc"), []),
    ],
)
def test_a_mix_is_its_attacks_by_its_settings(name, attacks, words):
    for line in (f"defend --method none --attack {name}", f"craft --attack {name}"):
        (asked,) = from_words(line.split())
        assert asked.poison.attacks == attacks
        assert from_words([*line.replace(name, "+".join(attacks)).split(), *words]) == [asked]


def test_what_is_given_goes_before_what_a_mix_says():
    (asked,) = from_words("craft --attack mix-sign --durp.distribution uniform".split())
    assert asked.poison.settings == {"durp": {"distribution": "uniform"}}


@pytest.mark.parametrize("name", ["noise", "em.noise"])
def test_a_setting_that_contradicts_a_form_is_refused_by_either_of_its_names(name):
    with pytest.raises(UsageError, match=f"expected --{name} class with em:class, got sample"):
        poison_request(read_mix("em:class"), {name: "sample"}, to_craft=True)


def test_trials_are_requests_of_their_own():
    asked = from_words("defend --method none --clean --trial 3 --trials 2".split())
    assert [request.trial for request in asked] == [3, 4]
    asked = from_words("craft --attack gm --trials 2 --preset quick --quiet --json".split())
    assert [request.poison.trial for request in asked] == [0, 1]
    assert {request.dataset for request in asked} == {"mnist-sample@1000"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RunRequest(method="none", trial=-1), "--trial: expected 0 or more, got -1"),
        (lambda: CraftRequest(seed=-1), "--seed: expected 0 or more, got -1"),
        (lambda: PoisonRequest(trial=-2), "--trial: expected 0 or more, got -2"),
        (lambda: PoisonRequest(attacks=(), rho=0.5), "got it with --clean"),
        (lambda: PoisonRequest(attacks=(), path=Path("x"), rho=0.5), "got it with --poison"),
        (lambda: PoisonRequest(attacks=(), selection="uniform"), "--selection with --attack"),
        (lambda: PoisonRequest(attacks=(), trial=2), "--poison-trial with --attack"),
        (lambda: RunRequest(method="none", poison=PoisonRequest(rho=60)), "did you mean 0.6?"),
        (lambda: CraftRequest(poison=PoisonRequest(rho=0)), r"in \(0, 1\], got 0"),
        (lambda: read_mix("gm+pgd"), "a targeted attack goes alone"),
        (lambda: read_mix("pgd, dap"), "did you mean 'pgd\\+dap'"),
        (lambda: split_values({"steps": 3}, PoisonRequest(), to_craft=True), "--dc.steps, got"),
        (lambda: split_values({"gm.steps": 3}, PoisonRequest()), "--dc.steps, got --gm.steps"),
        (lambda: split_values({"gm.steps": 3}, PoisonRequest(attacks=())), "with an attack"),
    ],
)
def test_what_no_request_may_be(make, message):
    with pytest.raises(UsageError, match=message):
        make()


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (1, float, 1.0),
        ([1, 2], tuple[int, ...], (1, 2)),
        (None, int | None, None),
        (3, int | None, 3),
        (True, bool, True),
        ("flip", Literal["flip", "none"], "flip"),
    ],
)
def test_values_of_python_code(value, kind, expected):
    assert typed(value, kind, "--x") == expected
    assert type(typed(value, kind, "--x")) is type(expected)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (2.5, int),
        (True, int),
        (True, float),
        (1, bool),
        (float("inf"), float),
        (None, float),
        (3, tuple[int, ...]),
        ([2.5], tuple[int, ...]),
        (3, Literal["flip", "none"]),
        (3, str),
        ("8/255", float),
        ("3", int),
        ("true", bool),
        ("1,2", tuple[int, ...]),
    ],
)
def test_values_of_python_code_that_do_not_fit(value, kind):
    with pytest.raises(UsageError, match="--x: expected "):
        typed(value, kind, "--x")
