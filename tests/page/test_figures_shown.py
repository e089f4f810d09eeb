"""The papers' figures on the page: from records, and from the numbers of drawn ones."""

import json
from pathlib import Path

import pytest
import torch

from helpers.synthetic_runs import changed, hint_run, make_record, targeted_run
from poisonbench.core.errors import ArtefactError
from poisonbench.figures.images import png_text
from poisonbench.page.document import build_page
from poisonbench.page.figures_shown import figures_of, ratio_figures
from poisonbench.page.groups import rows_of
from poisonbench.page.poison_pictures import DataSets
from poisonbench.results.store import Store

DATA = Path("data")
SETS = DataSets(DATA)


def drawn(numbers, *records):
    return figures_of(rows_of(records), [("figure", numbers)], SETS)


def test_accuracy_against_rho_has_the_means_of_each_ratio():
    runs = [make_record(0.9 - rho / 2, rho=rho, digest=f"p{rho}") for rho in (0.2, 0.6)]
    runs += [make_record(0.9, rho=0.6, digest="p0.6", method="hint", trial=t) for t in (0, 1)]
    runs += [make_record(0.1, rho=0.8, digest="q", labels={"overrides": {"poison": "artefact"}})]
    (figure,) = ratio_figures(rows_of(runs))
    assert figure.table.blocks[0].rows == (
        ("W/o Defense", "0.2", "80", "-", "-"),
        ("W/o Defense", "0.6", "60", "-", "-"),
        ("HINT", "0.6", "90", "90", "90"),
    )
    assert figure.plots[0][1].count("<title>") == 3


def test_the_sensitivity_of_hint_is_drawn_where_it_has_runs():
    runs = [hint_run(0.97), hint_run(0.96, parameter="ratio", value=0.25)]
    figures = figures_of(rows_of(runs), [], SETS)
    assert [figure.id for figure in figures.plots] == ["figure-sensitivity-mnist"]
    measured = [row for row in figures.plots[0].table.blocks[0].rows if row[0] == "measured"]
    assert [row[1:3] for row in measured] == [("0.25", "96"), ("0.5", "97")]


def test_one_setting_is_no_curve():
    run = changed(hint_run(0.97), labels={"dataset": "mnist-sample"})
    run = changed(run, spec={"dataset": {"name": "mnist-sample"}})
    assert figures_of(rows_of([run]), [], SETS).plots == []


def test_targets_have_the_answer_of_each_defense():
    runs = [targeted_run(t == 0, trial=t) for t in range(2)]
    runs += [targeted_run(False, method="hint")]
    (figure,) = figures_of(rows_of(runs), [], SETS).answers
    assert [caption for caption, _ in figure.columns] == [
        "trial 0, test image 100: is 1, shall be 3",
        "trial 1, test image 101: is 1, shall be 3",
    ]
    answers = {label: [(a.text, a.is_right) for a in row] for label, row in figure.rows}
    assert answers == {
        "W/o Defense": [("3", False), ("1", True)],
        "HINT": [("1", True), ("no run", None)],
    }


def test_another_target_of_a_trial_has_a_column_of_its_own():
    runs = [
        targeted_run(True),
        targeted_run(False, method="hint", target=7),
        targeted_run(False, method="epic", intended=4),
    ]
    (figure,) = figures_of(rows_of(runs), [], SETS).answers
    assert [caption for caption, _ in figure.columns] == [
        "trial 0, test image 7: is 1, shall be 3",
        "trial 0, test image 100: is 1, shall be 3",
        "trial 0, test image 100: is 1, shall be 4",
    ]
    assert {label: [a.text for a in row] for label, row in figure.rows} == {
        "W/o Defense": ["no run", "3", "no run"],
        "HINT": ["1", "no run", "no run"],
        "EPIC": ["no run", "no run", "1"],
    }


def test_targets_of_data_that_is_here_have_their_pictures():
    from poisonbench.data.sources import load_dataset

    data = load_dataset("mnist-sample", DATA, 0)
    run = targeted_run(True, target=5, labels={"dataset": "mnist-sample"})
    run = changed(run, spec={"dataset": {"name": "mnist-sample", "digest": data.digest}})
    (figure,) = figures_of(rows_of([run]), [], SETS).answers
    assert figure.columns[0][1].startswith("data:image/png;base64,")
    embedded = DataSets(Path("nowhere"), is_embedded_alone=True)
    assert figures_of(rows_of([run]), [], embedded).answers == [figure]
    other = changed(run, spec={"dataset": {"digest": "another"}})
    (figure,) = figures_of(rows_of([other]), [], SETS).answers
    assert figure.columns[0][1] == ""


PNG = png_text(torch.zeros(1, 2, 2, dtype=torch.uint8))
FEATURES = {
    "figure": "features",
    "dataset": {"name": "d"},
    "runs": [
        {
            **{"method": "knn", "is_hit": False, "poisons": 5, "poisons_removed": 4},
            **{"target": [0.5, 0.25], "points": {"poisons": [[1, 2], [3, 4]], "bases": []}},
        }
    ],
}
PREDICTIONS = {
    "figure": "2",
    "dataset": {"name": "mnist", "digest": "d"},
    **{"seed": 0, "test_images": 100, "images_with_disagreement": 7},
    "runs": {"HINT": {"id": "x", "test_accuracy": 0.5}},
    "images": [
        {
            **{"row": 3, "label": "<b>seven"},
            "answers": {"HINT": {"class": "1", "confidence": 0.75, "is_right": False}},
        }
    ],
}


ANSWER = {"class": "<i>7", "confidence": 0.5, "is_right": False}
NOISE = {
    "figure": "1",
    "dataset": {"name": "d", "digest": "d"},
    "all_selected": {},
    "images": [
        {
            **{"row": 3, "label": "<b>seven", "poisoned_by": None, "png": PNG, "before": ANSWER},
            "healthy": {
                **{"noise_made_with": "7", "max_abs_noise": 0.02, "shown_times": 25.0},
                **{"png": PNG, "noisy_png": PNG, "after": {**ANSWER, "is_right": True}},
            },
        }
    ],
}


def test_the_noise_that_was_drawn_is_a_table_of_images():
    (figure,) = drawn(NOISE).plots
    tiles = figure.tiles
    assert tiles.columns == ("image", "without noise", "healthy noise", "with it")
    ((label, (before, noise, after)),) = tiles.rows
    assert label == "training image 3, clean, label <b>seven"
    assert (before.text, before.is_right, after.is_right) == ("<i>7, 50.0 %", False, True)
    assert noise.text == "at most 5.1/255, shown \u00d7\u00a025"
    assert {tile.picture for tile in (before, noise, after)} == {f"data:image/png;base64,{PNG}"}
    # A multiple of the picture's own 2 pixels.
    assert tiles.size == 112


def test_what_figures_say_stays_text(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "figure-1.json").write_text(json.dumps(NOISE))
    text = build_page([tmp_path], DATA).text
    assert "&lt;b&gt;seven" in text
    assert "&lt;i&gt;7, 50.0 %" in text
    assert "<b>seven" not in text
    assert text.count("<img ") == 3


def test_numbers_of_noise_without_pictures_are_a_table_alone():
    images = [{key: value for key, value in NOISE["images"][0].items() if key != "png"}]
    (figure,) = drawn({**NOISE, "images": images}).plots
    assert figure.tiles is None


@pytest.mark.parametrize("png", ["", "PHN2Zz4=", 'x"><script>', 5, "iVBOR"])
def test_what_is_no_png_is_no_picture(png):
    images = [{**NOISE["images"][0], "png": png}]
    assert drawn({**NOISE, "images": images}).damaged[0].name == "figures/figure.json"


def test_a_feature_space_that_was_drawn_is_a_plot():
    (figure,) = drawn(FEATURES).plots
    ((title, picture),) = figure.plots
    assert title == "knn: target not hit, 4 of 5 poisons removed"
    assert picture.count("<title>") == 3
    assert len(figure.table.blocks[0].rows) == 3


def test_predictions_that_were_drawn_are_a_table():
    (figure,) = drawn(PREDICTIONS).answers
    assert figure.columns == (("test image 3: is <b>seven", ""),)
    ((label, (answer,)),) = figure.rows
    assert label == "HINT (50.00 %)"
    assert (answer.text, answer.is_right) == ("1, 75.0 %", False)


@pytest.mark.parametrize(
    "numbers",
    [
        {"figure": "features"},
        {"figure": "features", "dataset": {"name": "d"}, "runs": [{"points": 3}]},
        {"figure": "2", "images": 5},
        {"figure": "2", **{k: v for k, v in PREDICTIONS.items() if k != "runs"}},
        {"figure": "1", "all_selected": {"all": {}}},
    ],
)
def test_damaged_numbers_are_named(numbers, tmp_path):
    assert drawn(numbers).damaged[0].name == "figures/figure.json"
    Store(tmp_path).write_record(make_record())
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "f.json").write_text(json.dumps(numbers))
    (tmp_path / "figures" / "g.json").write_text("[")
    page = build_page([tmp_path], DATA)
    assert set(page.damaged) == {"figures/f.json", "figures/g.json"}


def test_where_only_the_embedded_data_may_be_read_no_other_is(tiny):
    DataSets(DATA).load(tiny, 0)
    with pytest.raises(ArtefactError, match="expected mnist-sample or a part of it"):
        DataSets(DATA, is_embedded_alone=True).load(tiny, 0)


def test_a_data_set_is_read_once(monkeypatch):
    from poisonbench.data import sources

    loads = []
    monkeypatch.setattr(sources, "load_dataset", lambda *key: loads.append(key))
    sets = DataSets(DATA)
    for seed in (0, 0, 1, 0):
        sets.load("mnist", seed)
    assert loads == [("mnist", DATA, 0), ("mnist", DATA, 1)]
