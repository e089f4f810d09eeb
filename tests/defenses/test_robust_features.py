"""Robust features: pretraining under a defense."""

from pathlib import Path

import pytest
import torch

from helpers.command_line import cli, done
from helpers.tiny_training import network, split, state_of
from poisonbench.defenses import robust_features
from poisonbench.registry import defenses
from poisonbench.results.records import read_record
from poisonbench.training.projected_gradient import example_losses
from poisonbench.training.recipe import Recipe


def test_pretraining_fits_adversarial_examples_within_the_bound():
    config = robust_features.Config(epsilon=0.1, steps=8)
    defense = robust_features.build(config, Recipe(precision="float32")).pretraining()
    model, data = network().train(), split(12)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    images = data.images.float() / 255
    perturbed = defense.perturb_batch(state_of(model, data, split(4, 1)), images, data.labels)
    assert (perturbed - images).abs().max() <= 0.1 + 1e-6
    assert perturbed.min() >= 0
    assert perturbed.max() <= 1
    again = defense.perturb_batch(state_of(model, data, split(4, 1)), images, data.labels)
    assert torch.equal(perturbed, again)
    start, end = (example_losses(model, x, data.labels) for x in (images, perturbed))
    assert (end > start).all()
    assert model.training
    assert all(map(torch.equal, before.values(), model.state_dict().values()))


@pytest.mark.parametrize("entry", defenses().values(), ids=lambda entry: entry.name)
def test_an_entry_says_whether_its_defense_pretrains(entry):
    module = entry.load()
    defense = module.build(module.Config(), Recipe())
    assert entry.pretrains is (defense.pretraining() is not None)


def test_the_second_stage_is_plain():
    defense = robust_features.build(robust_features.Config(), Recipe())
    images = torch.rand(4, 1, 8, 8)
    assert defense.perturb_batch(None, images, None) is images


@pytest.mark.parametrize("change", [{"epsilon": 0.0}, {"steps": 0}, {"step_ratio": 3.0}])
def test_settings_out_of_range_name_the_setting(change):
    (name,) = change
    with pytest.raises(ValueError, match=f"{name}: expected"):
        robust_features.Config(**change)


#: One surrogate and few steps; the attack is not what is tested.
TARGETED = ("--attack", "noise", "--scenario", "transfer", "--transfer-share", "0.2")
BRIEF = ("--rho", "0.02", "--epochs", "2", "--batch-size", "64", "--json")


def run(method, tiny, results, *words):
    line = ("defend", "--method", method, "--dataset", tiny, "--results", results)
    return read_record(Path(done(*line, *words).json["path"]))


def test_the_extractor_is_robust_and_is_kept(tiny, results):
    plain = run("none", tiny, results, *TARGETED, *BRIEF)
    assert len(list((results / "models").iterdir())) == 1
    robust = run("robust-features", tiny, results, *TARGETED, *BRIEF, "--steps", "2")
    assert len(list((results / "models").iterdir())) == 2
    assert robust.digests.first_batch == plain.digests.first_batch
    assert robust.digests.initial_weights != plain.digests.initial_weights
    assert robust.spec.poison.digest == plain.spec.poison.digest
    run("robust-features", tiny, results, *TARGETED, *BRIEF, "--steps", "1")
    assert len(list((results / "models").iterdir())) == 3


@pytest.mark.parametrize(
    "words", [("--clean",), ("--attack", "noise"), ("--attack", "gm", "--scenario", "scratch")]
)
def test_from_scratch_there_is_nothing_to_pretrain(tiny, results, words):
    outcome = cli(
        "defend", "--method", "robust-features", "--dataset", tiny, "--results", results, *words
    )
    assert outcome.code == 2
    assert "--scenario transfer or finetune" in outcome.err
    assert not results.exists()
