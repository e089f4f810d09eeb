"""The filters and the cheap defenses as the command line runs them, on tiny poisoned data."""

from pathlib import Path

import pytest
from conftest import done

from poisonbench.results.records import read_record

FILTERS = {
    "knn": ("--k", "150"),
    "l2": ("--fraction", "0.1"),
    "ocsvm": ("--nu", "0.1"),
    "random": ("--fraction", "0.2"),
    "spectral": (),
    "activation-clustering": ("--analysis", "smaller"),
}
OTHERS = {"jpeg": ("--quality", "50"), "mixup": (), "cutmix": ("--probability", "0.5")}


def run(method, tiny, artefact, results, *words):
    line = ("defend", "--method", method, "--dataset", tiny, "--poison", artefact)
    outcome = done(*line, "--epochs", "2", "--results", results, "--json", *words)
    return read_record(Path(outcome.json["path"]))


@pytest.mark.parametrize("method", FILTERS)
def test_a_filter_removes_rows_and_trains_on_the_rest(method, tiny, artefact, results):
    record = run(method, tiny, artefact, results, *FILTERS[method])
    (note,) = record.notes
    assert (note["epoch"], note["round"]) == (0, "filter")
    assert 0 < note["removed"] == sum(note["removed_by_class"]) < 270
    assert note["kept"] == 270 - note["removed"]
    assert len(record.curve) == 2
    assert record.cost["seconds"]["defense"] > 0


def test_features_from_clean_data_are_other_features(tiny, artefact, results):
    curves = [
        run("l2", tiny, artefact, results, *FILTERS["l2"], "--features-from", source).curve
        for source in ("poisoned", "clean")
    ]
    assert curves[0] != curves[1]


@pytest.mark.parametrize("method", OTHERS)
def test_the_others_run_on_all_rows(method, tiny, artefact, results):
    record = run(method, tiny, artefact, results, *OTHERS[method])
    assert [note["round"] for note in record.notes] == (["jpeg"] if method == "jpeg" else [])
    assert len(record.curve) == 2
    plain = run("none", tiny, artefact, results)
    assert record.digests == plain.digests
    assert record.curve != plain.curve
