"""``poisonbench assess`` from a folder of images to sentences and a page."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.command_line import done, files_in, last_line, records_of, refused
from poisonbench.cli.assess import _smaller
from poisonbench.runs import training_choice
from poisonbench.tables.assessment_plan import Matrix

OPTIONS = ("--attacks", "lsp", "--methods", "none", "--trials", "1", "--jobs", "1")


@pytest.fixture
def folder(tmp_path):
    """Grey images of 16 x 16 pixels, three classes, told by the place of a bright bar."""
    random = np.random.default_rng(0)
    for part, count in (("train", 14), ("test", 4)):
        for label, name in enumerate(("ant", "bee", "cat")):
            place = tmp_path / "insects" / part / name
            place.mkdir(parents=True)
            for number in range(count):
                image = random.integers(0, 120, (16, 16))
                image[5 * label : 5 * label + 5] += 100
                Image.fromarray(image.astype(np.uint8)).save(place / f"{number}.png")
    return f"folder:{tmp_path / 'insects'}"


@pytest.fixture
def short(monkeypatch):
    """Candidates of one and two epochs, which their runs, in other processes, have by name."""
    monkeypatch.setattr(training_choice, "lengths", lambda images: (1, 2))
    monkeypatch.setattr(training_choice, "networks_for", lambda channels: ("mnist-cnn-small",))
    monkeypatch.setattr(training_choice, "_REPEATS", 1)


def test_a_folder_becomes_a_page_and_five_sentences(folder, short, tmp_path, results):
    page = tmp_path / "page.html"
    words = ("assess", "--dataset", folder, "--results", results, "--output", page, *OPTIONS)
    first = done(*words)
    *sentences, last = first.out.splitlines()
    assert last == str(page)
    assert len(sentences) == 5
    assert "by LSP, plain training gets" in sentences[0]
    assert "1 trial and 12 test images" in sentences[4]
    assert "planned run" not in sentences[4]
    assert "no test image was looked at" in first.err
    assert "<html" in page.read_text()
    (clean, noise, attacked) = sorted(
        records_of(results), key=lambda run: run.spec.poison.attacks if run.spec.poison else []
    )[:3]
    assert clean.spec.poison is None
    assert (noise.spec.rho, attacked.spec.rho) == (1.0, 1.0)
    assert {run.spec.dataset.name for run in records_of(results)} == {"folder"}
    # Nothing is chosen or run again.
    before = files_in(results)
    again = done(*words, "--json").json
    assert files_in(results) == before
    assert again["sentences"] == sentences
    assert (again["epochs"], again["trials"], again["attacks"]) in [
        (epochs, 1, ["lsp"]) for epochs in (1, 2)
    ]
    dry = done(*words, "--dry-run", "--json").json
    assert dry["jobs_left"] == 0
    assert dry["plan"] == again["plan"]
    # The same images elsewhere are the same runs.
    moved = folder.replace("insects", "beetles")
    Path(folder.removeprefix("folder:")).rename(moved.removeprefix("folder:"))
    there = done(*(moved if word == folder else word for word in words), "--json").json
    assert [path for path in files_in(results) if path.parts[0] == "runs"] == [
        path for path in before if path.parts[0] == "runs"
    ]
    assert there["sentences"] == sentences
    Path(moved.removeprefix("folder:")).rename(folder.removeprefix("folder:"))
    # Tables name the data, and take it as it is written.
    table = done("report", "--table", "matrix", "--dataset", folder, "--results", results).out
    assert f"folder:insects (mnist-cnn-small, {again['epochs']} epochs): test accuracy" in table


def test_what_does_not_fit_is_said_before_anything_runs(folder, short, results, tmp_path):
    words = ("assess", "--dataset", folder, "--dry-run", "--jobs", "1", "--methods", "none")
    # Of 12 images a class 2 are poisons; of 8 in all none is.
    plan = done(*words, "--attacks", "gm", "--trials", "1", "--results", results)
    assert "left out" not in plan.err
    assert "2 candidates" in plan.out
    assert "side by side" in plan.out
    assert not results.exists()
    for part in ("ant", "bee", "cat"):
        for path in sorted((tmp_path / "insects/train" / part).iterdir())[3:]:
            path.unlink()
    short_of_images = done(*words, "--attacks", "lsp,gm", "--results", results)
    assert "note: gm is left out: it would poison 0 images" in short_of_images.err
    assert "attacks lsp and controls" in short_of_images.out
    message = last_line(2, results, *words, "--attacks", "gm")
    assert "expected one that fits the images" in message
    message = last_line(2, results, *words, "--attacks", "lsp", "--minutes", "-1")
    assert "--minutes: expected over 0" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--dataset", "folder:nowhere"), "one folder of images a class, found none"),
        (("--dataset", "photos"), "expected a data set among"),
        (("--attacks", "pdg"), "did you mean 'pgd'"),
        (("--methods", "jpg"), "did you mean 'jpeg'"),
        (("--attacks", ","), "--attacks: expected names"),
    ],
)
def test_bad_input_is_refused(folder, results, words, message):
    given = words if "--dataset" in words else ("--dataset", folder, *words)
    code = 65 if "nowhere" in words[1] else 2
    assert message in refused(code, results, "assess", *given)


def test_a_matrix_is_cut_by_trials_first_and_keeps_one_attack_and_one_defense():
    matrix = Matrix(
        dataset="folder@quick:a", attacks=("pgd", "lsp"), methods=("none", "jpeg", "hint"), trials=2
    )
    cuts = [(len(m.attacks), m.methods, m.trials) for m in _smaller(matrix)]
    assert cuts == [
        (2, ("none", "jpeg", "hint"), 2),
        (2, ("none", "jpeg", "hint"), 1),
        (2, ("none", "jpeg"), 1),
        (1, ("none", "jpeg"), 1),
    ]
