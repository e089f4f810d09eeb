"""Adaptive poisons from the command line to their card, on the tiny data set."""

import json
from pathlib import Path

import pytest

from helpers.command_line import done, refused
from poisonbench.data.artefacts import read_poison
from poisonbench.results.records import read_record

SHORT = ("--epochs", "6", "--batch-size", "64")
#: Of tiny data, whose presets are MNIST's.
SCHEDULE = [5, 15]


def crafted(results, tiny, *words):
    line = ("craft", "--dataset", tiny, "--results", results, "--json", *words)
    return read_poison(Path(done(*line).json["path"]))


@pytest.mark.parametrize(
    "name", ["jpeg", "jpeg:10", "friends", "ueraser", "ueraser:lite-jpeg", "epic", "hint"]
)
def test_a_card_says_against_what_it_was_made(name, tiny, results):
    words = ("--attack", "pgd", "--steps", "2", *SHORT)
    plain = crafted(results, tiny, *words)
    assert plain.card.spec.against is None
    assert "against" not in json.loads((plain.path / "card.json").read_text())["spec"]
    poison = crafted(results, tiny, *words, "--against", name)
    spec = poison.card.spec
    method = name.partition(":")[0]
    assert spec.against.method == method
    assert spec.config["against"] == name
    assumed = {"jpeg": ("quality", 75), "jpeg:10": ("quality", 10)}
    assumed |= {
        "ueraser": ("probability", 0.5),
        "ueraser:lite-jpeg": ("form", "lite-jpeg"),
        "friends": ("mu", 16 / 255),
        "epic": ("fraction", 0.1),
    }
    key, value = assumed.get(name, ("schedule", SCHEDULE))
    assert spec.against.config[key] == value
    assert poison.digest != plain.digest
    shown = done("inspect", poison.path, "--dataset", tiny, "--json").json
    assert shown["made_by"]["against"]["method"] == method
    # Of HINT it is the surrogate that differs.
    assert len(list((results / "models").iterdir())) == 1 + (name == "hint")
    assert (spec.surrogate.defense is not None) is (name == "hint")


def test_a_run_names_the_adaptive_poison(tiny, results):
    words = ("--dataset", tiny, "--results", results, "--attack", "em", "--method", "jpeg")
    quick = ("--em.rounds", "1", "--em.steps", "1", "--em.batches", "1", "--epochs", "1")
    path = Path(done("defend", *words, *quick, "--em.against", "hint", "--json").json["path"])
    record = read_record(path)
    assert record.labels.overrides["em.against"] == "hint"
    assert record.labels.poison.pools["em"].spec.against.method == "hint"


def test_gradient_matching_with_surrogates_under_hint(tiny, results):
    """Snapshots of a training under a defense, at epochs before its end too."""
    words = ("--attack", "gm", "--steps", "20", "--restarts", "1", "--surrogates", "2", *SHORT)
    words += ("--stagger", "full", "--rho", "0.02")
    plain = crafted(results, tiny, *words)
    poison = crafted(results, tiny, *words, "--against", "hint")
    assert poison.card.spec.surrogate.defense.config["schedule"] == SCHEDULE
    assert poison.digest != plain.digest
    assert len(list((results / "models").iterdir())) == 4


def test_gradient_matching_starts_from_images_that_augmentations_take(tiny, results):
    """Of many draws one equalizes, which refuses other values; plain poisons keep their number."""
    words = ("--attack", "gm", "--steps", "1", "--restarts", "6", "--surrogates", "2", *SHORT)
    words += ("--rho", "0.02", "--brew-augment", "none")
    plain = crafted(results, tiny, *words)
    poison = crafted(results, tiny, *words, "--against", "ueraser")
    assert (plain.card.spec.version, poison.card.spec.version) == (1, 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("pgd", "--against", "grayscale"), "grayscale: expected colour images, got images of 1"),
        (("em", "--against", "epic"), "em: against: expected another defense than epic"),
        (("pgd", "--against", "atda"), "--against: expected one of none, jpeg, jpeg:10, gray"),
        (("dap", "--against", "jpeg"), "dap has no option --against"),
        (
            ("pgd", "--against", "hint", "--epochs", "3"),
            "--against hint: schedule: expected an update before epoch 3",
        ),
    ],
)
def test_what_means_nothing_is_refused_with_the_reason(words, message, tiny, results):
    line = ("craft", "--dataset", tiny, "--attack", *words)
    assert message in refused(2, results, *line)


def test_the_list_says_which_attacks_can_be_adaptive():
    listed = done("list", "attacks", "--json").json
    adaptive = {name for name, text in listed.items() if "adaptive against jpeg" in text}
    assert adaptive == {"pgd", "em", "tap", "gm"}
    assert "--against" in done("list", "attacks", "gm").out
