"""``poisonbench figure 3`` and ``4``: synthetic runs, the embedded images."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from helpers.command_line import cli, done, files_in
from helpers.synthetic_runs import INTENDED, OWN, changed, run_on, write
from poisonbench.data.sources import load_dataset
from poisonbench.figures.target_predictions import target_predictions
from poisonbench.tables.cells import TARGETED_SAMPLE

THIRD = 7


@pytest.fixture(scope="module")
def data():
    return load_dataset(TARGETED_SAMPLE, Path(), 0)


@pytest.fixture
def runs(data):
    """Trial 2 has no run of HINT; two records are from before confidences were kept."""
    return {
        "none": [run_on(data, INTENDED, trial=t, confidence=t > 0) for t in range(4)],
        "hint": [
            run_on(data, OWN, trial=0, method="hint"),
            run_on(data, THIRD, trial=1, method="hint", confidence=False),
            run_on(data, INTENDED, trial=3, method="hint"),
        ],
    }


def test_targets_and_what_each_defense_says_of_them(data, runs):
    figure = target_predictions("3", data, "mp", "finetune", runs, images=4)
    numbers = figure.numbers
    assert [target["trial"] for target in numbers["targets"]] == [0, 1, 3, 2]
    assert numbers["defenses"]["W/o Defense"] == {"method": "none", "hits": 4, "trials": 4}
    assert numbers["defenses"]["HINT"] == {"method": "hint", "hits": 1, "trials": 3}
    first, second, _, last = numbers["targets"]
    assert (first["class"], first["intended"]) == ("4", "9")
    assert first["answers"]["HINT"] == {
        "run": runs["hint"][0].id,
        **{"class": "4", "confidence": 0.5, "is_hit": False},
        **{"own_confidence": 0.25, "intended_confidence": 0.125},
    }
    # The old records: the intended class's confidence is known, a third class's is not.
    assert first["answers"]["W/o Defense"]["confidence"] == 0.125
    assert second["answers"]["HINT"]["confidence"] is None
    assert list(last["answers"]) == ["W/o Defense"]

    grid = figure.picture
    assert grid.columns == ["trial 0", "trial 1", "trial 3", "trial 2"]
    assert grid.rows == ["", "W/o Defense\n(4/4 hit)", "HINT\n(1/3 hit)"]
    assert grid.title == "Targets of MP: mnist-sample@1000, finetune"
    images, _, hint = grid.tiles
    for tile, target in zip(images, numbers["targets"], strict=True):
        expected = data.test.images[target["row"], 0].numpy() / 255
        assert np.allclose(tile.pixels, expected)
        assert tile.text == "A: 4\nI: 9"
    answers = [(tile.text, tile.is_right) for tile in hint]
    assert answers == [("4  50.0 %", True), ("7", True), ("9  50.0 %", False), ("no run", None)]


def test_images_are_as_many_as_wanted(data, runs):
    assert (
        len(target_predictions("3", data, "mp", "finetune", runs, images=2).numbers["targets"]) == 2
    )


def test_the_command_takes_the_tables_runs(data, runs, results):
    """Not those of other settings, of another attack or of other images."""
    strangers = [
        run_on(data, THIRD, trial=5, overrides={"scenario": "finetune", "targets": "random"}),
        run_on(data, THIRD, trial=5, attack="bp", scenario="transfer", overrides=None),
    ]
    elsewhere = changed(run_on(data, THIRD, trial=5), spec={"dataset": {"digest": "another"}})
    write(results, [*runs["none"], *runs["hint"], *strangers, elsewhere])
    outcome = done("figure", "--figure=3", "--images", "9", "--results", results)
    assert "mnist-sample@1000, embedded" in outcome.err
    names = [Path(line).name for line in outcome.out.splitlines()]
    assert names == ["figure-3.png", "figure-3.svg", "figure-3.json"]
    numbers = json.loads((results / "figures" / "figure-3.json").read_text())
    assert [target["trial"] for target in numbers["targets"]] == [0, 1, 3, 2]
    svg = (results / "figures" / "figure-3.svg").read_text()
    assert re.search(r">✗ 9 +50\.0 %<", svg)
    assert "I: 9" in svg
    first = (results / "figures" / "figure-3.png").read_bytes()
    words = ("3", "--methods", "none,hint", "--images", "9", "--quiet")
    done("figure", *words, "--results", results)
    assert (results / "figures" / "figure-3.png").read_bytes() == first


@pytest.mark.parametrize(
    ("line", "code", "fragments"),
    [
        ("4", 65, "none under bp|`poisonbench defend --method none --dataset mnist-s"),
        ("3 --attack pgd", 2, "a targeted attack among gm|'pgd'"),
        ("3 --methods hnt", 2, "did you mean 'hint'"),
        ("3 --methods hint", 65, "--method hint|--attack mp --scenario finetune"),
        ("3 --rho 0.1", 2, "--rho|figure 3 --help"),
        ("4 --ratio 0.5", 2, "--ratio|figure 4 --help"),
        ("4 --dataset npz:a.npz", 2, "mnist-sample@1000|'npz:a.npz'"),
    ],
)
def test_bad_input_writes_nothing(line, code, fragments, results):
    results.mkdir()
    outcome = cli("figure", *line.split(), "--results", results)
    assert outcome.code == code, outcome.err
    for fragment in fragments.split("|"):
        assert fragment in outcome.err.splitlines()[-1]
    assert files_in(results) == []
