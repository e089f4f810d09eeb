"""The copy that several filters look at is trained once, and changes no result."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.attack_tasks import fake_split, small_classifier
from helpers.command_line import done
from poisonbench.core.errors import StoreError
from poisonbench.results.records import read_record
from poisonbench.results.store import Store
from poisonbench.runs import shared_copies
from poisonbench.runs.context import RunContext
from poisonbench.runs.environment import environment
from poisonbench.runs.shared_copies import SharedCopies
from poisonbench.sweep.garbage import delete, find_garbage
from poisonbench.tables.cells import is_timed
from poisonbench.training.state import FitResult

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
    assert is_timed(first)
    assert is_timed(second)


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


@pytest.fixture
def said():
    return []


@pytest.fixture
def asked(tiny, tmp_path, said):
    """Asks for a copy whose training sets its weights to 1, as a run on some threads does."""
    record, _ = run(tiny, tmp_path / "first", "--method", "none")
    cpu = torch.device("cpu")
    context = RunContext(Store(tmp_path / "results"), tmp_path, cpu, say=said.append)

    def ask(*, threads=1, interruptions=0):
        surroundings = {**environment(cpu, "float32"), "threads": threads}
        copies = SharedCopies(context, record.spec, surroundings)
        model = small_classifier().eval()
        trained = []

        def fit():
            trained.append(True)
            model.train()
            model.load_state_dict({k: torch.ones_like(v) for k, v in model.state_dict().items()})
            return FitResult(seconds={"training": 3.0}, interruptions=interruptions)

        result = copies("features", model, fake_split(20, 0), fit)
        assert result.seconds == {"training": 3.0}
        assert model.training
        assert all((value == 1).all() for value in model.state_dict().values())
        assert copies.seconds == (0.0 if trained else 3.0)
        return bool(trained)

    return ask


def test_a_copy_is_read_on_the_same_device_alone(asked):
    assert [asked(), asked(), asked(threads=2), asked(threads=2)] == [True, False, True, False]


def test_a_copy_whose_training_was_interrupted_is_not_kept(asked, tmp_path):
    assert asked(interruptions=1)
    assert copies_in(tmp_path / "results") == []
    assert asked()


def test_a_copy_that_finds_no_room_is_not_missed(asked, said, monkeypatch):
    def full(*arguments):
        raise StoreError("the disk is full")

    monkeypatch.setattr(shared_copies, "publish_bytes", full)
    assert asked()
    assert said == ["warning: the copy for features is not kept: the disk is full"]


def test_copies_can_be_cleared_away(asked, tmp_path):
    asked()
    store = Store(tmp_path / "results")
    garbage = find_garbage(store)
    (copy,) = copies_in(store.root)
    assert {item.path for item in garbage} == {copy, store.crafting_path(copy.stem)}
    for item in garbage:
        delete(item)
    assert asked()
