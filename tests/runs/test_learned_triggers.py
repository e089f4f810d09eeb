"""Triggers that are learned, and attacks that choose their images, from request to record."""

import os
import signal
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.command_line import cli, done, refused
from helpers.triggered import SHORT, crafted, ran
from poisonbench.core.canonical import canonical_json
from poisonbench.core.progress import relay
from poisonbench.data.mixing import draw_share
from poisonbench.data.sources import load_dataset
from poisonbench.results.records import read_record

SIDE = 3

# A learned trigger

LEARNED = ("--attack", "narcissus", "--rounds", "30", "--rho", "0.2")


def test_a_learned_pattern_lies_with_the_poison_and_on_the_test_images(tiny, results):
    data = load_dataset(tiny, Path(), 0)
    poison = crafted(results, tiny, *LEARNED, *SHORT, "--target-class", "2")
    assert poison.pattern.shape == data.image_shape
    assert (poison.labels, poison.trigger.text) == (None, "clean label")
    assert 0 < float(poison.pattern.abs().max()) <= poison.card.epsilon
    clean = data.train.images[poison.indices].float() / 255
    added = ((clean + poison.pattern).clamp(0, 1) * 255).round()
    assert int((added - poison.images).abs().max()) <= 1
    own = ("--narcissus.epochs", "2", "--narcissus.batch-size", "32")
    own = (*own, "--narcissus.rounds", "30", "--narcissus.target-class", "2")
    words = ("--method", "none", "--attack", "narcissus", "--rho", "0.2")
    record = ran(results, tiny, *words, *own)
    assert record.spec.poison_digest == poison.digest
    assert record.spec.trigger == poison.trigger
    assert record.metrics.trigger.count == 60
    again = ran(results, tiny, "--method", "jpeg", "--poison", poison.path)
    assert again.spec.trigger == poison.trigger


def test_a_pattern_that_is_changed_or_gone_is_refused(tiny, results, tmp_path):
    poison = crafted(results, tiny, *LEARNED, *SHORT)
    card = canonical_json(msgspec.to_builtins(poison.card))
    tensors = load_file(poison.path / "poison.safetensors")
    none = {name: tensor for name, tensor in tensors.items() if name != "pattern"}
    changes = {
        "none": (none, "the pattern that narcissus has learned"),
        "half": ({**tensors, "pattern": tensors["pattern"] / 2}, "triggered test images with"),
        "flat": ({**tensors, "pattern": tensors["pattern"][0]}, "expected pattern of shape"),
        "nan": ({**tensors, "pattern": tensors["pattern"] * np.nan}, "of finite values"),
    }
    for name, (changed, message) in changes.items():
        folder = tmp_path / name
        folder.mkdir()
        save_file(changed, folder / "poison.safetensors", metadata={"card": card})
        (folder / "card.json").write_text(card)
        line = ("defend", "--dataset", tiny, "--method", "none", *SHORT, "--poison", folder)
        assert message in refused(65, results, *line)
    out = ("--output", tmp_path / "out.npz")
    line = ("export", poison.id, "--to", "npz", *out)
    outcome = cli(*line, "--results", results)
    assert outcome.code == 2
    assert "which was learned; hand on its folder" in outcome.err


@pytest.mark.parametrize("attack", ["badnets", "narcissus", "sleeper-agent"])
def test_the_control_leaves_every_image_and_has_the_trigger(attack, tiny, results):
    """It trains on clean data, and is judged by the test images of the poison that it is for."""
    data = load_dataset(tiny, Path(), 0)
    own = {"narcissus": ("--rounds", "5"), "sleeper-agent": ("--steps", "2", "--retrainings", "0")}
    words = ("--attack", attack, "--rho", "0.1", "--target-class", "2", *own.get(attack, ()))
    if attack != "badnets":
        words = (*words, *SHORT)
    poison = crafted(results, tiny, *words)
    control = crafted(results, tiny, *words, "--control", "true")
    assert control.trigger.test_digest == poison.trigger.test_digest
    assert control.id != poison.id
    assert (control.labels, control.card.changed_labels) == (None, 0)
    assert torch.equal(control.images, data.train.images[control.indices])
    clean = ran(results, tiny, "--method", "none", "--clean")
    record = ran(results, tiny, "--method", "none", "--poison", control.path)
    assert record.metrics.test_accuracy == clean.metrics.test_accuracy
    assert record.metrics.trigger.count == (20 if attack == "sleeper-agent" else 60)


# A source class, and images that the attack chooses

SLEEPER = ("--attack", "sleeper-agent", "--rho", "0.1", "--patch", "4", "--steps", "6")
SLEEPER = (*SLEEPER, "--retrainings", "2", "--target-class", "2", "--source-class", "3")


def of_sleeper(words):
    """The same settings as an attack's among a run's."""
    own = ("patch", "steps", "retrainings", "target-class", "source-class", "epochs", "batch-size")
    names = {f"--{name}": f"--sleeper-agent.{name}" for name in own}
    return [names.get(word, word) for word in words]


def test_the_share_is_the_attack_s_own_where_none_is_asked_for(tiny, results):
    size, words = len(load_dataset(tiny, Path(), 0).train), SLEEPER[:2] + SLEEPER[4:]
    assert len(crafted(results, tiny, *words, *SHORT)) == int(0.01 * size) == 2
    record = ran(results, tiny, "--method", "none", *of_sleeper((*words, *SHORT)))
    assert record.spec.rho == 0.01
    # Of so few images Narcissus's own share is none.
    message = refused(2, results, "craft", "--dataset", tiny, "--attack", "narcissus", *SHORT)
    assert (
        "expected a poison or more, got 0.0005 of 270 images with narcissus; raise --rho" in message
    )


def test_only_the_source_class_is_judged(tiny, results):
    data = load_dataset(tiny, Path(), 0)
    poison = crafted(results, tiny, *SLEEPER, *SHORT)
    assert bool((data.train.labels[poison.indices] == 2).all())
    assert (poison.labels, poison.trigger.source_class) == (None, 3)
    assert (
        "class 3 test images with the trigger shall be called" in done("inspect", poison.path).out
    )
    # The surrogate; those that were trained on the poisons' first steps are gone.
    assert len(list((results / "models").iterdir())) == 1
    run = ("--method", "none", *of_sleeper((*SLEEPER, *SHORT)))
    outcome = done("defend", "--dataset", tiny, "--results", results, *SHORT, *run)
    assert "of 20 class 3 images with the trigger taken for class 2" in outcome.out + outcome.err
    (record,) = [read_record(path) for path in (results / "runs").iterdir()]
    assert record.spec.poison_digest == poison.digest
    assert record.metrics.trigger.count == int((data.test.labels == 3).sum()) == 20
    drawn = draw_share(data.train.labels, 0.1, 0, only=2)
    assert poison.indices.tolist() == sorted(poison.indices.tolist())
    assert len(poison) == len(drawn)
    assert not torch.equal(poison.indices, drawn)


def test_a_source_class_that_cannot_be_is_refused(tiny, results):
    for source, message in (("4", "a class in 0..3, got 4"), ("2", "another than the target")):
        line = ("craft", "--dataset", tiny, *SLEEPER[:-1], source, *SHORT)
        assert message in refused(2, results, *line)


def test_stopped_in_a_retraining_it_goes_on_to_the_same_poison(tiny, tmp_path):
    whole = crafted(tmp_path / "a", tiny, *SLEEPER, *SHORT)
    starts = []

    def stop(phase, done, total, detail=""):
        starts.append(phase)
        if phase == "surrogate" and "sleeper-agent" in starts and done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    line = ("craft", "--dataset", tiny, "--results", tmp_path / "b", *SLEEPER, *SHORT)
    token = relay.set(stop)
    try:
        assert cli(*line).code == 75
    finally:
        relay.reset(token)
    again = crafted(tmp_path / "b", tiny, *SLEEPER, *SHORT)
    assert again.digest == whole.digest


@pytest.mark.parametrize("chosen", ["[0, 0]", "[1]", "[2, 1]", "[0, 999]", "[-1, 0]", "[0.0, 1.0]"])
def test_a_choice_that_is_none_is_refused(chosen, tiny, tmp_path):
    file = tmp_path / "chooser.py"
    file.write_text(
        '"""Chooser: two images of the target class, as they are."""\n'
        "from dataclasses import dataclass\n"
        "import torch\n"
        "from poisonbench.attacks.base import TriggerConfig\n"
        "from poisonbench.entries import AttackEntry\n"
        "VERSION = 1\n"
        "ENTRY = AttackEntry('chooser', 'chooses', trains=False, has_trigger=True,\n"
        "                    keeps_labels=True, chooses_images=True)\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Config(TriggerConfig):\n"
        "    clean_label: bool = True\n"
        "def stamp(images, config, generator):\n"
        "    return images\n"
        "def choose(task, config, count):\n"
        f"    return torch.tensor({chosen})\n"
        "def craft(task, config):\n"
        "    return task.images\n"
    )
    line = ("craft", "--dataset", tiny, "--plugin", file, "--attack", "chooser", "--rho", "0.008")
    outcome = cli(*line, "--results", tmp_path / "r")
    assert outcome.code == 2
    assert "expected 2 of 67 images, as int64 in rising order, from choose" in outcome.err
    assert not (tmp_path / "r" / "poisons").exists()
