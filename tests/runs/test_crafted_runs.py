"""What craft keeps and finds again, on the tiny data set."""

import json
from pathlib import Path

import pytest

from helpers.command_line import cli, done
from poisonbench.core import files
from poisonbench.core.canonical import spec_id
from poisonbench.results.store import Store


def test_craft_makes_an_artefact_once(tiny, results):
    words = ("craft", "--attack", "durp", "--dataset", tiny, "--results", results)
    first = done(*words)
    assert "crafting durp" in first.err
    assert "270 poisons, largest change 76/255 of 76/255 allowed" in first.err
    path = Path(first.out.strip())
    assert path.parent == results / "poisons"
    assert sorted(file.name for file in path.iterdir()) == [
        "card.json",
        "poison.safetensors",
        "preview.png",
    ]
    before = {file: file.stat().st_mtime_ns for file in path.iterdir()}
    # What it took is kept for plans, once and outside the artefact.
    (cost,) = Store(results).crafting()
    assert (cost.dataset, cost.attack, cost.poisons) == (str(tiny), "durp", 1)
    assert 0 < cost.seconds < 600
    second = done(*words)
    assert Store(results).crafting() == [cost]
    assert second.out == first.out
    assert second.err.startswith("made before; delete the folder to make it again\n")
    assert "crafting" not in second.err
    assert {file: file.stat().st_mtime_ns for file in path.iterdir()} == before


def test_craft_json(tiny, results):
    words = ("craft", "--attack", "durp", "--dataset", tiny, "--results", results, "--json")
    crafted = done(*words).json
    card = json.loads((Path(crafted["path"]) / "card.json").read_text())
    assert crafted == {
        "id": Path(crafted["path"]).name,
        "path": str(results / "poisons" / crafted["id"]),
        "attack": "durp",
        "dataset": tiny,
        "goal": {"kind": "untargeted"},
        "num_poisons": 270,
        "norm": "linf",
        "epsilon": 76 / 255,
        "max_abs_delta": 76 / 255,
        "digest": card["digest"],
        "is_new": True,
    }
    assert crafted["id"] == spec_id(card["spec"])
    assert done(*words).json == crafted | {"is_new": False}


def test_quiet_silences_stderr_and_not_stdout(tiny, results):
    words = ("--dataset", tiny, "--results", results, "--quiet")
    for _ in range(2):
        crafted = done("craft", "--attack", "durp", *words)
        assert (crafted.out.count("\n"), crafted.err) == (1, "")
        defended = done("defend", "--method", "none", "--clean", "--epochs", "1", *words)
        assert (defended.out.count("\n"), defended.err) == (1, "")
    (results / "none").mkdir()
    assert done("report", "--results", results / "none", "--quiet").err == ""
    assert done("report", "--results", results, "--missing", "--quiet").err == ""


def test_the_artefact_depends_on_what_it_should(tiny, results):
    """Ids differ with the settings, trial and seed; the device and verbosity do not matter."""
    words = ("craft", "--attack", "durp", "--dataset", tiny, "--results", results, "--json")
    first = done(*words).json
    assert done(*words, "--device", "cpu", "--quiet").json["id"] == first["id"]
    assert done(*words, "--epsilon", "76/255").json["id"] == first["id"]
    others = [
        done(*words, *more).json
        for more in (
            ("--epsilon", "8/255"),
            ("--distribution", "sign"),
            ("--trial", "1"),
            ("--seed", "1"),
            ("--rho", "0.5"),
            ("--rho", "0.5", "--selection", "uniform"),
        )
    ]
    assert len({first["id"], *(other["id"] for other in others)}) == 7
    assert len({first["digest"], *(other["digest"] for other in others)}) == 7
    assert others[0]["max_abs_delta"] == pytest.approx(8 / 255)
    assert [other["num_poisons"] for other in others] == [270, 270, 270, 270, 135, 135]


def test_attacks_share_one_surrogate(tiny, results):
    words = ("--dataset", tiny, "--results", results, "--epochs", "1", "--steps", "2")
    first = done("craft", "--attack", "pgd", *words)
    (model,) = (results / "models").iterdir()
    stamp = model.stat().st_mtime_ns
    done("craft", "--attack", "dap", *words)
    assert list((results / "models").iterdir()) == [model]
    assert model.stat().st_mtime_ns == stamp
    assert not list((results / "checkpoints").glob("*"))
    # An artefact made from the kept surrogate equals one from a surrogate just trained.
    card = json.loads((Path(first.out.strip()) / "card.json").read_text())
    done("craft", "--attack", "pgd", *words, "--step-ratio", "0.2")
    other = results.with_name("other")
    again = done("craft", "--attack", "dap", "--results", other, *words[:2], *words[4:])
    again = done("craft", "--attack", "pgd", "--results", other, *words[:2], *words[4:])
    assert json.loads((Path(again.out.strip()) / "card.json").read_text()) == card


def test_a_surrogate_that_was_never_trained_is_not_waited_for(tiny, results, monkeypatch):
    waits = []
    monkeypatch.setattr(files.time, "sleep", waits.append)
    words = ("--dataset", tiny, "--results", results, "--epochs", "1", "--steps", "2")
    done("craft", "--attack", "pgd", *words)
    assert waits == []


def test_an_attack_without_a_surrogate_has_no_options_of_its_training(tiny, results):
    for words in (("--epochs", "3"), ("--model", "mnist-cnn")):
        outcome = cli("craft", "--attack", "durp", "--dataset", tiny, "--results", results, *words)
        assert outcome.code == 2
        assert words[0] in outcome.err
    assert "--epochs" not in done("list", "attacks", "durp").out
    assert "--epochs" in done("list", "attacks", "pgd").out
