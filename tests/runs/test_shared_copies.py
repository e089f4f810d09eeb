"""The copy that several filters look at is trained once, and changes no result."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from helpers.command_line import done
from poisonbench.results.records import read_record
from poisonbench.results.store import Store

KNN = ("--method", "knn", "--k", "150")
L2 = ("--method", "l2", "--fraction", "0.1")


def run(tiny, results, *words, epochs=2):
    line = ("defend", *words, "--attack", "durp", "--dataset", tiny, "--epochs", epochs)
    outcome = done(*line, "--results", results, "--json")
    return read_record(Path(outcome.json["path"])), outcome.err


def copies_in(results):
    return sorted((results / "models").glob("*.safetensors"))


def is_read(said):
    return "the copy for features is there" in said


def outcome_of(record):
    return record.metrics, record.outcomes, record.curve, record.notes, record.digests


def test_a_second_filter_reads_the_copy_of_the_first(tiny, tmp_path):
    first, said = run(tiny, tmp_path / "both", *KNN)
    (copy,) = copies_in(tmp_path / "both")
    assert not is_read(said)
    second, said = run(tiny, tmp_path / "both", *L2)
    assert is_read(said)
    assert copies_in(tmp_path / "both") == [copy]
    alone, said = run(tiny, tmp_path / "alone", *L2)
    assert not is_read(said)
    assert outcome_of(second) == outcome_of(alone)
    # What the copy took is part of what each filter costs.
    seconds = Store(tmp_path / "both").crafting_cost(copy.stem).seconds
    assert 0 < seconds <= first.cost.seconds.defense
    assert seconds <= second.cost.seconds.defense


@pytest.mark.parametrize(
    "other",
    [
        ("--trial", "1"),
        ("--seed", "1"),
        ("--learning-rate", "0.02"),
        ("--features-from", "clean"),
        ("--model", "mnist-cnn-small"),
    ],
    ids=lambda words: words[0],
)
def test_what_determines_a_copy_tells_copies_apart(tiny, results, other):
    run(tiny, results, *KNN)
    record, said = run(tiny, results, *L2, *other)
    assert not is_read(said)
    assert record.metrics.filter.clean_removed + record.metrics.filter.poisons_removed > 0


def test_copies_of_other_images_or_epochs_are_others(tiny, results):
    run(tiny, results, *KNN, "--rho", "1.0")
    for words, epochs in ((("--rho", "0.5"), 2), (("--rho", "1.0"), 3)):
        _, said = run(tiny, results, *KNN, *words, epochs=epochs)
        assert not is_read(said)
    assert len(copies_in(results)) == 3


def test_a_damaged_copy_is_trained_again(tiny, results):
    run(tiny, results, *KNN)
    (copy,) = copies_in(results)
    weights = {key: value.clone() for key, value in load_file(copy).items()}
    data = bytearray(copy.read_bytes())
    data[-1] ^= 1
    copy.write_bytes(data)
    _, said = run(tiny, results, *L2)
    assert f"warning: {copy}: expected a features-copy model" in said
    assert not is_read(said)
    again = load_file(copy)
    assert again.keys() == weights.keys()
    assert all(again[key].equal(weights[key]) for key in again)


def test_a_copy_whose_cost_is_not_known_is_trained_again(tiny, results):
    run(tiny, results, *KNN)
    (copy,) = copies_in(results)
    Store(results).crafting_path(copy.stem).write_text("{}")
    record, said = run(tiny, results, *L2)
    assert not is_read(said)
    assert 0 < Store(results).crafting_cost(copy.stem).seconds <= record.cost.seconds.defense
