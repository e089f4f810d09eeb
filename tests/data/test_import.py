"""Published poison sets: what is read, what is refused without being run, and the way on."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.command_line import SHORT, done, refused
from poisonbench.data.artefacts import read_poison
from poisonbench.data.poison_sets import STDS
from poisonbench.data.sources import load_dataset
from poisonbench.specs import ImportSpec

SIDE, TRAIN, TEST = 10, 200, 40
TARGET, INTENDED = 5, 2


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Colour images of four classes, with the arrays they came from."""
    random = np.random.default_rng(3)
    arrays = {}
    for part, size in (("train", TRAIN), ("test", TEST)):
        labels = random.permutation(np.arange(size) % 4)
        arrays[f"x_{part}"] = random.integers(0, 256, (size, SIDE, SIDE, 3), dtype=np.uint8)
        arrays[f"y_{part}"] = labels
    # A target of another class than the intended one.
    arrays["y_test"][TARGET] = 1
    path = tmp_path_factory.mktemp("data") / "colour.npz"
    np.savez(path, **arrays)
    return f"npz:{path}", arrays


@pytest.fixture(scope="module")
def dataset(data):
    return load_dataset(data[0], Path("."), 0)


def bases(arrays, dataset, count=6, held_out=0):
    """Original numbers of images of the intended class, some of them in our validation split."""
    members = np.flatnonzero(arrays["y_train"] == INTENDED)
    inside = np.isin(members, dataset.train_rows.numpy())
    chosen = np.concatenate([members[inside][:count], members[~inside][:held_out]])
    return np.random.default_rng(0).permutation(chosen)


def changed(arrays, rows, budget=8):
    delta = np.random.default_rng(1).integers(-budget, budget + 1, (len(rows), SIDE, SIDE, 3))
    delta[:, 0, 0] = budget
    return np.clip(arrays["x_train"][rows] + delta, 0, 255)


def write(path, value, protocol=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def write_benchmark(folder, arrays, rows, images, label=INTENDED, protocol=4):
    pictures = [Image.fromarray(image.astype(np.uint8)) for image in images]
    write(folder / "poisons.pickle", [(picture, label) for picture in pictures], protocol)
    write(folder / "base_indices.pickle", rows, protocol)
    target = (Image.fromarray(arrays["x_test"][TARGET]), int(arrays["y_test"][TARGET]))
    write(folder / "target.pickle", target, protocol)
    return folder


def write_matching(path, arrays, ids, rows, images, std, protocol=4):
    delta = (images - arrays["x_train"][rows]).transpose(0, 3, 1, 2) / 255
    scale = np.array(STDS[std])[None, :, None, None]
    target = (torch.rand(3, SIDE, SIDE, generator=torch.Generator()), 1, TARGET)
    content = {
        "poison_ids": torch.tensor(ids),
        "poison_delta": torch.tensor(delta / scale, dtype=torch.float32),
        "poison_setup": {"poison_class": INTENDED, "intended_class": [INTENDED]},
        "target_images": [target],
    }
    return write(path, content, protocol)


def write_metapoison(path, arrays, rows, images, kind=np.float32, protocol=4, **changes):
    poisoned = arrays["x_train"].astype(kind)
    poisoned[rows] = images
    order = np.argsort(arrays["y_train"], kind="stable")
    content = {
        "xtrain": poisoned[order],
        "ytrain": arrays["y_train"][order],
        "xtarget": arrays["x_test"][TARGET : TARGET + 1].astype(kind),
        "ytarget": np.array([1]),
        "ytargetadv": np.array([INTENDED]),
        "xvalid": arrays["x_test"].astype(kind),
        "yvalid": arrays["y_test"],
    }
    return write(path, content | changes, protocol)


def imported(path, form, data, results, dataset, *words):
    outcome = done(
        *("import", path, "--format", form, "--dataset", data[0], "--results", results, *words)
    )
    return read_poison(Path(outcome.out.strip()), dataset), outcome.err


def in_our_rows(dataset, rows, images):
    """By row: what the artefact must hold."""
    place = {int(own): row for row, own in enumerate(dataset.train_rows)}
    return {
        place[row]: image for row, image in zip(rows.tolist(), images, strict=True) if row in place
    }


def assert_holds(poison, expected):
    assert poison.indices.tolist() == sorted(expected)
    for row, image in zip(poison.indices.tolist(), poison.images, strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), expected[row])


# The three formats


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_benchmark_set_lands_in_our_rows(protocol, data, dataset, tmp_path, results):
    arrays = data[1]
    rows = bases(arrays, dataset, held_out=2)
    images = changed(arrays, rows)
    folder = write_benchmark(tmp_path / "set", arrays, rows.tolist(), images, protocol=protocol)
    poison, remarks = imported(folder, "benchmark", data, results, dataset)
    assert_holds(poison, in_our_rows(dataset, rows, images))
    assert len(poison) == 6
    assert "left out 2 of 8" in remarks
    assert poison.card.levels == 8
    assert poison.goal.target == TARGET
    assert (poison.goal.target_class, poison.goal.intended_class) == (1, INTENDED)
    assert poison.goal.poison_class == INTENDED
    assert isinstance(poison.card.spec, ImportSpec)


@pytest.mark.parametrize("std", ["hint", "pgm"])
@pytest.mark.parametrize("ids", ["hint", "original"])
def test_deltas_are_scaled_and_ids_found(std, ids, data, dataset, tmp_path, results):
    arrays = data[1]
    rows = bases(arrays, dataset, held_out=1)
    images = changed(arrays, rows, budget=16)
    numbers = rows.tolist()
    if ids == "hint":
        order = torch.randperm(TRAIN, generator=torch.Generator().manual_seed(1)).tolist()
        numbers = [order.index(row) for row in numbers]
    path = write_matching(tmp_path / "gm.pkl", arrays, numbers, rows, images, std)
    words = ("--std", std, "--ids", ids, "--attack", "gm", "--scenario", "transfer")
    poison, _ = imported(path, "gradient-matching", data, results, dataset, *words)
    assert_holds(poison, in_our_rows(dataset, rows, images))
    assert poison.card.attacks == ["gm"]
    assert poison.goal.scenario == "transfer"


def test_the_wrong_standard_deviation_shrinks_the_deltas(data, dataset, tmp_path, results):
    arrays = data[1]
    rows = bases(arrays, dataset)
    images = np.clip(arrays["x_train"][rows].astype(int) + 16, 0, 255)
    path = write_matching(tmp_path / "gm.pkl", arrays, rows.tolist(), rows, images, "pgm")
    words = ("--std", "hint", "--ids", "original")
    poison, _ = imported(path, "gradient-matching", data, results, dataset, *words)
    assert poison.card.levels == 13


@pytest.mark.parametrize("kind", [np.float32, ">f8"])
def test_metapoison_is_found_by_its_images_and_does_not_wrap(
    kind, data, dataset, tmp_path, results
):
    arrays = data[1]
    rows = bases(arrays, dataset, held_out=1)
    images = changed(arrays, rows).astype(np.float64) + 0.25
    images[images < 3] -= 5
    images[images > 252] += 5
    path = write_metapoison(tmp_path / "mp.pkl", arrays, rows, images, kind)
    poison, remarks = imported(path, "metapoison", data, results, dataset)
    expected = np.floor(images + 0.5).clip(0, 255).astype(np.uint8)
    assert_holds(poison, in_our_rows(dataset, rows, expected))
    assert "left out 1 of 7" in remarks
    assert poison.goal.target == TARGET


def test_an_artefact_written_as_a_benchmark_set_comes_back(tiny, tmp_path, results):
    """Crafted here, written in the benchmark's format, read again, and defended against."""
    dataset = load_dataset(tiny, Path("."), 0)
    shared = ("--dataset", tiny, "--results", results)
    short = ("--steps", "2", "--epochs", "1", "--restarts", "1", "--target", "5")
    goal = ("--intended-class", "2", "--scenario", "scratch")
    crafted = done("craft", "--attack", "fc", "--rho", "0.02", *shared, *short, *goal).out.strip()
    before = read_poison(Path(crafted), dataset)
    rows = dataset.train_rows[before.indices].numpy()
    with np.load(tiny.partition(":")[2]) as arrays:
        given = {"x_test": arrays["x_test"], "y_test": arrays["y_test"]}
    folder = write_benchmark(tmp_path / "set", given, rows, before.images[:, 0].numpy())
    line = ("import", folder, "--format", "benchmark", *shared)
    path = done(*line).out.strip()
    after = read_poison(Path(path), dataset)
    assert after.digest == before.digest
    assert after.goal == before.goal
    assert "made before" in done(*line).err
    assert done(*line, "--json").json["path"] == path
    record = done("defend", "--method", "hint", *shared, "--poison", path, *SHORT, "--json").json
    assert record["attack_success"] in (True, False)


# What is refused

SETS = "import SET --format benchmark --dataset DATA "


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (lambda a, r, i: (r + 1000, i, INTENDED), "base images among"),
        (lambda a, r, i: (r, i, 3), "base image's label"),
        (lambda a, r, i: (np.roll(r, 1), i, INTENDED), "96 grey levels"),
        (lambda a, r, i: (np.full_like(r, r[0]), i, INTENDED), "another base image"),
        (lambda a, r, i: (r[:-1], i, INTENDED), "as many base images"),
        (lambda a, r, i: (-r, i, INTENDED), "from 0 on"),
        (lambda a, r, i: (r.astype(float), i, INTENDED), "whole numbers"),
        (lambda a, r, i: (r, i[:, :4], INTENDED), "of shape (N, 10, 10, 3)"),
    ],
)
def test_a_set_of_something_else_is_refused(change, fragment, data, dataset, tmp_path, results):
    arrays = data[1]
    rows = bases(arrays, dataset)
    given = change(arrays, rows, changed(arrays, rows))
    folder = write_benchmark(tmp_path / "set", arrays, *given)
    line = ("import", folder, "--format", "benchmark", "--dataset", data[0])
    assert fragment in refused(65, results, *line)


@pytest.mark.parametrize(
    ("field", "value", "fragment"),
    [
        ("ytargetadv", 57, "intended class in 0..3"),
        ("ytargetadv", -1, "intended class in 0..3"),
        ("ytargetadv", "own", "not the target's own"),
        ("ytargetadv", [], "one whole number"),
        ("ytarget", [], "one whole number"),
        ("ytarget", [1, 2], "one whole number"),
    ],
)
def test_a_goal_that_could_not_be_read_again_is_refused(
    field, value, fragment, data, dataset, tmp_path, results
):
    arrays = data[1]
    rows = bases(arrays, dataset)
    images = changed(arrays, rows).astype(np.float64)
    change = {field: np.array([1] if value == "own" else value, np.int64)}
    path = write_metapoison(tmp_path / "mp.pkl", arrays, rows, images, **change)
    line = ("import", path, "--format", "metapoison", "--dataset", data[0])
    assert fragment in refused(65, results, *line)
    assert not (results / "poisons").exists()


def test_a_budget_is_held(data, dataset, tmp_path, results):
    arrays = data[1]
    rows = bases(arrays, dataset)
    folder = write_benchmark(tmp_path / "set", arrays, rows, changed(arrays, rows, 9))
    line = ("import", folder, "--format", "benchmark", "--dataset", data[0])
    assert "at most 8 grey levels, got 9" in refused(65, results, *line, "--epsilon", "8/255")
    done(*line, "--epsilon", "9/255", "--results", results)


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (("--format", "gradient-matching"), "--std: expected hint or pgm"),
        (("--format", "benchmark", "--std", "pgm"), "leave it out"),
        (("--format", "metapoisn"), "did you mean 'metapoison'"),
        (("--format", "benchmark", "--scenario", "scrach"), "did you mean 'scratch'"),
        (("--format", "benchmark", "--epsilon", "2"), "[0, 1]"),
    ],
)
def test_usage(words, fragment, data, tmp_path, results):
    file = write(tmp_path / "any.pkl", {})
    assert fragment in refused(2, results, "import", file, "--dataset", data[0], *words)


def test_a_file_that_is_not_there_is_named_before_the_data_is_read(tmp_path, results):
    words = ("--format", "metapoison", "--dataset", "npz:nowhere.npz")
    assert "nothing.pkl: expected a file" in refused(65, results, "import", "nothing.pkl", *words)
