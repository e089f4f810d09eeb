"""Artefacts that are damaged, edited or of other data: exit code 65, and what to do."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers.command_line import cli, done, last_line, refused
from poisonbench.core.canonical import canonical_json
from poisonbench.data.artefacts import CARD_NAME, FILE_NAME
from poisonbench.specs import seal_of


def cut(folder):
    data = (folder / FILE_NAME).read_bytes()
    (folder / FILE_NAME).write_bytes(data[:-100])


def flip_a_pixel(folder):
    data = bytearray((folder / FILE_NAME).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / FILE_NAME).write_bytes(data)


def edit_the_card(folder):
    card = json.loads((folder / CARD_NAME).read_text())
    (folder / CARD_NAME).write_text(json.dumps(card | {"epsilon": 0.5}))


def edit_the_inner_card(folder):
    data = (folder / FILE_NAME).read_bytes()
    assert data.count(b"poisonbench") == 1
    (folder / FILE_NAME).write_bytes(data.replace(b"poisonbench", b"poisonbencs"))
    card = (folder / CARD_NAME).read_text()
    (folder / CARD_NAME).write_text(card.replace("poisonbench", "poisonbencs"))


def remove_the_card(folder):
    (folder / CARD_NAME).unlink()


def replace_by_a_zip(folder):
    np.savez(folder / "x.npz", a=np.zeros(3))
    (folder / "x.npz").replace(folder / FILE_NAME)


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (cut, "not fully covered"),
        (flip_a_pixel, "they were changed"),
        (edit_the_card, "to repeat the card inside"),
        (edit_the_inner_card, "expected the card that was sealed, got an edited one"),
        (remove_the_card, "expected a card.json beside the tensors, got none"),
        (replace_by_a_zip, "a pickle or zip is never opened"),
    ],
)
def test_damaged_artefact(change, fragment, artefact, tiny, tmp_path, results):
    poison = tmp_path / "poison"
    shutil.copytree(artefact, poison)
    change(poison)
    words = ("--dataset", tiny, "--poison", poison, "--epochs", "1")
    assert fragment in refused(65, results, "defend", "--method", "none", *words)
    assert fragment in refused(65, results, "inspect", poison)


def seal_anew(folder, changes):
    """Change fields of the card by their dotted names, without which the seal would not fit."""
    from safetensors.torch import load_file, save_file

    card = json.loads((folder / CARD_NAME).read_text())
    for name, value in changes.items():
        *outer, last = name.split(".")
        part = card
        for step in outer:
            part = part[step]
        part[last] = value
        if value is None:
            del part[last]
    card["seal"] = seal_of(card)
    (folder / CARD_NAME).write_text(json.dumps(card))
    file = folder / FILE_NAME
    save_file(load_file(file), file, metadata={"card": canonical_json(card)})


TARGET = {
    "kind": "targeted",
    "target": 3,
    "target_class": 3,
    "intended_class": 7,
    "poison_class": 7,
    "scenario": "scratch",
    "targets": "given",
}


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"dataset.num_classes": 10}, "expected a poison of 4 classes and 270 training images"),
        ({"dataset.num_classes": 10, "goal": TARGET}, "got one of 10 classes and 270"),
        ({"dataset.train_size": 10**6}, "got one of 4 classes and 1000000"),
        ({"epsilon": 1e308}, "expected an epsilon in [0, 1]"),
        ({"epsilon": 2.0, "levels": 510}, "expected an epsilon in [0, 1]"),
        (
            {"norm": "l2", "epsilon": 99.0, "levels": None},
            "expected the changes that were measured",
        ),
        (
            {"norm": "l0", "epsilon": 256.0, "levels": None},
            "expected the changes that were measured",
        ),
        ({"measured.max_abs_levels": 1}, "expected the changes that were measured"),
        ({"measured.mean_abs_levels": 0.25}, "expected the changes that were measured"),
        ({"measured.max_l2": 3.5}, "expected the changes that were measured"),
        ({"changed_labels": 3}, "expected 3 changed labels"),
    ],
)
def test_a_card_that_was_sealed_anew_with_fields_that_do_not_agree(
    changes, fragment, artefact, tiny, tmp_path, results
):
    poison = tmp_path / "poison"
    shutil.copytree(artefact, poison)
    seal_anew(poison, changes)
    words = ("--dataset", tiny, "--poison", poison, "--epochs", "1")
    assert fragment in refused(65, results, "inspect", poison)
    assert fragment in refused(65, results, "defend", "--method", "none", *words)


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"spec.config.size": -1}, "got others: badnets: size: expected at least 1"),
        ({"spec.config.size": "wide"}, "got others: --size: expected"),
        ({"spec.config.colour": 3}, "got others: "),
    ],
)
def test_settings_of_a_trigger_that_its_attack_does_not_take(
    changes, fragment, tiny, tmp_path, results
):
    words = ("--dataset", tiny, "--results", tmp_path / "made", "--rho", "0.1")
    poison = Path(done("craft", "--attack", "badnets", *words).out.strip())
    seal_anew(poison, changes)
    words = ("--dataset", tiny, "--poison", poison, "--epochs", "1")
    message = last_line(65, results, "defend", "--method", "none", *words)
    assert f"{poison}: expected a card with settings that badnets takes on {tiny}" in message
    assert fragment in message


def test_an_artefact_whose_images_are_no_list_of_images(artefact, tmp_path, results):
    import torch
    from safetensors.torch import load_file, save_file

    file = tmp_path / FILE_NAME
    card = {"card": canonical_json(json.loads((artefact / CARD_NAME).read_text()))}
    for name in ("images", "indices", "sources"):
        tensors = load_file(artefact / FILE_NAME)
        save_file(tensors | {name: torch.tensor(1, dtype=tensors[name].dtype)}, file, card)
        assert "of shape" in refused(65, results, "inspect", file)


def test_artefact_that_is_not_there(tiny, tmp_path, results):
    words = ("--dataset", tiny, "--poison", tmp_path / "none")
    message = refused(65, results, "defend", "--method", "none", *words)
    assert "got no such file; check the path" in message
    assert f"of a poison or run in {results}, got 'nothing'" in refused(
        65, results, "inspect", "nothing"
    )


def test_artefact_of_another_split(artefact, tiny, results):
    """Another root seed holds out other validation images, so rows have moved."""
    words = ("--method", "none", "--dataset", tiny, "--poison", artefact, "--seed", "1")
    assert "got one made for another split" in refused(65, results, "defend", *words)
    message = refused(65, results, "inspect", artefact, "--seed", "1")
    assert "got one made for another split" in message
    message = refused(65, results, "inspect", artefact, "--dataset", "mnist-sample")
    assert "expected images of shape (1, 28, 28)" in message


@pytest.mark.parametrize("attack", ["durp", "pgd+dap+durp"])
def test_a_damaged_artefact_in_the_store_is_not_taken_for_made(attack, tiny, stocked):
    words = ("craft", "--attack", attack, "--dataset", tiny, "--results", stocked)
    if attack != "durp":
        words += ("--rho", "0.6")
    folder = done(*words, "--json").json["path"]
    edit_the_card(stocked / "poisons" / os.path.basename(folder))
    outcome = cli(*words)
    assert (outcome.code, outcome.out) == (65, "")
    assert "delete it and craft it again" in outcome.err
    shutil.rmtree(folder)
    assert done(*words, "--json").json["is_new"]


def test_another_poison_in_its_place_is_not_taken_for_it(tiny, results):
    words = ("craft", "--attack", "durp", "--dataset", tiny)
    first, other = (
        Path(done(*words, *more, "--results", results, "--json").json["path"])
        for more in ((), ("--epsilon", "8/255"))
    )
    shutil.rmtree(first)
    shutil.copytree(other, first)
    message = refused(65, results, *words)
    assert f"{first}: expected the poison of that id, got {other.name}" in message


def test_a_surrogate_of_another_network_says_what_to_delete(tiny, stocked):
    from safetensors.torch import load_file, save_file

    (path,) = (stocked / "models").iterdir()
    weights = load_file(path)
    words = ("craft", "--attack", "pgd", "--dataset", tiny, "--steps", "2")
    weights["head.bias"] = weights["head.bias"][:2]
    save_file(weights, path)
    message = last_line(65, stocked, *words)
    assert f"{path}: expected a surrogate model" in message
    assert "size mismatch" in message
    assert "delete it to train it again" in message


def test_damaged_record(tiny, results):
    words = ("defend", "--method", "none", "--clean", "--dataset", tiny, "--epochs", "1")
    path = Path(done(*words, "--results", results, "--json").json["path"])
    text = path.read_text()
    for broken, fragment in (
        (text[:50], "expected a run record in JSON"),
        (text.replace('"epochs": 1', '"epochs": 2'), "the file was edited, delete it"),
        (text.replace('"schema": 2', '"schema": 0'), "expected a run record of schema 2, got 0"),
    ):
        assert broken != text
        path.write_text(broken)
        assert fragment in refused(65, results, *words)
        assert fragment in refused(65, results, "inspect", path)
        for quiet in ((), ("--quiet",)):
            report = done("report", "--results", results, *quiet)
            assert f"warning: left out: {path}" in report.err
