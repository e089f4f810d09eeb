"""Kept models: what a disk or another process does to their files, and old files without seals."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from helpers.command_line import cli, done, refused
from poisonbench.core.errors import ArtefactError
from poisonbench.core.files import publish_bytes
from poisonbench.core.seeds import Seeds
from poisonbench.data.sources import load_dataset
from poisonbench.data.splits import digest_tensors
from poisonbench.registry import defenses
from poisonbench.results.store import Store
from poisonbench.runs import kept_models
from poisonbench.runs import trained_models as models_module
from poisonbench.runs.context import RunContext
from poisonbench.runs.kept_models import model_bytes, read_weights
from poisonbench.runs.method_settings import read_settings
from poisonbench.runs.trained_models import model_spec, read_kept, read_model, trained_models

CPU = torch.device("cpu")


def flip(path, place):
    """Flip one bit, at a share of the file."""
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)


@pytest.fixture
def said():
    return []


@pytest.fixture
def context(tmp_path, said):
    return RunContext(Store(tmp_path), tmp_path, CPU, say=said.append)


@pytest.fixture
def asked(context, tiny):
    """What a model of two epochs is asked for by."""
    dataset = load_dataset(tiny, Path(), 0)
    recipe = read_settings(defenses()["none"], dataset, "paper", {}).recipe.first_epochs(2)
    return context, dataset, recipe, model_spec(context, dataset, recipe, "surrogate", 0, None)


def digests(models):
    return [digest_tensors(*model.state_dict().values()) for model in models]


# A bit that flipped


@pytest.mark.parametrize("place", [0.001, 0.3, 0.6, 1])
@pytest.mark.parametrize("epochs", [None, (1, 2)])
def test_a_damaged_model_is_named_and_made_anew(epochs, place, asked, said):
    first = digests(trained_models(*asked, epochs=epochs))
    (path,) = (asked[0].store.root / "models").iterdir()
    whole = path.read_bytes()
    flip(path, place)
    said.clear()
    assert digests(trained_models(*asked, epochs=epochs)) == first
    (warning,) = said
    assert f"warning: {path}: expected a surrogate model, got " in warning
    assert warning.endswith("; training it again")
    assert path.read_bytes() == whole
    said.clear()
    assert digests(trained_models(*asked, epochs=epochs)) == first
    assert said == []


def test_a_damaged_surrogate_does_not_reach_a_poison(tiny, tmp_path):
    words = ("craft", "--attack", "pgd", "--dataset", tiny, "--epochs", "1", "--steps", "2")
    line = (*words, "--results", tmp_path, "--json")
    first = done(*line).json
    (path,) = (tmp_path / "models").iterdir()
    flip(path, 0.7)
    os.rename(tmp_path / "poisons", tmp_path / "before")
    again = done(*line)
    assert again.json["digest"] == first["digest"]
    assert f"warning: {path}: expected a surrogate model" in again.err


def test_each_state_of_many_has_its_own_seal(tmp_path):
    path = tmp_path / "states.safetensors"
    states = {f"{epoch}.weight": torch.full((40,), float(epoch)) for epoch in range(12)}
    path.write_bytes(model_bytes("states", states, [f"{epoch}." for epoch in range(12)]))
    with safe_open(path, "pt") as file:
        assert len(set(json.loads(file.metadata()["seals"]).values())) == 12
    flip(path, 1)
    damaged = []
    for epoch in range(12):
        try:
            assert torch.equal(read_weights(path, f"{epoch}.")["weight"], states[f"{epoch}.weight"])
        except ValueError:
            damaged.append(epoch)
    assert len(damaged) == 1


@pytest.mark.parametrize("change", ["name", "order", "rename"])
def test_a_seal_is_of_names_and_of_the_model(change, tmp_path):
    path = tmp_path / "one.safetensors"
    weights = {"a": torch.zeros(3), "b": torch.ones(3)}
    path.write_bytes(model_bytes("one", weights))
    assert read_weights(path).keys() == weights.keys()
    with safe_open(path, "pt") as file:
        seals = file.metadata()
    if change == "name":
        save_file({"a": weights["a"], "c": weights["b"]}, path, seals)
    elif change == "order":
        save_file({"a": weights["b"], "b": weights["a"]}, path, seals)
    else:
        path = path.rename(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="other weights than were sealed"):
        read_weights(path)


@pytest.mark.parametrize("epochs", [None, (0, 2)])
def test_a_model_from_before_there_were_seals_is_taken(epochs, asked, said):
    first = digests(trained_models(*asked, epochs=epochs))
    (path,) = (asked[0].store.root / "models").iterdir()
    save_file(load_file(path), path)
    stamp = path.stat().st_mtime_ns
    said.clear()
    assert digests(trained_models(*asked, epochs=epochs)) == first
    assert path.stat().st_mtime_ns == stamp
    assert said == []


def test_a_damaged_victim_is_refused_wherever_it_is_read(tiny, tmp_path, context, asked):
    words = ("--method", "none", "--clean", "--dataset", tiny, "--epochs", "1", "--save-model")
    run = done("defend", *words, "--results", tmp_path, "--json").json
    path = context.store.model_path(run["id"])
    assert read_model(context, path, "mnist-cnn", asked[1]).head.weight.isfinite().all()
    flip(path, 0.9)
    for read in (
        lambda: read_model(context, path, "mnist-cnn", asked[1]),
        lambda: read_kept(path, 270),
    ):
        with pytest.raises(ArtefactError, match=r"got other weights than were sealed.*delete it"):
            read()
    line = ("export", run["id"], "--to", "torch", "--output", tmp_path / "network")
    assert "other weights than were sealed" in refused(65, tmp_path, *line)
    line = ("verify", run["id"], "--results", tmp_path, "--scratch", tmp_path / "scratch")
    outcome = cli(*line)
    assert outcome.code != 0
    assert "other weights than were sealed" in outcome.out + outcome.err


def test_a_state_of_many_is_read_without_the_others(tmp_path, monkeypatch):
    path = tmp_path / "states.safetensors"
    states = {f"{epoch}.weight": torch.full((3,), epoch) for epoch in range(20)}
    path.write_bytes(
        kept_models.model_bytes("states", states, [f"{epoch}." for epoch in range(20)])
    )
    taken = []

    class Spy:
        def __init__(self, *words, **options):
            self.file = safe_open(*words, **options)

        def __enter__(self):
            return self

        def __exit__(self, *error): ...

        def keys(self):
            return self.file.keys()

        def metadata(self):
            return self.file.metadata()

        def get_tensor(self, key):
            taken.append(key)
            return self.file.get_tensor(key)

    monkeypatch.setattr(kept_models, "safe_open", Spy)
    tensors = read_weights(path, "7.")
    assert taken == ["7.weight"]
    assert torch.equal(tensors["weight"], torch.full((3,), 7))


# Two processes


def test_of_two_trainings_the_first_is_kept_and_used(asked, monkeypatch):
    dataset = asked[1]
    weights = models_module.fresh_network(dataset, asked[3].model, Seeds(99)).state_dict()

    def publish_second(path, data):
        publish_bytes(path, model_bytes(path.stem, weights))
        publish_bytes(path, data)

    monkeypatch.setattr(models_module, "publish_bytes", publish_second)
    (model,) = trained_models(*asked)
    assert digests([model]) == [digest_tensors(*weights.values())]
    assert digests(trained_models(*asked)) == digests([model])


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_that_is_there_is_left(has_links, tmp_path, monkeypatch):
    if not has_links:

        def link(source, target):
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", link)
    path = tmp_path / "models" / "a"
    publish_bytes(path, b"first")
    publish_bytes(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644
