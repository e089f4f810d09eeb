"""Deep k-NN against brute force in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from helpers.defense_problems import fresh, problem
from poisonbench.defenses import deep_knn


def naive_votes(features, labels, num_classes, k, count_self):
    """The k nearest by loops; examples at the k-th distance all vote."""
    votes = []
    for i in range(len(labels)):
        distances = {
            j: -1.0 if i == j else math.dist(features[i].tolist(), features[j].tolist())
            for j in range(len(labels))
            if count_self or j != i
        }
        kth = sorted(distances.values())[min(k, len(distances)) - 1]
        near = [int(labels[j]) for j, distance in distances.items() if distance <= kth + 1e-9]
        votes.append([near.count(label) for label in range(num_classes)])
    return votes


@pytest.mark.parametrize("count_self", [False, True])
@pytest.mark.parametrize("k", [1, 2, 5, 30, 59, 60, 1000])
def test_votes_agree_with_loops(k, count_self, monkeypatch):
    monkeypatch.setitem(deep_knn.BLOCK, "cpu", 7 * 60)
    features, labels = problem()
    votes = deep_knn.neighbour_votes(features, labels, 4, k, count_self=count_self)
    assert votes.tolist() == naive_votes(features, labels, 4, k, count_self)
    single = deep_knn.neighbour_votes(features.float(), labels, 4, k, count_self=count_self)
    assert torch.equal(single, votes)
    # What a GPU runs.
    monkeypatch.setitem(deep_knn.BLOCK, "accelerator", 11 * 60)
    monkeypatch.setattr(deep_knn, "_count_cpu", deep_knn._count_at_once)
    other = deep_knn.neighbour_votes(features, labels, 4, k, count_self=count_self)
    assert torch.equal(other, votes)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_examples_at_one_distance_all_vote(k):
    # Small whole numbers of mean 0, which nothing rounds.
    features = torch.tensor([[0.0], [1.0], [1.0], [-1.0], [-3.0], [2.0]])
    labels = torch.tensor([0, 0, 1, 1, 2, 0])
    votes = deep_knn.neighbour_votes(features, labels, 3, k, count_self=False)
    assert votes.tolist() == naive_votes(features, labels, 3, k, False)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_data_does_not_matter(data):
    seed = data.draw(st.integers(0, 1000))
    k = data.draw(st.integers(1, 20))
    features, labels = problem(20, 2, seed=seed)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    votes = deep_knn.neighbour_votes(features, labels, 3, k, count_self=False)
    moved = deep_knn.neighbour_votes(features[order], labels[order], 3, k, count_self=False)
    assert torch.equal(moved, votes[order])


def test_the_code_profile_is_what_the_reference_calls():
    features, labels = problem(80)
    config = deep_knn.Config(k=9, **deep_knn.PROFILES["code"]["*"])
    judge = KNeighborsClassifier(9, algorithm="brute").fit(features, labels)
    expected = judge.predict(features) == labels.numpy()
    assert 0 < expected.sum() < 80
    assert deep_knn.kept(features, labels, fresh(), config).tolist() == expected.tolist()


def test_the_three_rules():
    votes = torch.tensor([[2, 2, 1], [2, 2, 1], [1, 3, 0], [0, 2, 2]])
    labels = torch.tensor([0, 1, 0, 1])
    features = torch.zeros(4, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deep_knn, "neighbour_votes", lambda *args, **options: votes)
        kept = {
            rule: deep_knn.kept(features, labels, fresh(), deep_knn.Config(k=5, rule=rule)).tolist()
            for rule in ("modes", "lowest-mode", "half")
        }
    assert kept == {
        "modes": [True, True, False, True],
        "lowest-mode": [True, False, False, True],
        "half": [False, False, False, True],
    }


def test_k_is_the_mean_size_of_a_class(monkeypatch):
    seen = []

    def votes(features, labels, num_classes, k, *, count_self):
        seen.append((num_classes, k))
        return torch.ones(len(labels), num_classes)

    monkeypatch.setattr(deep_knn, "neighbour_votes", votes)
    labels = torch.tensor([0] * 9 + [2] * 4)
    deep_knn.kept(torch.zeros(13, 1), labels, fresh(), deep_knn.Config())
    # No example of class 1: 13 of two classes.
    assert seen == [(3, 6)]


def test_a_lone_example_is_its_own_neighbour():
    one = torch.zeros(1, 3)
    assert deep_knn.kept(one, torch.tensor([0]), fresh(), deep_knn.Config()).tolist() == [True]


def test_poisons_among_another_class_are_dropped():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(100, 4, generator=generator)
    features[50:] += 10
    labels = torch.arange(100) // 50
    labels[[3, 70]] = 1 - labels[[3, 70]]
    kept = deep_knn.kept(features, labels, fresh(), deep_knn.Config())
    assert (~kept).nonzero().flatten().tolist() == [3, 70]
