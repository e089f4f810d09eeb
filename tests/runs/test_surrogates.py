"""Whose network and recipe a surrogate has, in runs and in plans, and what an artefact costs."""

import importlib
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

import poisonbench
from helpers.command_line import done
from poisonbench import registry
from poisonbench.cli.plan_jobs import plan_lines
from poisonbench.models import mnist_cnn
from poisonbench.requests import command_of, to_words
from poisonbench.results.records import read_record
from poisonbench.results.run_keys import record_key

#: The victim's training is short; PGD's surrogate has the paper's recipe unless it is told.
SHORT = ("--epochs", "1", "--attack", "pgd", "--pgd.steps", "1")


class Doubled(nn.Module):
    def forward(self, images):
        return 2 * images


def brighter_cnn(channels, height, width):
    """The MNIST network on images of twice the contrast."""
    features, size = mnist_cnn.features(channels, height, width)
    return nn.Sequential(Doubled(), *features), size


@pytest.fixture(autouse=True)
def other_network(monkeypatch):
    own = {"name": "other-cnn", "module": __name__, "builder": "brighter_cnn", "default_for": ()}
    entry = replace(registry.NETWORKS[0], **own)
    monkeypatch.setattr(registry, "NETWORKS", (*registry.NETWORKS, entry))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A results folder that the tests of this file fill."""
    return tmp_path_factory.mktemp("surrogates") / "results"


def ran(tiny, results, *words):
    """A run's record, PGD's pool in its labels, and the remarks."""
    line = ("defend", "--method", "none", "--dataset", tiny, *SHORT, *words)
    outcome = done(*line, "--results", results, "--json")
    record = read_record(Path(outcome.json["path"]))
    return record, record.labels.poison.pools["pgd"], outcome.err


def test_a_surrogate_has_the_network_of_the_run_unless_it_is_told(tiny, folder):
    plain, pool, remarks = ran(tiny, folder, "--pgd.epochs", "2")
    assert "crafting pgd on npz:tiny.npz" in remarks
    assert "surrogate mnist-cnn of 2 epochs" in remarks
    other, others_pool, remarks = ran(tiny, folder, "--pgd.epochs", "2", "--model", "other-cnn")
    assert "surrogate other-cnn of 2 epochs" in remarks
    assert others_pool.spec.surrogate.model == "other-cnn"
    words = ("--model", "other-cnn", "--steps", "1", "--epochs", "2", "--dataset", tiny)
    crafted = done("craft", "--attack", "pgd", *words, "--results", folder, "--json").json
    assert (crafted["id"], crafted["is_new"]) == (others_pool.id, False)
    told, tolds_pool, remarks = ran(
        tiny, folder, "--pgd.epochs", "2", "--model", "other-cnn", "--attack-model", "mnist-cnn"
    )
    assert "crafting" not in remarks
    assert tolds_pool == pool
    assert told.labels.overrides["attack_model"] == "mnist-cnn"
    assert "attack_model" not in other.labels.overrides
    assert len({plain.id, other.id, told.id}) == 3


def test_the_recipe_of_a_run_is_not_its_surrogates(tiny, folder):
    first, pool, _ = ran(tiny, folder, "--pgd.epochs", "2")
    longer, same, remarks = ran(tiny, folder, "--pgd.epochs", "2", "--momentum", "0.5")
    assert "crafting" not in remarks
    assert same == pool
    assert first.labels.overrides == {"epochs": 1, "pgd.epochs": 2, "pgd.steps": 1}
    assert longer.labels.overrides == first.labels.overrides | {"momentum": 0.5}
    _, other, _ = ran(tiny, folder, "--pgd.epochs", "3")
    assert other.spec.surrogate.training.epochs == 3
    assert other.id != pool.id


def test_a_plan_knows_the_poisons_of_such_runs(tiny, folder, tmp_path):
    start = f"poisonbench defend --method none --dataset {tiny} {' '.join(SHORT)}"
    lines = [
        f"{start} --pgd.epochs 2 {more}"
        for more in ("", "--model other-cnn", "--model other-cnn --attack-model mnist-cnn")
    ]
    plan = plan_lines(lines, tmp_path)
    poisons, runs = plan.only("craft"), plan.only("defend")
    assert (len(poisons), len(runs)) == (2, 3)
    for job in plan.jobs:
        done(*to_words(job.request), "--results", folder)
    assert all((folder / "poisons" / job.id).is_dir() for job in poisons)
    keys = {record_key(read_record(path)) for path in (folder / "runs").glob("*.json")}
    assert {job.id for job in runs} <= keys


def test_a_plan_has_the_poisons_of_craft_lines(tiny, results, tmp_path):
    craft = f"poisonbench craft --dataset {tiny} --attack"
    lines = [
        f"{craft} durp --epsilon 9/255",
        f"{craft} durp+pgd --rho 0.5 --pgd.steps 1 --pgd.epochs 1",
        f"{craft} noise --rho 0.02 --trials 2 --target 5 --intended-class 3",
        f"{craft} pgd --steps 1 --epochs 1",
    ]
    plan = plan_lines(lines, tmp_path)
    # The mix is drawn by the runs that train on it, from pools of which one has a line of its own.
    assert [job.title.split()[1] for job in plan.jobs] == ["durp", "durp", "pgd", "noise", "noise"]
    assert {job.title.split()[2] for job in plan.jobs} == {"npz:tiny.npz"}
    assert plan_lines([command_of(job.request) for job in plan.jobs], tmp_path) == plan
    for line in lines:
        done(*shlex.split(line)[1:], "--results", results)
    assert all((results / "poisons" / job.id).is_dir() for job in plan.jobs)


def counting(monkeypatch, name):
    """The arguments of every call of a function of the package, by its module and name."""
    module, _, attribute = name.rpartition(".")
    function, calls = getattr(importlib.import_module(module), attribute), []

    def counted(*arguments):
        calls.append(arguments)
        return function(*arguments)

    monkeypatch.setattr(name, counted)
    return calls


def test_an_artefact_is_read_once_a_run(tiny, artefact, results, monkeypatch):
    read = counting(monkeypatch, "poisonbench.data.artefacts._read_tensors")
    line = ("defend", "--method", "none", "--dataset", tiny, "--epochs", "1", "--poison", artefact)
    done(*line, "--results", results)
    assert len(read) == 1
    done(*line, "--trial", "1", "--trials", "2", "--results", results)
    assert len(read) == 2
    done("inspect", artefact, "--results", results)
    assert len(read) == 3


def test_trials_are_resolved_and_their_targets_checked_once(tiny, results, monkeypatch):
    resolved = counting(monkeypatch, "poisonbench.runs.defend.resolve_poison")
    checked = counting(monkeypatch, "poisonbench.runs.poison.check_target")
    mixes = counting(monkeypatch, "poisonbench.cli.method_options.read_mix")
    line = ("defend", "--method", "none", "--dataset", tiny, "--epochs", "1", "--attack", "noise")
    done(*line, "--rho", "0.02", "--trials", "2", "--results", results)
    assert len(resolved) == len(checked) == 2
    assert mixes == [("noise",)]


def test_the_api_says_which_network(tiny, results):
    settings = {"pgd.steps": 1, "pgd.epochs": 1}
    record = poisonbench.defend(
        "none", tiny, attack="pgd", model="other-cnn", results=results, epochs=1, **settings
    )
    crafted = poisonbench.craft("pgd", tiny, model="other-cnn", results=results, steps=1, epochs=1)
    assert record.spec.model == "other-cnn"
    assert record.labels.poison.pools["pgd"].id == crafted.id
