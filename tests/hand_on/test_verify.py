"""Runs made again: the same to the last digit, or what differs and why."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from safetensors.torch import load_file
from safetensors.torch import save_file as keep

from helpers.command_line import cli, done, last_line, refused
from helpers.handed_on import bytes_of, edit_record, flip, poisons, records, verified
from poisonbench.cli.verify import drawn


def test_a_run_is_repeated_to_the_last_digit_and_the_folder_left_alone(results, tmp_path):
    before = bytes_of(results)
    outcome = verified(tmp_path, results)
    assert outcome.code == 0, outcome.err
    assert "2 run(s), which took" in outcome.err
    assert "1 poison(s) are crafted again first" in outcome.err
    runs = outcome.json["runs"]
    assert [run["state"] for run in runs] == ["same", "same"]
    assert {run["repeated_id"] for run in runs} == {run.id for run in records(results).values()}
    assert all(run["figures"] == [] and run["causes"] == [] for run in runs)
    assert bytes_of(results) == before
    again = verified(tmp_path, results)
    assert again.json["runs"] == runs
    assert "training" not in again.err


def test_a_figure_that_was_made_up_is_found_and_its_surroundings_named(results, tmp_path):
    run = records(results)["clean"]

    def change(fields):
        flip(fields)
        fields["environment"] |= {"torch": "1.0", "processor": "Another", "precision": "float8"}

    edit_record(run.path, change)
    outcome = verified(tmp_path, run.id[:6], "--results", results)
    assert outcome.code == 3, outcome.err
    (one,) = outcome.json["runs"]
    assert one["state"] == "differs"
    assert one["test_images_otherwise"] == 2
    assert {"metrics.test_accuracy", "outcomes.test.bits"} == {f["field"] for f in one["figures"]}
    assert [c["cause"] for c in one["causes"]] == ["precision", "libraries", "hardware"]
    assert one["causes"][1]["fields"][0]["recorded"] == "1.0"
    assert verified(tmp_path, run.path, "--within", "2").code == 0
    assert verified(tmp_path, run.path, "--within", "1").code == 3
    text = cli("verify", run.path, "--scratch", tmp_path / "scratch").out
    assert "differs within 2 of 40 test images, test accuracy" in text
    assert "likely causes: precision: precision float8 -> " in text
    assert "0 same, 1 differ, 0 not repeated, 0 refused" in text


def sorted_runs(results):
    return sorted(records(results).values(), key=lambda run: run.id)


def test_two_records_of_one_run_with_other_figures_are_both_compared(results, tmp_path):
    other, run = tmp_path / "other", records(results)["clean"]
    shutil.copytree(results, other)
    edit_record(other / "runs" / run.path.name, flip)
    outcome = verified(tmp_path, results, other)
    assert outcome.code == 3
    files = {one["file"]: one["state"] for one in outcome.json["runs"]}
    right, wrong = (str(folder / "runs" / run.path.name) for folder in (results, other))
    assert files == {None: "same", right: "same", wrong: "differs"}
    assert outcome.err.count("training") == 2, "each run is repeated once"
    text = cli("verify", results, other, "--scratch", tmp_path / "scratch").out
    assert f", by {wrong}: differs within 2 of 40 test images" in text
    assert [one["file"] for one in verified(tmp_path, results, results).json["runs"]] == [None] * 2
    other_figures = f"{wrong} has other figures of the same run than {right}"
    assert f"{other_figures}; both are compared" in outcome.err
    # Of a run that is not drawn nothing settles it.
    seed = next(s for s in range(9) if drawn(sorted_runs(results), 1, s)[0].id != run.id)
    outcome = verified(tmp_path, results, other, "--sample", "1", "--seed", seed)
    assert outcome.code == 65
    assert outcome.json["refused"][0].startswith(other_figures)


def test_a_record_is_held_against_the_weights_of_its_own_folder(results, tmp_path):
    other, run = tmp_path / "other", records(results)["badnets"]
    shutil.copytree(results, other)
    edit_record(other / "runs" / run.path.name, flip)
    path = other / "models" / f"{run.id}.safetensors"
    weights = load_file(path)
    weights["head.bias"] += 1e-3
    keep(weights, path)
    for folders in ((results, other), (other, results)):
        runs = verified(tmp_path, *folders).json["runs"]
        states = {one["file"]: one for one in runs if one["file"] is not None}
        right, wrong = (str(folder / "runs" / run.path.name) for folder in (results, other))
        assert states[right]["state"] == "same"
        assert "weights" in [one["field"] for one in states[wrong]["figures"]]


def test_weights_that_were_kept_are_compared(results, tmp_path):
    run = records(results)["badnets"]
    path = results / "models" / f"{run.id}.safetensors"
    weights = load_file(path)
    weights["head.bias"] += 1e-3
    keep(weights, path)
    outcome = verified(tmp_path, run.id, "--results", results)
    assert outcome.code == 3
    assert [one["field"] for one in outcome.json["runs"][0]["figures"]] == ["weights"]


def test_a_poison_is_crafted_again_or_taken_as_it_is_kept(results, tmp_path):
    run = records(results)["badnets"]
    line = (run.id, "--results", results, "--poison", "kept")
    outcome = verified(tmp_path, *line)
    assert outcome.code == 0, outcome.err
    assert "crafting" not in outcome.err
    shutil.rmtree(results / "poisons")
    shutil.rmtree(tmp_path / "scratch")
    outcome = verified(tmp_path, *line)
    assert outcome.code == 4
    (one,) = outcome.json["runs"]
    assert one["state"] == "not_repeated"
    assert "--poison kept: expected poison" in one["reason"]


def test_a_given_poison_is_found_by_its_digest_or_said_to_be_lacking(results, tmp_path, place):
    poison = poisons(results)["durp+ops"]
    line = ("defend", "--method", "none", "--dataset", place[1], "--results", results)
    run = done(*line, "--epochs", "1", "--poison", poison, "--json").json
    assert verified(tmp_path, run["id"], "--results", results).code == 0
    shutil.rmtree(poison)
    outcome = verified(tmp_path / "b", run["id"], "--results", results)
    assert outcome.code == 4
    reason = outcome.json["runs"][0]["reason"]
    assert "a given mix of durp, ops and cannot be made again from the record" in reason


def test_other_data_under_the_same_name_is_no_difference_of_the_run(results, tmp_path, place):
    run = records(results)["clean"]
    path = Path(place[1].partition(":")[2])
    original = path.read_bytes()
    with np.load(path) as arrays:
        changed = {name: array.copy() for name, array in arrays.items()}
    changed["x_test"][0] ^= 1
    try:
        np.savez(path, **changed)
        outcome = verified(tmp_path, run.path)
    finally:
        path.write_bytes(original)
    assert outcome.code == 4
    assert "these are other images or splits" in outcome.json["runs"][0]["reason"]


def test_a_sample_is_drawn_by_the_seed_and_grows(results, tmp_path):
    many = [SimpleNamespace(id=f"{number:016x}") for number in range(40)]
    small, large = (drawn(many, size, 0) for size in (5, 9))
    assert len(small) == 5
    assert all(one in large for one in small)
    assert large == sorted(large, key=lambda one: one.id)
    assert drawn(many, 5, 0) == small != drawn(many, 5, 1)
    assert drawn(many, 99, 0) == drawn(many, None, 0) == many
    assert len(verified(tmp_path, results, "--sample", "1").json["runs"]) == 1


def test_bad_lines_and_edited_records_are_named(results, tmp_path):
    run = records(results)["clean"]
    assert "--scratch: expected another folder" in refused(
        2, results, "verify", "--scratch", results
    )
    nothing = last_line(65, results, "verify", "ffff", "--scratch", tmp_path / "s")
    assert "which 0 runs have" in nothing
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "expected run records, got none" in refused(
        2, empty, "verify", empty, "--scratch", tmp_path / "s"
    )
    text = run.path.read_text()
    run.path.write_text(text.replace('"trial": 0', '"trial": 1'))
    outcome = verified(tmp_path, results)
    assert outcome.code == 65
    assert run.path.name in outcome.json["refused"][0]
    assert [one["state"] for one in outcome.json["runs"]] == ["same"]
