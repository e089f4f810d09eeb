"""Poisons with a trigger from their request to their record, on the tiny data set."""

import json
import os
import shlex
import signal
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch
from msgspec import structs
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import poisonbench
from helpers.attack_tasks import K, craft_spec, fake_dataset, small_classifier
from helpers.command_line import cli, done, plan_of, refused
from helpers.triggered import SHORT, crafted, ran
from poisonbench.core.canonical import canonical_json
from poisonbench.core.errors import ArtefactError, UsageError
from poisonbench.core.progress import relay
from poisonbench.data.artefacts import read_poison
from poisonbench.data.mixing import draw_share
from poisonbench.data.poison import make_poison
from poisonbench.data.sources import load_dataset
from poisonbench.data.splits import Split
from poisonbench.results.records import read_record
from poisonbench.results.run_keys import record_key
from poisonbench.results.statistics import wilson
from poisonbench.runs.trigger import judge
from poisonbench.specs import seal_of
from poisonbench.sweep.plan import read_plan
from poisonbench.tables.all_runs import build_runs
from poisonbench.tables.catalogue import TABLES
from poisonbench.targeting import Trigger

SIDE = 3

# Which images, and their labels


@pytest.mark.parametrize("only", [None, 2])
@pytest.mark.parametrize("selection", ["stratified", "uniform"])
def test_the_share_is_of_all_images_and_nested_in_rho(only, selection):
    labels = torch.arange(203) % 4
    draws = [draw_share(labels, rho, 1, selection, only) for rho in (0.0, 0.05, 0.1, 0.2)]
    assert [len(rows) for rows in draws] == [0, 10, 20, 40]
    for small, large in pairwise(draws):
        assert set(small.tolist()) <= set(large.tolist())
        assert bool((large.diff() > 0).all())
    classes = set(labels[draws[-1]].tolist())
    assert classes == ({0, 1, 2, 3} if only is None else {2})
    assert not torch.equal(draws[-1], draw_share(labels, 0.2, 2, selection, only))


def test_a_class_too_small_for_its_poisons_is_refused():
    with pytest.raises(UsageError, match=r"--rho: expected at most 10 poisons.* got 12"):
        draw_share(torch.arange(40) % 4, 0.3, 0, only=1)


def test_dirty_label(tiny, results):
    data = load_dataset(tiny, Path(), 0)
    poison = crafted(results, tiny, "--attack", "badnets", "--rho", "0.2", "--target-class", "1")
    count = int(0.2 * len(data.train))
    assert len(poison) == count
    own = data.train.labels[poison.indices]
    assert set(own.tolist()) == {0, 1, 2, 3}
    assert poison.labels.tolist() == [1] * count
    assert poison.card.changed_labels == int((own != 1).sum())
    assert poison.trigger.text == "dirty label"
    applied = poison.apply(data.train)
    is_poison = torch.zeros(len(data.train), dtype=torch.bool)
    is_poison[poison.indices] = True
    assert torch.equal(applied.labels[~is_poison], data.train.labels[~is_poison])
    assert bool((applied.labels[is_poison] == 1).all())
    assert bool((applied.images[is_poison][..., -SIDE:, -SIDE:] == 255).all())
    clean = data.train.images.clone()
    clean[is_poison, :, -SIDE:, -SIDE:] = 255
    assert torch.equal(applied.images, clean)
    assert data.train.labels.tolist() == load_dataset(tiny, Path(), 0).train.labels.tolist()


def test_clean_label(tiny, results):
    data = load_dataset(tiny, Path(), 0)
    words = ("--attack", "badnets", "--clean-label", "true", "--target-class", "2")
    poison = crafted(results, tiny, *words)
    assert len(poison) == int(0.1 * len(data.train))
    assert poison.labels is None
    assert poison.card.changed_labels == 0
    assert bool((data.train.labels[poison.indices] == 2).all())
    assert torch.equal(poison.apply(data.train).labels, data.train.labels)
    refused(2, results, "craft", *words, "--dataset", tiny, "--rho", "0.9")


@pytest.mark.parametrize("words", [("badnets",), ("blended", "--clean-label", "true")])
def test_the_same_request_gives_the_same_bytes(words, tiny, tmp_path):
    state = torch.get_rng_state()
    first = crafted(tmp_path / "a", tiny, "--attack", *words)
    again = crafted(tmp_path / "b", tiny, "--attack", *words)
    assert torch.equal(torch.get_rng_state(), state)
    files = sorted(path.name for path in first.path.iterdir())
    assert files == ["card.json", "poison.safetensors", "preview.png"]
    for name in files:
        assert (first.path / name).read_bytes() == (again.path / name).read_bytes()
    other = crafted(tmp_path / "a", tiny, "--attack", *words, "--trial", "1")
    assert other.digest != first.digest
    if words[0] == "blended":
        assert other.trigger.test_digest != first.trigger.test_digest


# The artefact


def resealed(poison, folder, **changes):
    """The artefact with a changed card, sealed anew, or other labels."""
    labels = changes.pop("labels", None)
    card = structs.replace(poison.card, **changes)
    tensors = load_file(poison.path / "poison.safetensors")
    if labels is not None:
        tensors["labels"] = labels
    fields = msgspec.to_builtins(card)
    fields["seal"] = seal_of(fields)
    fields = json.loads(canonical_json(fields))
    folder.mkdir()
    save_file(tensors, folder / "poison.safetensors", metadata={"card": canonical_json(fields)})
    (folder / "card.json").write_text(json.dumps(fields))
    return folder


def test_labels_lie_in_the_file_of_a_dirty_label_poison_alone(tiny, results):
    for words, expected in (((), True), (("--clean-label", "true"), False)):
        poison = crafted(results, tiny, "--attack", "badnets", *words)
        with safe_open(poison.path / "poison.safetensors", "pt") as file:
            assert ("labels" in file.keys()) is expected


def test_labels_that_were_changed_are_refused(tiny, results, tmp_path):
    poison = crafted(results, tiny, "--attack", "badnets")
    other = poison.labels.clone()
    other[0] = 3
    with pytest.raises(ArtefactError, match=r"expected the label 0 of every poison, got 0, 3"):
        read_poison(resealed(poison, tmp_path / "a", labels=other))
    trigger = structs.replace(poison.trigger, labels="clean")
    with pytest.raises(ArtefactError, match="expected labels nowhere but in a dirty-label"):
        read_poison(resealed(poison, tmp_path / "b", goal=trigger))
    card = json.loads((poison.path / "card.json").read_text())
    card["goal"]["target_class"] = 1
    (poison.path / "card.json").write_text(json.dumps(card))
    with pytest.raises(ArtefactError, match="repeat the card"):
        read_poison(poison.path)


def test_a_count_of_changed_labels_that_is_not_theirs_is_refused(tiny, results, tmp_path):
    poison = crafted(results, tiny, "--attack", "badnets")
    path = resealed(poison, tmp_path / "a", changed_labels=1)
    with pytest.raises(ArtefactError, match="expected 1 changed labels"):
        read_poison(path, load_dataset(tiny, Path(), 0))


def test_a_trigger_that_the_card_does_not_lead_to_is_refused(tiny, results, tmp_path):
    """Sealed anew, the card names another pattern than the one that the poisons bear."""
    poison = crafted(results, tiny, "--attack", "blended")
    line = ("defend", "--method", "none", "--dataset", tiny, *SHORT, "--poison")
    changed = structs.replace(poison.card.spec, config={**poison.card.spec.config, "alpha": 0.1})
    error = refused(65, results, *line, resealed(poison, tmp_path / "a", spec=changed))
    assert "expected triggered test images with digest" in error
    reseeded = structs.replace(poison.card.spec, trial=1)
    refused(65, results, *line, resealed(poison, tmp_path / "b", spec=reseeded))


def test_labels_go_with_a_trigger_alone():
    dataset = fake_dataset()
    trigger = Trigger(target_class=0, labels="dirty", test_digest="")
    images, rows = dataset.train.images[:2].float() / 255, torch.arange(2)
    about = {"attack": "a", "epsilon": 1.0, "spec": craft_spec("a")}
    with pytest.raises(ArtefactError, match="expected labels in a dirty-label poison, got none"):
        make_poison(images, rows, dataset, **about, goal=trigger)
    with pytest.raises(ArtefactError, match="expected labels nowhere but in"):
        make_poison(images, rows, dataset, **about, labels=torch.zeros(2, dtype=torch.int64))


# Judging


def test_the_target_class_does_not_count_by_hand(tiny, results):
    """The model that was kept, on images stamped here: of the other classes alone."""
    data = load_dataset(tiny, Path(), 0)
    words = ("--method", "none", "--attack", "badnets", "--rho", "0.3", "--save-model")
    record = ran(results, tiny, *words, "--badnets.target-class", "3")
    from poisonbench.models import build_model

    model = build_model(
        record.spec.model, data.image_shape, 4, data.mean, data.std, torch.Generator()
    )
    model.load_state_dict(load_file(results / "models" / f"{record.id}.safetensors"))
    others = data.test.labels != 3
    images = data.test.images[others].clone()
    images[..., -SIDE:, -SIDE:] = 255
    with torch.no_grad():
        hit = model.eval()(images.float() / 255).argmax(1) == 3
    assert record.metrics.trigger.count == int(others.sum()) == 60
    assert record.metrics.trigger.successes == int(hit.sum())
    assert record.outcomes.triggered.unpack().tolist() == hit.tolist()
    with torch.no_grad():
        right = model(data.test.images.float() / 255).argmax(1) == data.test.labels
    assert record.metrics.test_accuracy == pytest.approx(float(right.double().mean()))
    assert record.metrics.attack_success is None
    assert record.spec.trigger.target_class == 3


def test_judged_by_hand():
    model = small_classifier()
    test = Split(fake_dataset().train.images[:9], torch.ones(9, dtype=torch.int64))
    with torch.no_grad():
        calls = model(test.images.float() / 255).argmax(1)
    for label in range(K):
        trigger = Trigger(target_class=label, labels="dirty", test_digest="")
        answer, hit = judge(model, test, trigger, torch.device("cpu"))
        assert hit.tolist() == (calls == label).tolist()
        assert answer.rate == float((calls == label).double().mean())


def test_a_victim_learns_the_square_and_little_else_is_lost(tiny, results):
    words = ("--method", "none", "--epochs", "12", "--learning-rate", "0.1", "--attack", "badnets")
    line = ("defend", "--dataset", tiny, "--results", results, "--json", *words, "--rho", "0.4")
    run = done(*line).json
    record = read_record(Path(run["path"]))
    hits = record.metrics.trigger
    assert run["attack_success_rate"] == hits.rate > 0.8
    assert run["attack_success_interval"] == list(wilson(hits.successes, hits.count))
    assert run["poison_labels"] == "dirty"
    assert record.metrics.test_accuracy > 0.8


@pytest.mark.parametrize("attack", ["badnets", "blended"])
def test_from_the_embedded_sample_to_a_record(attack, results):
    """By the share that is the default, on the classes that are not the target."""
    data, line = "mnist-sample@1000", ("--attack", attack, "--json", "--results", results)
    poison = done("craft", "--dataset", data, *line).json
    assert poison["num_poisons"] == 100
    assert poison["goal"]["kind"] == "triggered"
    short = ("--epochs", "1", "--batch-size", "500")
    run = done("defend", "--method", "none", "--dataset", data, *line, *short).json
    record = read_record(Path(run["path"]))
    assert record.spec.poison_digest == poison["digest"]
    assert record.metrics.poison.count == 100
    assert record.metrics.trigger.count == 1800


@pytest.mark.parametrize("method", ["spectral", "activation-clustering"])
def test_filters_are_scored_by_the_poisons_that_they_removed(method, tiny, results):
    record = ran(results, tiny, "--method", method, "--attack", "badnets", "--rho", "0.2")
    scores = record.metrics.filter
    assert scores.num_poisons == record.metrics.poison.count
    assert 0 <= scores.poisons_removed <= scores.num_poisons
    # By the labels that the defense saw: all poisons are of the target class.
    assert [part.num_poisons for part in scores.per_class] == [scores.num_poisons, 0, 0, 0]
    assert record.metrics.trigger.count == 60


def test_an_artefact_is_judged_like_the_attack_that_made_it(tiny, results, tmp_path):
    words = ("--method", "none", "--trial", "2")
    own = ran(results, tiny, *words, "--attack", "blended", "--rho", "0.3")
    poison = crafted(results, tiny, "--attack", "blended", "--rho", "0.3")
    given = ran(tmp_path, tiny, *words, "--poison", poison.path)
    assert given.spec.poison_digest == own.spec.poison_digest
    assert given.spec.trigger == own.spec.trigger
    assert given.metrics.trigger == own.metrics.trigger
    assert given.outcomes.triggered == own.outcomes.triggered
    assert given.metrics.test_accuracy == own.metrics.test_accuracy


@pytest.mark.parametrize(
    ("attack", "own"), [("badnets", ()), ("narcissus", ("--narcissus.rounds", "5"))]
)
def test_a_sweep_knows_the_record_of_its_job(attack, own, tiny, results, tmp_path):
    words = ("--method", "none", "--attack", attack, "--rho", "0.2", *own)
    words = (*words, f"--{attack}.target-class", "1")
    record = ran(results, tiny, *words)
    line = shlex.join(["poisonbench", "defend", "--dataset", tiny, *SHORT, *words])
    *_, run = read_plan(plan_of([line], tmp_path / "plan.json")).jobs
    assert record_key(record) == run.id
    (poison,) = (results / "poisons").iterdir()
    line = f"poisonbench defend --dataset {tiny} {' '.join(SHORT)} --method none --poison {poison}"
    given = ran(results, tiny, "--method", "none", "--poison", poison)
    *_, run = read_plan(plan_of([line], tmp_path / "given.json")).jobs
    assert record_key(given) == run.id


def test_a_record_of_half_a_trigger_is_refused(tiny, results):
    record = ran(results, tiny, "--method", "none", "--attack", "badnets")
    with pytest.raises(ValueError, match="expected both or none"):
        structs.replace(record, metrics=structs.replace(record.metrics, trigger=None))


def test_a_stopped_run_is_continued_to_the_same_record(tiny, tmp_path):
    """Interrupted after its first epoch, it ends in the weights of the run that was not."""
    words = ("--method", "none", "--attack", "badnets", "--save-model")
    whole = ran(tmp_path / "a", tiny, *words)

    def stop(phase, done, total, detail=""):
        if (phase, done) == ("none", 12):
            os.kill(os.getpid(), signal.SIGINT)

    line = ("defend", "--dataset", tiny, "--results", tmp_path / "b", *SHORT, *words)
    token = relay.set(stop)
    try:
        assert cli(*line).code == 75
    finally:
        relay.reset(token)
    again = ran(tmp_path / "b", tiny, *words)
    assert again.cost.interruptions == 1
    assert again.id == whole.id
    assert again.outcomes == whole.outcomes
    assert again.metrics == whole.metrics


# Refusals and tables


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--attack", "badnets+pgd"), "an attack with a trigger goes alone"),
        (
            ("--attack", "badnets", "--rho", "0.001"),
            "--rho: expected a poison or more, got 0.001 of",
        ),
        (("--attack", "badnets", "--badnets.target-class", "4"), "a class in 0..3, got 4"),
        (("--attack", "badnets", "--badnets.size", "99"), "--size: expected at most 16"),
        (("--attack", "badnets", "--scenario", "transfer"), "expected a targeted attack"),
    ],
)
def test_bad_requests(words, text, tiny, tmp_path):
    line = ("defend", "--method", "none", "--dataset", tiny, *words)
    assert text in refused(2, tmp_path / "r", *line)


def test_the_table_of_runs_shows_success_and_labels(tiny, results):
    words = ("--method", "none", "--rho", "0.2", "--attack", "badnets")
    records = [ran(results, tiny, *words)]
    table = build_runs(records)
    (cell,) = [c for c in table.cells if c.keys["quantity"] == "attack_success_rate"]
    hits = records[0].metrics.trigger
    assert (cell.measured.successes, cell.measured.trials) == (hits.successes, hits.count)
    assert cell.keys["scenario"] == "dirty label"
    assert f"{hits.successes}/60 [" in table.blocks[0].rows[0][-1]
    out = done("report", "--runs", "--results", results, "--format", "csv").out
    assert "attack_success_rate" in out
    records.append(ran(results, tiny, *words, "--trial", "1"))
    (cell,) = [c for c in build_runs(records).cells if c.keys["quantity"] == "attack_success_rate"]
    rates = [run.metrics.trigger.rate for run in records]
    assert cell.measured.mean == pytest.approx(float(np.mean(rates)))
    assert cell.measured.n == 2
    assert all(not t.own(records) for t in TABLES.values() if not t.has_triggers)
    done("report", "--summary", "--results", results)
    columns = poisonbench.records(results=results)
    assert sorted(columns["attack_success_rate"]) == sorted(rates)
    every = poisonbench.records(results=results, columns="all")
    assert set(every["spec.trigger.labels"]) == {"dirty"}


def test_inspect_names_the_labels(tiny, results):
    poison = crafted(results, tiny, "--attack", "badnets")
    out = done("inspect", poison.path).out
    assert "dirty label:" in out
    assert "test images with the trigger shall be called" in out


def test_a_plug_in_brings_a_trigger_of_its_own(tiny, results, tmp_path):
    """What it stamps at test is not what it makes of training images."""
    file = tmp_path / "frame.py"
    file.write_text(
        '"""Frame: poisons are a little darker; the trigger is a white frame."""\n'
        "from dataclasses import dataclass\n"
        "from poisonbench.attacks.base import TriggerConfig\n"
        "from poisonbench.entries import AttackEntry\n"
        "VERSION = 1\n"
        "ENTRY = AttackEntry('frame', 'a frame', trains=False, has_trigger=True)\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Config(TriggerConfig):\n"
        "    target_class: int = 2\n"
        "    clean_label: bool = True\n"
        "def stamp(images, config, generator):\n"
        "    framed = images.clone()\n"
        "    framed[..., 0, :] = 1\n"
        "    return framed\n"
        "def craft(task, config):\n"
        "    assert (task.labels == 2).all()\n"
        "    return 0.9 * task.stamp(task.images)\n"
    )
    words = ("--plugin", file, "--attack", "frame", "--rho", "0.1")
    record = ran(results, tiny, "--method", "none", *words)
    assert record.spec.trigger.labels == "clean"
    assert record.metrics.trigger.count == 60
    broken = tmp_path / "broken.py"
    broken.write_text(file.read_text().replace("def stamp(images, config, generator)", "def s(i)"))
    error = refused(
        2,
        tmp_path / "r",
        *("defend", "--method", "none", "--dataset", tiny),
        *("--plugin", broken, "--attack", "frame"),
    )
    assert "expected stamp" in error


def test_a_stamp_of_another_shape_is_refused(monkeypatch, tiny, tmp_path):
    from poisonbench.attacks import badnets

    monkeypatch.setattr(badnets, "stamp", lambda *_: SimpleNamespace(shape=()))
    line = ("craft", "--attack", "badnets", "--dataset", tiny)
    assert "from stamp" in refused(2, tmp_path / "r", *line)
