"""Facility location: the few members of a set that stand for all of it.

A set S of k medoids maximises F(S) = sum_i max_{j in S} (c0 - |x_i - x_j|). Greedy selection is
within 1 - 1/e of the best (Nemhauser et al. 1978). Two exact greedy forms with the same answer:
lazy evaluation with a heap (Minoux 1978), fastest on a CPU, and all gains of all sets at once, for
a GPU.

Shapes: n points of D dimensions, k medoids, G sets.
"""

from __future__ import annotations

import heapq

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def cluster_sizes(points: Tensor, num_medoids: int) -> tuple[Tensor, Tensor]:
    """Greedy medoids' clusters: which medoid stands for each point, and how many it stands for.

    Args:
        points: (n, D) float.
        num_medoids: k, in 1..n.

    Returns:
        (owner, size): owner (n,) int64 in 0..k-1, by order of selection; size (k,) int64.
    """
    return cluster_sizes_of_sets([points], [num_medoids])[0]


def cluster_sizes_of_sets(
    sets: list[Tensor], num_medoids: list[int]
) -> list[tuple[Tensor, Tensor]]:
    """:func:`cluster_sizes` of several sets: one after the other on a CPU, together on a GPU."""
    if sets and sets[0].is_cuda:
        return batched_greedy(sets, num_medoids)
    found = []
    for points, count in zip(sets, num_medoids, strict=True):
        similarity = similarities(points)
        order = lazy_greedy(similarity.numpy(), count)
        found.append(_assign(similarity, torch.from_numpy(order)))
    return found


def similarities(points: Tensor) -> Tensor:
    """c0 - distance, (n, n) >= 0. Distances are exact, not by matrix product, or twins differ."""
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.max() - distance


def lazy_greedy(similarity: NDArray[np.floating], num_medoids: int) -> NDArray[np.int64]:
    """Medoids in order of selection, (k,), of a symmetric non-negative similarity (n, n).

    A gain only shrinks as medoids are added, so an old gain is an upper bound: the best bound is
    re-evaluated until it stays best. Ties go to the lowest row.
    """
    covered = np.zeros(len(similarity), similarity.dtype)
    bounds = [(-float(gain), row) for row, gain in enumerate(similarity.sum(0, dtype=np.float64))]
    heapq.heapify(bounds)
    order = np.empty(num_medoids, np.int64)
    for position in range(num_medoids):
        while True:
            _, row = bounds[0]
            gain = np.maximum(similarity[row] - covered, 0).sum(dtype=np.float64)
            # Replacing the top and looking again keeps ties in order of rows.
            heapq.heapreplace(bounds, (-float(gain), row))
            if bounds[0][1] == row:
                break
        heapq.heappop(bounds)
        order[position] = row
        np.maximum(covered, similarity[row], out=covered)
    return order


def batched_greedy(sets: list[Tensor], num_medoids: list[int]) -> list[tuple[Tensor, Tensor]]:
    """All sets' greedy steps at once, each over all remaining candidates; for a GPU.

    Sets are padded to the largest with points that cover nothing and are never chosen. There is no
    host synchronisation between steps. Memory: G n^2 floats.
    """
    widest = max(len(points) for points in sets)
    device = sets[0].device
    similarity = torch.zeros(len(sets), widest, widest, device=device, dtype=sets[0].dtype)
    free = torch.zeros(len(sets), widest, dtype=torch.bool, device=device)
    for index, points in enumerate(sets):
        similarity[index, : len(points), : len(points)] = similarities(points)
        free[index, : len(points)] = True
    covered = torch.zeros(len(sets), widest, device=device, dtype=similarity.dtype)
    steps = max(num_medoids)
    order = torch.zeros(len(sets), steps, dtype=torch.int64, device=device)
    group = torch.arange(len(sets), device=device)
    for step in range(steps):
        gains = torch.stack(
            [
                (rows - cover).clamp_(min=0).sum(1)
                for rows, cover in zip(similarity, covered, strict=True)
            ]
        )
        chosen = gains.masked_fill_(~free, -1).argmax(1)
        order[:, step] = chosen
        free[group, chosen] = False
        covered = torch.maximum(covered, similarity[group, chosen])
    return [
        _assign(similarity[index, : len(points), : len(points)], order[index, :count])
        for index, (points, count) in enumerate(zip(sets, num_medoids, strict=True))
    ]


def _assign(similarity: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    owner = similarity[:, order].argmax(1)
    return owner, torch.bincount(owner, minlength=len(order))
