"""The command ``poisonbench figure``: its numbers against direct computation, and its errors."""

import base64
import io
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from helpers.command_line import cli, done, files_in
from helpers.synthetic_runs import make_record
from poisonbench.core.canonical import spec_id
from poisonbench.data.artefacts import read_poison
from poisonbench.data.sources import load_dataset
from poisonbench.defenses import hint
from poisonbench.figures.sensitivity_curves import sensitivity
from poisonbench.influence import head
from poisonbench.influence.inverse_hessian import HeadHessian, conjugate_gradient
from poisonbench.models import build_model
from poisonbench.training import recipe

EARLY = ("--schedule", "1", "--epochs", "2")


@pytest.fixture(scope="module", autouse=True)
def short_recipes():
    """The paper's settings with three epochs, not thirty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recipe.RECIPE_PRESETS["paper"]["mnist"], "epochs", 3)
        patch.setitem(hint.PROFILES["paper"]["mnist"], "schedule", (1,))
        yield


def model_of(path, data):
    model = build_model(
        "mnist-cnn", data.image_shape, 4, data.mean, data.std, torch.Generator().manual_seed(5)
    )
    model.load_state_dict(load_file(path))
    return model.eval().requires_grad_(False)


# Figure 1


@pytest.fixture(scope="module")
def first(tiny, tmp_path_factory):
    """Figure 1 with its control, and the folder of results."""
    results = tmp_path_factory.mktemp("figure") / "results"
    words = ("1", "--wrong-label", "--attack", "durp", "--rho", "0.5", *EARLY)
    outcome = done("figure", *words, "--dataset", tiny, "--results", results)
    return outcome, results, words


@pytest.fixture(scope="module")
def numbers(first):
    return json.loads((first[1] / "figures" / "figure-1.json").read_text())


@pytest.fixture(scope="module")
def naive(first, numbers, tiny):
    """The same noise, an image at a time, with the model that the figure kept."""
    _, results, _ = first
    data = load_dataset(tiny, Path(), 0)
    poisons = [read_poison(path, data) for path in (results / "poisons").iterdir()]
    (poison,) = (p for p in poisons if p.digest == numbers["poison"]["digest"])
    train, validation = poison.apply(data.train), data.validation
    model = model_of(results / "models" / f"{spec_id(numbers['model']['spec'])}.safetensors", data)
    weights = head.head_weights(model)
    inputs = head.embed_all(model, train.images)
    probabilities = (inputs @ weights.T).softmax(1)
    trusted = head.embed_all(model, validation.images)
    residual = head.residuals((trusted @ weights.T).softmax(1), validation.labels)
    direction = conjugate_gradient(
        HeadHessian(inputs, probabilities), head.mean_gradient(trusted, residual), damping=0.5
    ).vector
    scores = head.upweight_influence(inputs, head.residuals(probabilities, train.labels), direction)
    rows = hint.select(scores, len(train), 0.5)

    def noise(row, label):
        image = train.images[row : row + 1].float() / 255
        influence = head.pixel_influence(model, image, torch.tensor([label]), direction)
        step = (-0.1 * influence).clamp(-16 / 255, 16 / 255)
        return (image + step).clamp(0, 1) - image

    return data, train, poison, model, rows, noise


def levels_of(png):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png)))).astype(float)


def test_the_figure_is_hints_first_round(first, numbers, tiny):
    """The figures of the round equal those that a run of the defense records."""
    _, results, _ = first
    words = ("--attack", "durp", "--rho", "0.5", *EARLY, "--dataset", tiny, "--results", results)
    record = json.loads(
        Path(done("defend", "--method", "hint", *words, "--json").json["path"]).read_text()
    )
    assert record["notes"] == [{"epoch": 1, **numbers["round"]}]
    assert record["spec"]["poison"]["digest"] == numbers["poison"]["digest"]


def test_the_noise_and_the_answers_equal_a_naive_loop(numbers, naive):
    data, train, poison, model, rows, noise = naive
    owners = dict(zip(poison.indices.tolist(), poison.sources.tolist(), strict=True))
    assert len(numbers["images"]) == 4
    for image in numbers["images"]:
        row, label = image["row"], int(train.labels[image["row"]])
        assert row in rows
        assert image["label"] == data.class_names[label]
        assert image["poisoned_by"] == ("durp" if row in owners else None)
        before = model(train.images[row : row + 1].float() / 255).softmax(1)[0]
        check_answer(image["before"], before, label)
        for name in ("healthy", "wrong_label"):
            made_with = int(image[name]["noise_made_with"])
            assert (made_with == label) is (name == "healthy")
            delta = noise(row, made_with)
            assert image[name]["max_abs_noise"] == pytest.approx(float(delta.abs().max()), rel=1e-3)
            assert image[name]["mean_abs_noise"] == pytest.approx(
                float(delta.abs().mean()), rel=1e-3
            )
            shown = image[name]["shown_times"] * float(delta.abs().max())
            assert shown == pytest.approx(0.5, rel=0.06)
            noisy = train.images[row : row + 1].float() / 255 + delta
            check_answer(image[name]["after"], model(noisy).softmax(1)[0], label)
            # What the page shows of it is it, to a grey level.
            levels = 255 * (image[name]["shown_times"] * delta[0, 0] + 0.5).clamp(0, 1)
            assert np.abs(levels_of(image[name]["png"]) - levels.numpy()).max() < 1.6
            difference = levels_of(image[name]["noisy_png"]) - 255 * noisy[0, 0].numpy()
            assert np.abs(difference).max() < 1.1
        assert np.array_equal(levels_of(image["png"]), train.images[row, 0].numpy())


def check_answer(answer, probabilities, label):
    assert answer["class"] == str(int(probabilities.argmax()))
    assert answer["confidence"] == pytest.approx(float(probabilities.max()), abs=1e-4)
    assert answer["true_confidence"] == pytest.approx(float(probabilities[label]), abs=1e-4)
    assert answer["is_right"] is (int(probabilities.argmax()) == label)


def test_clean_and_poisoned_images_half_and_half_wrong_ones_first(numbers, naive):
    _, train, poison, model, rows, _ = naive
    kinds = [image["poisoned_by"] for image in numbers["images"]]
    assert kinds == [None, None, "durp", "durp"]
    is_poison = torch.isin(rows, poison.indices)
    wrong = model(train.images[rows].float() / 255).argmax(1) != train.labels[rows]
    for poisoned in (False, True):
        shown = [i for i in numbers["images"] if bool(i["poisoned_by"]) is poisoned]
        available = int(wrong[is_poison == poisoned].sum())
        assert sum(not i["before"]["is_right"] for i in shown) == min(2, available)


def test_the_summary_is_over_all_selected_images(numbers, naive):
    _, train, _, model, rows, noise = naive
    labels = train.labels[rows]
    images = train.images[rows].float() / 255
    moved = torch.cat([noise(row, int(train.labels[row])) for row in rows.tolist()])
    before, after = model(images).softmax(1), model(images + moved).softmax(1)
    summary = numbers["all_selected"]["all"]
    assert summary["images"] == len(rows) == 135
    assert summary["right_before"] == pytest.approx(
        float((before.argmax(1) == labels).float().mean())
    )
    right = float((after.argmax(1) == labels).float().mean())
    assert summary["healthy"]["right_after"] == pytest.approx(right, abs=1 / 135)
    true = after.gather(1, labels[:, None]).mean()
    assert summary["healthy"]["mean_true_confidence_after"] == pytest.approx(float(true), abs=1e-5)
    rises = after.gather(1, labels[:, None]) > before.gather(1, labels[:, None])
    assert summary["healthy"]["true_confidence_rises"] == pytest.approx(
        float(rises.float().mean()), abs=2 / 135
    )
    groups = numbers["all_selected"]
    assert groups["clean"]["images"] + groups["poisoned"]["images"] == 135


def test_the_wrong_label_makes_another_noise(numbers):
    for image in numbers["images"]:
        healthy, control = image["healthy"], image["wrong_label"]
        assert healthy["max_abs_noise"] != control["max_abs_noise"]
        assert healthy["after"]["true_confidence"] != control["after"]["true_confidence"]


def test_the_same_figure_has_the_same_bytes_and_says_where_it_lies(first, tiny, tmp_path):
    outcome, results, words = first
    folder = results / "figures"
    names = ["figure-1.png", "figure-1.svg", "figure-1.json"]
    assert outcome.out.splitlines() == [str(folder / name) for name in names]
    again = done(
        # The figure's name may stand anywhere after --figure, too.
        *("figure", *words[1:], "--dataset", tiny, "--figure", words[0], "--results", results),
        *("--out", tmp_path / "a", "--json", "--quiet"),
    )
    assert again.err == ""
    assert again.json["paths"] == [str(tmp_path / "a" / name) for name in names]
    assert again.json["numbers"] == json.loads((folder / names[2]).read_text())
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (folder / name).read_bytes()
    svg = (folder / names[1]).read_text()
    for text in ("durp at rho 0.5", "r = 0.5", "wrong label", "shown \u00d7"):
        assert text in svg


def test_figure_1_without_control_poison_or_clean_images(first, tiny):
    results = first[1]
    words = ("figure", "1", *EARLY, "--dataset", tiny, "--results", results, "--json")
    clean = done(*words, "--rho", "0", "--images", "3").json["numbers"]
    assert [image["poisoned_by"] for image in clean["images"]] == [None] * 3
    assert set(clean["all_selected"]) == {"all", "clean"}
    assert "wrong_label" not in clean["images"][0]
    full = done(*words, "--attack", "durp", "--rho", "1", "--images", "2", "--gamma", "20").json
    assert [image["poisoned_by"] for image in full["numbers"]["images"]] == ["durp"] * 2
    assert full["numbers"]["config"]["gamma"] == 20
    assert full["numbers"]["round"]["max_abs_noise"] == pytest.approx(16 / 255, abs=1e-6)


def test_figure_1_of_attacks_with_a_ratio_of_their_own(tiny, results, short_targeted):
    words = ("figure", "1", *EARLY, "--dataset", tiny, "--results", results, "--json", "--attack")
    for attack, trial, rho in (("gm", 1, 0.01), ("badnets", 0, 0.1)):
        numbers = done(*words, attack, "--trial", trial).json["numbers"]
        assert numbers["poison"]["attacks"] == [attack]
        # Whole images: no fewer than the share.
        assert rho <= numbers["poison"]["rho"] < rho + 1 / 270
        assert {image["poisoned_by"] for image in numbers["images"]} <= {attack, None}


# Figure 2


@pytest.fixture(scope="module")
def second(tiny, tmp_path_factory):
    """Figure 2 of two defenses, made from nothing, and the words that made it."""
    results = tmp_path_factory.mktemp("figure") / "results"
    words = ("figure", "2", "--attack", "durp", "--dataset", tiny, "--results", results)
    outcome = done(*words, "--methods", "none,hint", "--make", "--json")
    return outcome.json["numbers"], results, words


def test_the_answers_equal_the_kept_models(second, tiny):
    numbers, results, _ = second
    data = load_dataset(tiny, Path(), 0)
    assert list(numbers["runs"]) == ["HINT", "W/o Defense"]
    models = {}
    for name, run in numbers["runs"].items():
        models[name] = model_of(results / "models" / f"{run['id']}.safetensors", data)
        record = json.loads((results / "runs" / f"{run['id']}.json").read_text())
        assert record["metrics"]["test_accuracy"] == run["test_accuracy"]
    classes = {
        name: model(data.test.images.float() / 255).argmax(1) for name, model in models.items()
    }
    apart = classes["HINT"] != classes["W/o Defense"]
    assert numbers["images_with_disagreement"] == int(apart.sum())
    assert len({image["row"] for image in numbers["images"]}) == 5
    shown = [bool(apart[image["row"]]) for image in numbers["images"]]
    assert shown == sorted(shown, reverse=True)
    assert sum(shown) == min(5, int(apart.sum()))
    for image in numbers["images"]:
        row = image["row"]
        for name, model in models.items():
            one = model(data.test.images[row : row + 1].float() / 255).softmax(1)[0]
            check_answer(image["answers"][name], one, int(data.test.labels[row]))


def test_the_kept_models_give_the_same_bytes_without_make(second, tmp_path):
    _, results, words = second
    outcome = done(*words, "--methods", "none,hint", "--out", tmp_path)
    for path in map(Path, outcome.out.split()):
        assert path.read_bytes() == (results / "figures" / path.name).read_bytes()
    svg = (tmp_path / "figure-2.svg").read_text()
    for text in ("durp at rho 0.6", "W/o Defense", "HINT", "test image", "accuracy on all"):
        assert text in svg


def test_what_has_no_model_is_left_out_and_said(second):
    _, _, words = second
    outcome = done(*words, "--pick", "random", "--images", "2", "--json")
    assert set(outcome.json["numbers"]["runs"]) == {"HINT", "W/o Defense"}
    assert len(outcome.json["numbers"]["images"]) == 2
    assert set(outcome.json["numbers"]["missing"]) == {"epic", "atda", "friends"}
    for method in ("epic", "atda", "friends"):
        assert f"left out: {method} has no model" in outcome.err


@pytest.mark.parametrize("more", [("none,robust-features",), ("none,clean-only", "--rho", "1")])
def test_nothing_is_trained_when_one_of_the_methods_cannot_be(tiny, results, more):
    words = ("2", "--attack", "durp", "--dataset", tiny, "--make", "--methods")
    outcome = cli("figure", *words, *more, "--results", results)
    assert outcome.code == 2
    assert files_in(results) == []


@pytest.mark.parametrize(
    "poison", [("--rho", "0"), ("--attack", "gm", "--trial", "1"), ("--attack", "badnets")]
)
def test_the_command_that_is_named_makes_what_is_missing(poison, tiny, results, short_targeted):
    words = ("figure", "2", *poison, "--dataset", tiny, "--results", results)
    refused = cli(*words, "--methods", "none")
    assert (refused.code, refused.out) == (65, "")
    (command,) = re.findall(r"`(poisonbench .*?)`", refused.err)
    program, *rest = shlex.split(command)
    assert program == "poisonbench"
    run = done(*rest, "--json").json["id"]
    numbers = done(*words, "--methods", "none", "--json").json["numbers"]
    assert numbers["runs"]["W/o Defense"]["id"] == run


def test_named_runs_of_other_settings(tiny, results):
    words = ("--dataset", tiny, "--results", results, "--json")
    ids = [
        done("defend", "--method", "none", *words, *more, "--epochs", "1", "--save-model").json[
            "id"
        ]
        for more in (("--clean",), ("--attack", "durp"))
    ]
    figure = done("figure", "2", "--runs", ",".join(ids), *words).json["numbers"]
    assert [run["id"] for _, run in sorted(figure["runs"].items())] == sorted(ids)
    assert set(figure["runs"]) == {f"W/o Defense {run}" for run in ids}
    svg = (results / "figures" / "figure-2.svg").read_text()
    assert "clean; durp at rho 0.6" in svg
    assert "Other settings than the paper" in svg
    other = cli(
        "figure",
        "2",
        "--runs",
        ids[0],
        "--results",
        results,
        "--seed",
        "1",
        "--dataset",
        tiny,
    )
    assert other.code == 65
    assert "choose its own --dataset and --seed 0" in other.err
    (results / "models" / f"{ids[0]}.safetensors").write_bytes(b"junk")
    damaged = cli("figure", "2", "--runs", ids[0], *words)
    assert damaged.code == 65
    assert "expected a trained model" in damaged.err
    (results / "models" / f"{ids[0]}.safetensors").unlink()
    gone = cli("figure", "2", "--runs", ids[0], *words)
    assert gone.code == 65
    assert "again with --save-model" in gone.err


# Sensitivity


def test_sensitivity_takes_the_runs_of_each_point(tmp_path):
    records = [
        make_record(0.97 + 0.001 * trial, method="hint", rho=0.6, trial=trial) for trial in range(3)
    ]
    changed = {"variant": "custom", "overrides": {"ratio": 0.25}}
    records += [make_record(0.96, method="hint", rho=0.6, labels=changed, config={"ratio": 0.25})]
    changed = {"variant": "custom", "overrides": {"beta": 8 / 255}}
    records += [make_record(0.95, method="hint", rho=0.6, labels=changed, config={"beta": 8})]
    points = sensitivity(records, "mnist").numbers["points"]
    by_value = {(point["parameter"], round(point["value"], 3)): point for point in points}
    assert len(points) == 8
    for key in (("ratio", 0.5), ("beta", 0.063)):
        assert by_value[key]["measured"] == {"mean": pytest.approx(0.971), "n": 3}
        assert by_value[key]["low"] < 0.971 < by_value[key]["high"]
        assert by_value[key]["published"]["mean"] == 0.9687
    assert by_value["ratio", 0.25]["measured"] == {"mean": 0.96, "n": 1}
    assert by_value["ratio", 0.25]["low"] is None
    assert by_value["beta", 0.031]["measured"] == {"mean": 0.95, "n": 1}
    assert by_value["ratio", 1.0]["measured"] is None
    assert by_value["ratio", 1.0]["records"] == []


def test_sensitivity_of_no_runs_shows_what_was_published(results):
    results.mkdir()
    outcome = done("figure", "sensitivity", "--dataset", "mnist", "--results", results)
    assert "8 of 8 points have no run" in outcome.err
    assert [Path(line).name for line in outcome.out.splitlines()] == [
        "sensitivity.png",
        "sensitivity.svg",
        "sensitivity.json",
    ]
    svg = (results / "figures" / "sensitivity.svg").read_text()
    assert ">published<" in svg
    assert ">measured<" not in svg
