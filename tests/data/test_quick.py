"""Settings for a CPU on any images."""

import pytest

from helpers.data_files import NOWHERE, arrays, write_folder, write_npz
from poisonbench.data.quick import lengths, longest, networks_for
from poisonbench.data.sources import load_dataset
from poisonbench.registry import attacks, defenses
from poisonbench.runs.method_settings import read_settings
from poisonbench.targeting import own_targeting


def test_fewer_images_have_more_epochs():
    assert [longest(n) for n in (1, 160, 10_000, 60_000, 10**9)] == [96, 51, 18, 12, 12]
    assert lengths(10_000) == (4, 9, 18)
    # Rounds of defenses need some.
    assert min(lengths(10**9)) >= 3


@pytest.fixture(scope="module")
def colour(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("quick") / "data", train=20, size=(24, 24))


def test_the_images_are_the_same_and_the_settings_are_small(colour):
    usual = load_dataset(colour, NOWHERE, 0)
    quick = load_dataset(colour.replace(":", "@quick:", 1), NOWHERE, 0)
    named = load_dataset(colour.replace(":", "@quick-mnist-cnn-7:", 1), NOWHERE, 0)
    assert usual.digest == quick.digest == named.digest
    assert quick.network == networks_for(3)[-1] == "cifar-small"
    assert named.network == "mnist-cnn"
    recipes = [read_settings(defenses()["none"], d, "paper", {}).recipe for d in (quick, named)]
    assert [recipe.epochs for recipe in recipes] == [longest(36), 7]
    # cifar-small has a rate of its own, others that of the preset.
    assert [recipe.learning_rate for recipe in recipes] == [0.2, 0.1]
    for recipe in recipes:
        assert (recipe.batch_size, recipe.milestones, recipe.augment) == (32, (), "crop-flip")
        assert recipe.rate_schedule == "one-cycle"
    # Attack steps are those of the colour preset, HINT's rounds the paper's share of the epochs.
    assert read_settings(attacks()["pgd"], quick, "paper", {}).config.steps == 10
    assert read_settings(defenses()["hint"], named, "paper", {}).config.schedule == (1, 4)
    assert own_targeting(quick.presets, "scratch").rho == 0.05


def test_what_a_user_sets_is_apart_from_the_preset(colour):
    quick = load_dataset(colour.replace(":", "@quick:", 1), NOWHERE, 0)
    settings = read_settings(defenses()["none"], quick, "paper", {"epochs": 5})
    assert settings.recipe.epochs == 5
    assert settings.overrides == {"epochs": 5}
    assert read_settings(defenses()["none"], quick, "paper", {}).overrides == {}


def test_grey_images_have_the_sample_s_settings(tmp_path):
    name = write_npz(tmp_path / "a.npz", **arrays(shape=(16, 16)))
    quick = load_dataset(name.replace(":", "@quick:", 1), NOWHERE, 0)
    assert quick.network == "mnist-cnn"
    assert quick.presets == ("mnist", "mnist-sample", "quick")
    recipe = read_settings(defenses()["none"], quick, "paper", {}).recipe
    assert (recipe.augment, recipe.momentum, recipe.milestones) == ("none", 0.9, ())
