"""What defend keeps, finds again and records, on the tiny data set."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import torch
from safetensors.torch import load_file

import poisonbench
from helpers.command_line import SHORT, defend, done, files_in
from helpers.synthetic_runs import changed
from poisonbench import registry
from poisonbench.core.canonical import spec_id
from poisonbench.models import build_model
from poisonbench.registry import MIX
from poisonbench.results.records import read_record
from poisonbench.results.store import Store
from poisonbench.runs.class_warnings import class_warnings
from poisonbench.training.evaluation import accuracy

OURS = {"distribution": "poisonbench", "version": poisonbench.__version__}


def record_of(outcome):
    return read_record(Path(outcome.json["path"]))


# defend


def test_an_option_in_a_mix_goes_to_the_attack_that_it_names(tiny, results):
    """The mix draws from the very pool that the attack makes alone with the option."""
    words = ("--dataset", tiny, "--results", results, "--json")
    alone = done("craft", "--attack", "durp", "--epsilon", "9/255", *words).json
    plain = done("craft", "--attack", "durp+pgd", "--pgd.steps", "1", *words).json
    mixed = done(
        "craft", "--attack", "durp+pgd", "--durp.epsilon=9/255", "--pgd.steps", "1", *words
    ).json
    assert mixed["id"] != plain["id"]
    card = json.loads((Path(mixed["path"]) / "card.json").read_text())
    assert card["spec"]["pools"]["durp"] == alone["digest"]


def test_defend_crafts_what_is_missing_and_keeps_it(tiny, results):
    words = ("--attack", "durp", "--rho", "0.5")
    first = defend(results, tiny, *words)
    assert "crafting durp on" in first.err
    assert "training hint on" in first.err
    kept = files_in(results / "poisons")
    assert len(kept) == 6  # The attack's whole pool, and the half of it that is trained on.
    second = defend(results, tiny, *words, "--trial", "1")
    assert "crafting" not in second.err
    assert "training hint on" in second.err
    assert files_in(results / "poisons") == kept
    assert not list((results / "checkpoints").glob("*"))


def test_defend_trains_on_the_papers_mix_by_default(tiny, stocked):
    record = record_of(defend(stocked, tiny, "--json"))
    assert record.spec.poison.attacks == ["pgd", "dap", "durp", "dc"]
    assert record.spec.poison.rho == 0.6
    assert record.metrics.poison.count == 160


def test_a_run_that_is_done_prints_its_record_at_once(tiny, results, monkeypatch):
    first = defend(results, tiny, "--clean")
    assert re.fullmatch(
        r"hint on npz:tiny.npz, clean, trial 0: test accuracy [\d.]+ %, \d+ s, (\S+)\n", first.out
    )
    before = files_in(results)
    monkeypatch.setattr("poisonbench.training.trainer.Trainer.fit", None)
    second = defend(results, tiny, "--clean")
    assert second.out == first.out
    assert "done before; here is its record" in second.err
    assert files_in(results) == before


@pytest.mark.parametrize("attack", ["durp", "durp+untargeted-noise"])
def test_a_run_that_is_done_needs_no_poison_to_be_found(attack, tiny, results):
    words = ("--attack", attack, "--rho", "0.5", "--json")
    first = defend(results, tiny, *words).json
    shutil.rmtree(results / "poisons")
    again = defend(results, tiny, *words)
    assert again.json == first | {"is_new": False}
    assert "crafting" not in again.err
    assert not (results / "poisons").exists()
    # Another draw, other weights and a model to keep are no part of what is there.
    for more in (("--poison-trial", "1"), ("--trial", "1"), ("--save-model",)):
        shutil.rmtree(results / "poisons", ignore_errors=True)
        assert "crafting durp" in defend(results, tiny, *words, *more).err
    shutil.rmtree(results / "poisons")
    assert not defend(results, tiny, *words, "--save-model").json["is_new"]


def test_of_runs_on_several_poisons_that_are_gone_the_last_is_taken(tiny, results):
    words = ("--attack", "durp+untargeted-noise", "--rho", "0.5", "--json")
    first = record_of(defend(results, tiny, *words))
    # One of two pools is enough to be crafted.
    shutil.rmtree(results / "poisons" / first.labels.poison.pools["durp"].id)
    surroundings = {"finished": "2999-01-01T00:00:00+00:00"}
    elsewhere = {"spec": {"poison": {"digest": "f" * 64}}, "environment": surroundings}
    second = changed(first, **elsewhere)
    Store(results).write_record(second)
    (results / "runs" / f"{'0' * 16}.json").write_text("{")
    again = defend(results, tiny, *words)
    assert again.json["id"] == second.id != first.id
    assert f"warning: run {first.id} has the same settings and " in again.err
    assert "0000.json: expected a run record" in again.err
    assert "crafting" not in again.err


def test_defend_json(tiny, results):
    summary = defend(results, tiny, "--attack", "durp", "--json").json
    record = read_record(Path(summary["path"]))
    assert summary == {
        "id": record.id,
        "path": str(results / "runs" / f"{record.id}.json"),
        "method": "hint",
        "dataset": "npz",
        "rho": 0.6,
        "trial": 0,
        "test_accuracy": record.metrics.test_accuracy,
        "attack_success": None,
        "seconds": record.cost.seconds.total,
        "is_new": True,
    }
    again = defend(results, tiny, "--attack", "durp", "--json").json
    assert again == summary | {"is_new": False}


def test_trials(tiny, results):
    runs = defend(results, tiny, "--clean", "--trials", "2", "--trial", "3", "--json").json["runs"]
    assert [run["trial"] for run in runs] == [3, 4]
    assert len({run["id"] for run in runs}) == 2
    lines = defend(results, tiny, "--clean", "--trials", "3", "--trial", "2").out.splitlines()
    assert [re.search(r"trial (\d)", line)[1] for line in lines] == ["2", "3", "4"]
    first, second = (read_record(Path(run["path"])) for run in runs)
    for name in ("initial_weights", "first_batch"):
        assert getattr(first.digests, name) != getattr(second.digests, name)
    assert [run["is_new"] for run in runs] == [True, True]


def test_trials_train_on_one_poison_unless_told_otherwise(tiny, results):
    digests = [
        record_of(defend(results, tiny, "--attack", "durp", "--json", *more)).spec.poison
        for more in ((), ("--trial", "1"), ("--poison-trial", "1"))
    ]
    assert digests[0] == digests[1]
    assert digests[0].digest != digests[2].digest
    assert digests[2].trial == 1


def test_clean_is_rho_0(tiny, results):
    first = defend(results, tiny, "--clean", "--json").json
    second = defend(results, tiny, "--rho", "0", "--json").json
    assert second == first | {"is_new": False}
    record = read_record(Path(first["path"]))
    assert record.spec.poison is None
    assert record.metrics.poison is None
    assert first["rho"] == 0
    assert not (results / "poisons").exists()


def test_attacks_joined_by_plus_share_the_ratio(tiny, stocked):
    record = record_of(defend(stocked, tiny, "--attack", "pgd+durp", "--rho", "0.5", "--json"))
    assert record.spec.poison.attacks == ["pgd", "durp"]
    assert record.metrics.poison.count == 134  # Two shares of floor(270 / 4).
    other = record_of(defend(stocked, tiny, "--attack", "durp+pgd", "--rho", "0.5", "--json"))
    assert other.id != record.id


def test_poison_by_path(tiny, artefact, results):
    words = ("--poison", artefact, "--json")
    record = record_of(defend(results, tiny, *words))
    assert msgspec.to_builtins(record.spec.poison) == {
        "attacks": ["durp"],
        "rho": 1.0,
        "selection": None,
        "trial": None,
        "digest": poisonbench.load_poison(artefact).digest,
    }
    assert record.labels.variant == "custom"
    assert not (results / "poisons").exists()
    by_file = ("--poison", artefact / "poison.safetensors", "--json")
    assert not defend(results, tiny, *by_file).json["is_new"]


def test_poison_changes_what_is_trained_on(tiny, artefact, results):
    clean = record_of(defend(results, tiny, "--clean", "--json"))
    poisoned = record_of(defend(results, tiny, "--poison", artefact, "--json"))
    assert poisoned.digests == clean.digests
    assert poisoned.curve[0].loss != clean.curve[0].loss


def test_save_model(tiny, results):
    plain = defend(results, tiny, "--clean", "--json").json
    assert not (results / "models").exists()
    kept = defend(results, tiny, "--clean", "--json", "--save-model").json
    path = results / "models" / f"{plain['id']}.safetensors"
    assert (kept["id"], kept["is_new"]) == (plain["id"], True)
    assert kept["test_accuracy"] == plain["test_accuracy"]
    assert not defend(results, tiny, "--clean", "--json", "--save-model").json["is_new"]
    assert not defend(results, tiny, "--clean", "--json").json["is_new"]
    from poisonbench.data.sources import load_dataset

    data = load_dataset(tiny, results, 0)
    model = build_model(
        "mnist-cnn", data.image_shape, 4, data.mean, data.std, torch.Generator().manual_seed(1)
    )
    model.load_state_dict(load_file(path))
    model.eval().to(memory_format=torch.channels_last)
    assert accuracy(model, data.test) == plain["test_accuracy"]


def test_save_model_of_a_new_run(tiny, results):
    summary = defend(results, tiny, "--clean", "--json", "--save-model").json
    assert files_in(results) == [
        Path("models", f"{summary['id']}.safetensors"),
        Path("runs", f"{summary['id']}.json"),
    ]


def test_settings_make_the_id_and_the_variant(tiny, results, monkeypatch):
    other = replace(registry.NETWORKS[0], name="other-cnn", default_for=())
    monkeypatch.setattr(registry, "NETWORKS", (*registry.NETWORKS, other))
    words = ("defend", "--method", "hint", "--dataset", tiny, "--clean", "--results", results)

    def record(*more):
        return record_of(done(*words, "--json", *more))

    paper = record("--epochs", "30")
    assert (paper.labels.variant, paper.labels.overrides) == ("paper", {})
    custom = record(*SHORT)
    assert custom.labels.variant == "custom"
    assert custom.labels.overrides == {"epochs": 3, "schedule": [1]}
    assert custom.spec.training.epochs == 3
    assert custom.spec.config["schedule"] == [1]
    others = [
        record(*SHORT, *more)
        for more in (
            ("--ratio", "0.25"),
            ("--beta", "8/255"),
            ("--momentum", "0.5"),
            ("--seed", "1"),
            ("--model", "other-cnn"),
        )
    ]
    assert len({paper.id, custom.id, *(other.id for other in others)}) == 7
    assert others[1].labels.overrides["beta"] == 8 / 255
    assert others[4].spec.model == "other-cnn"
    assert others[4].labels.variant == "custom"
    code = record("--profile", "code", "--epochs", "10", "--lissa-steps", "980")
    assert (code.labels.variant, code.labels.profile) == ("code", "code")
    assert code.spec.config["solver"] == "lissa"


def test_what_a_record_holds(tiny, stocked):
    record = record_of(defend(stocked, tiny, "--ratio", "0.25", "--json"))
    spec, labels = msgspec.to_builtins(record.spec), msgspec.to_builtins(record.labels)
    assert record.id == record.spec.id == spec_id(spec)
    assert set(spec) == {
        "kind",
        "loop",
        "dataset",
        "poison",
        "method",
        "recipe_number",
        "config",
        "model",
        "training",
        "seed",
        "trial",
    }
    assert tiny.partition(":")[2] not in json.dumps(spec)
    assert labels.pop("poison")["pools"].keys() == set(MIX)
    assert labels == {
        "variant": "custom",
        "profile": "paper",
        "overrides": {"epochs": 3, "ratio": 0.25, "schedule": [1]},
        "presets": ["mnist"],
        "is_paper_dataset": False,
        "dataset": tiny,
        "source": {
            "method": OURS,
            "attacks": dict.fromkeys(MIX, OURS),
            "model": OURS,
            "dataset": OURS,
        },
        "sizes": {"train": 270, "validation": 30, "test": 80},
    }
    metrics = record.metrics
    assert len(metrics.per_class_accuracy) == 4
    # The test split has the same number of images of each class.
    assert metrics.test_accuracy == pytest.approx(sum(metrics.per_class_accuracy) / 4)
    assert metrics.attack_success is None
    assert metrics.poison.share == pytest.approx(160 / 270)
    assert 0 < metrics.poison.share_of_selected < 1
    assert [row.epoch for row in record.curve] == [1, 2, 3]
    assert metrics.validation_accuracy == record.curve[-1].validation_accuracy
    (note,) = record.notes
    assert (note["epoch"], note["round"], note["selected"]) == (1, "hint", 68)
    seconds = msgspec.structs.asdict(record.cost.seconds)
    assert set(seconds) == {"training", "defense", "validation", "test", "total"}
    assert seconds["total"] == pytest.approx(sum(seconds.values()) - seconds["total"])
    assert min(seconds.values()) > 0
    assert record.cost.interruptions == 0
    assert record.cost.peak_memory_bytes > 2**20
    assert record.environment.device == "cpu"
    assert record.environment.started <= record.environment.finished


def test_defenses_of_a_trial_share_weights_and_batches(tiny, results):
    words = ("--dataset", tiny, "--clean", "--results", results, "--json", "--epochs", "3")
    none = record_of(done("defend", "--method", "none", *words))
    hint = record_of(done("defend", "--method", "hint", "--schedule", "1", *words))
    assert none.digests == hint.digests
    assert none.curve[0] == hint.curve[0]
    assert none.curve[1].loss != hint.curve[1].loss


def test_equal_runs_give_equal_numbers(tiny, results, tmp_path):
    first = record_of(defend(results, tiny, "--clean", "--json"))
    second = record_of(defend(tmp_path / "other", tiny, "--clean", "--json"))
    for part in ("id", "spec", "labels", "metrics", "curve", "notes", "digests", "warnings"):
        assert getattr(first, part) == getattr(second, part)


def test_a_class_without_test_images_is_said(tmp_path, results):
    import numpy as np

    from helpers.command_line import tiny_arrays

    arrays = tiny_arrays()
    rows = arrays["y_test"] != 2
    arrays |= {"x_test": arrays["x_test"][rows], "y_test": arrays["y_test"][rows]}
    np.savez(tmp_path / "data.npz", **arrays)
    outcome = defend(results, f"npz:{tmp_path / 'data.npz'}", "--clean", "--json")
    assert "class 2 has no test images" in record_of(outcome).warnings


def test_a_run_says_where_its_poison_came_from(tiny, stocked):
    words = ("defend", "--method", "none", "--dataset", tiny, "--epochs", "1", "--rho", "0.5")
    record = read_record(Path(done(*words, "--results", stocked, "--json").json["path"]))
    origin = record.labels.poison
    assert (stocked / "poisons" / origin.id / "card.json").exists()
    assert set(origin.pools) == set(record.spec.poison.attacks)
    for name, pool in origin.pools.items():
        assert pool.spec.attack == name
        assert "epsilon" in pool.spec.config
        assert (stocked / "poisons" / pool.id / "card.json").exists()


def test_warnings_name_a_class_once_whatever_the_rounds():
    test = SimpleNamespace(labels=torch.tensor([0, 1]))
    dataset = SimpleNamespace(class_names=["a", "b"], num_classes=2, test=test)
    notes = [
        {"epoch": 5, "classes_spared": [1]},
        {"epoch": 7, "classes_spared": [0, 1]},
        {"epoch": 8, "selected": 3},
        {"epoch": 0, "classes_emptied": [0]},
    ]
    spared, other, emptied = class_warnings(dataset, [1.0, 0.5], notes)
    assert spared.startswith("class b was kept before epoch 6, 8: ")
    assert other.startswith("class a was kept before epoch 8: ")
    assert emptied.startswith("class a was nothing but poison")


def test_warnings_of_many_classes_are_one_sentence():
    test = SimpleNamespace(labels=torch.arange(200))
    names = [f"thing {number}" for number in range(200)]
    dataset = SimpleNamespace(class_names=names, num_classes=200, test=test)
    (warning,) = class_warnings(dataset, [0.0] * 190 + [0.5] * 10, [])
    first = ", ".join(names[:10])
    assert warning == f"190 classes are never classified right, among them {first}"
    ten = class_warnings(dataset, [0.0] * 10 + [0.5] * 190, [])
    assert ten == [f"class {name} is never classified right" for name in names[:10]]
