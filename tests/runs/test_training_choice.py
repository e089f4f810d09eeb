"""The choice of a network and epochs, by validation accuracy."""

import numpy as np
import pytest
import torch

from helpers.command_line import tiny_arrays
from poisonbench.core.errors import ArtefactError
from poisonbench.data.splits import Split
from poisonbench.results.store import Store
from poisonbench.runs import training_choice
from poisonbench.runs.context import RunContext
from poisonbench.runs.training_choice import (
    Candidate,
    best_candidate,
    candidates_for,
    choice_path,
    choose_training,
)


@pytest.mark.parametrize(
    ("accuracies", "index"),
    [([0.5, 0.7, 0.6], 1), ([0.7, 0.7, 0.6], 0), ([0.0, 0.0], 0), ([0.2, 0.3, 0.9], 2)],
)
def test_the_cheapest_of_the_best_is_taken(accuracies, index):
    candidates = [
        Candidate(network="a", epochs=1, cost=float(cost), accuracy=accuracy)
        for cost, accuracy in enumerate(accuracies)
    ]
    assert best_candidate(candidates) == index


@pytest.fixture
def context(tmp_path):
    return RunContext(Store(tmp_path / "results"), tmp_path, torch.device("cpu"))


@pytest.fixture
def name(tmp_path):
    np.savez(tmp_path / "a.npz", **tiny_arrays(train=80, test=12))
    return f"npz:{tmp_path / 'a.npz'}"


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(training_choice, "lengths", lambda images: (1, 2))
    monkeypatch.setattr(training_choice, "networks_for", lambda channels: ("mnist-cnn-small",))
    monkeypatch.setattr(training_choice, "_REPEATS", 2)


def test_candidates_go_from_cheap_to_dear(context, name):
    costs = [candidate.cost for candidate in candidates_for(context.dataset(name))]
    assert costs == sorted(costs)
    assert len(costs) == 6
    # Epochs cost in proportion.
    by_network = {}
    for candidate in candidates_for(context.dataset(name)):
        by_network.setdefault(candidate.network, set()).add(
            round(candidate.cost / candidate.epochs, 6)
        )
    assert all(len(costs) == 1 for costs in by_network.values())


def test_a_choice_is_kept_and_sees_no_test_image(context, name, short, monkeypatch):
    for settings in ("", "@quick-mnist-cnn-small-1", "@quick-mnist-cnn-small-2"):
        # A look at the test split would fail.
        split = context.dataset(name.replace(":", f"{settings}:", 1)).test
        object.__setattr__(split, "images", None)
        object.__setattr__(split, "labels", torch.zeros(0))
    monkeypatch.setattr(Split, "digest", lambda self: "d")
    choice = choose_training(context, name)
    assert [c.epochs for c in choice.candidates] == [1, 2]
    accuracies = [c.accuracy for c in choice.candidates]
    assert choice.taken.accuracy == max(accuracies)
    assert (choice.trainings, choice.validation) == (2, 8)
    words = choice.in_words()
    assert f"{choice.taken.epochs} epochs" in words
    assert f"{100 * max(accuracies):.1f} % of the 8 validation images" in words
    monkeypatch.setattr(training_choice, "trained_models", None)
    assert choose_training(context, name) == choice
    path = choice_path(context, context.dataset(name))
    path.write_text('{"dataset": 3}')
    with pytest.raises(ArtefactError, match="delete it to choose again"):
        choose_training(context, name)
