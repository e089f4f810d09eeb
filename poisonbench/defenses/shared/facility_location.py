"""Facility location: the few members of a set that stand for all of it.

A set S of k medoids maximises F(S) = sum_i max_{j in S} (c0 - |x_i - x_j|). Greedy selection is
within 1 - 1/e of the best (Nemhauser et al. 1978). Two exact greedy forms with the same answer:
lazy evaluation with a heap (Minoux 1978), fastest on a CPU, and all gains of all sets at once, for
a GPU. Distances are float32 where the points are; gains are summed in float64, so the two differ
where candidates tie to the last bits, which changes the order of medoids and hardly the clusters.

Shapes: n points of D dimensions, k medoids, G sets. Memory: n^2 floats a set, on a GPU G n^2.
"""

import heapq
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from poisonbench.core.devices import is_accelerator


def medoid_clusters(
    sets: Sequence[Tensor], num_medoids: Sequence[int]
) -> list[tuple[Tensor, Tensor]]:
    """Which greedy medoid of its set stands for each point, and for how many each stands.

    Of G sets of points (n, D), of which n may differ, and k of each, in 1..n, come (owner, size):
    owner (n,) in 0..k-1, by order of selection; size (k,), the medoid itself included. A medoid
    whose twin was taken before it stands for none.
    """
    if is_accelerator(sets[0].device):
        return batched_greedy(sets, num_medoids)
    clusters = []
    for points, count in zip(sets, num_medoids, strict=True):
        similarity = similarities(points)
        order = lazy_greedy(similarity.numpy(), count)
        clusters.append(_assign(similarity, torch.from_numpy(order)))
    return clusters


def similarities(points: Tensor) -> Tensor:
    """c0 - distance of points (n, D), with c0 the largest distance: (n, n), all >= 0.

    Distances by matrix product would be wrong by up to 1e-3, and twins would not be at 0.
    """
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.max() - distance


def lazy_greedy(similarity: NDArray[np.floating], num_medoids: int) -> NDArray[np.int64]:
    """Medoids in order of selection, (k,), of a symmetric non-negative similarity (n, n).

    A gain only shrinks as medoids are added, so an old gain is an upper bound: the best bound is
    re-evaluated until it stays best. Ties go to the lowest row.
    """
    covered = np.zeros(len(similarity), similarity.dtype)
    bounds = [(-float(gain), row) for row, gain in enumerate(similarity.sum(1, dtype=np.float64))]
    heapq.heapify(bounds)
    order = np.empty(num_medoids, np.int64)
    for position in range(num_medoids):
        while True:
            _, row = bounds[0]
            gain = np.maximum(similarity[row] - covered, 0).sum(dtype=np.float64)
            # Put back and looked at again, so that an equal gain of a lower row comes first.
            heapq.heapreplace(bounds, (-float(gain), row))
            if bounds[0][1] == row:
                break
        heapq.heappop(bounds)
        order[position] = row
        np.maximum(covered, similarity[row], out=covered)
    return order


def batched_greedy(
    sets: Sequence[Tensor], num_medoids: Sequence[int]
) -> list[tuple[Tensor, Tensor]]:
    """:func:`medoid_clusters` with a step of all sets at once and no host synchronisation.

    Sets are padded to the largest with points that cover nothing and are never chosen.
    """
    widest = max(len(points) for points in sets)
    device = sets[0].device
    similarity = torch.zeros(len(sets), widest, widest, device=device, dtype=sets[0].dtype)
    free = torch.zeros(len(sets), widest, dtype=torch.bool, device=device)
    for index, points in enumerate(sets):
        similarity[index, : len(points), : len(points)] = similarities(points)
        free[index, : len(points)] = True
    covered = torch.zeros(len(sets), widest, device=device, dtype=similarity.dtype)
    order = torch.zeros(len(sets), max(num_medoids), dtype=torch.int64, device=device)
    group = torch.arange(len(sets), device=device)
    for step in range(max(num_medoids)):
        # F after taking each candidate: the gain plus what is covered already. Set by set, since
        # the intermediate matrix is as large as the similarities.
        values = [
            torch.maximum(rows, cover).sum(1, dtype=torch.float64)
            for rows, cover in zip(similarity, covered, strict=True)
        ]
        chosen = torch.stack(values).masked_fill_(~free, -1).argmax(1)
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
