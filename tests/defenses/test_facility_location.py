"""Greedy medoids against a naive greedy that evaluates every gain at every step."""

import pytest
import torch

from helpers.defense_problems import naive_clusters, naive_order
from poisonbench.defenses.shared.facility_location import (
    batched_greedy,
    lazy_greedy,
    medoid_clusters,
    similarities,
)


def points_of(size, seed, dimensions=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, dimensions, dtype=torch.float64, generator=generator)


def whole_points(size, seed):
    """On a line at whole numbers: many twins and ties, and sums without rounding."""
    generator = torch.Generator().manual_seed(seed)
    line = torch.randint(0, 12, (size, 1), generator=generator).double()
    return torch.cat([line, torch.zeros(size, 2, dtype=torch.float64)], 1)


CASES = [
    pytest.param(points_of(60, 0), 1, id="one"),
    pytest.param(points_of(60, 1), 9, id="random"),
    pytest.param(points_of(25, 2), 25, id="all"),
    pytest.param(whole_points(40, 3), 6, id="ties"),
    pytest.param(whole_points(40, 4), 30, id="more-medoids-than-places"),
    pytest.param(torch.zeros(5, 3, dtype=torch.float64), 3, id="all-twins"),
    pytest.param(points_of(1, 5), 1, id="alone"),
]


@pytest.mark.parametrize(("points", "num_medoids"), CASES)
def test_lazy_order_is_the_naive_one(points, num_medoids):
    order = lazy_greedy(similarities(points).numpy(), num_medoids)
    assert order.tolist() == naive_order(points, num_medoids)


@pytest.mark.parametrize(("points", "num_medoids"), CASES)
def test_clusters_are_nearest_medoids_first_chosen_first(points, num_medoids):
    ((owner, size),) = medoid_clusters([points], [num_medoids])
    assert (owner.tolist(), size.tolist()) == naive_clusters(points, num_medoids)
    assert int(size.sum()) == len(points)


def test_sets_of_unequal_sizes_at_once_are_the_sets_one_by_one():
    sets = [case.values[0] for case in CASES]
    counts = [case.values[1] for case in CASES]
    together = batched_greedy(sets, counts)
    for alone, (owner, size) in zip(medoid_clusters(sets, counts), together, strict=True):
        assert torch.equal(alone[0], owner)
        assert torch.equal(alone[1], size)


def test_lone_points_of_float32_sets_are_those_of_float64():
    wide = [points_of(size, size, 10).softmax(1) for size in (150, 400, 90)]
    counts = [60, 150, 30]
    exact = medoid_clusters(wide, counts)
    narrow = [points.float() for points in wide]
    for clusters in (medoid_clusters(narrow, counts), batched_greedy(narrow, counts)):
        for (owner, size), (exact_owner, exact_size) in zip(clusters, exact, strict=True):
            assert torch.equal(size[owner] == 1, exact_size[exact_owner] == 1)
            assert bool((size == 1).any())


def test_twins_are_at_no_distance_also_far_from_the_origin():
    points = torch.tensor([[100.0, 100.0], [100.0, 100.0], [100.01, 100.0]])
    similarity = similarities(points)
    assert similarity[0, 1] == similarity[0, 0] == similarity.max()
    assert similarity[0, 2] == 0
