"""Deep k-NN: drop the training examples whose neighbours have other labels.

Paper      Peri, Gupta, Huang, Fowl, Zhu, Feizi, Goldstein, Dickerson, "Deep k-NN Defense against
           Clean-label Data Poisoning Attacks", ECCV Workshops 2020 (ICLR 2020 submission "Strong
           Baseline Defenses Against Clean-Label Poisoning Attacks"), Algorithm 1.
Reference  neeharperi/DeepKNNDefense @ ae19815.
Cost       a second training, and all N^2 distances: 2 N^2 F operations.

Algorithm  (numbers reappear below)
  1  features phi(x) of all training images, the input of the network's last layer
  2  for each example: its k nearest others by Euclidean distance in features
  3  keep it if its label is among the most frequent labels of those k; drop it otherwise
  4  train on the rest

Settings   k is the mean number of examples of a class, as in the paper's experiments (5,000 for
           feature collision, 50 for convex polytope; its rule for p poisons is 2 p + 1).
Rules      "modes" is the paper's: ties keep. "lowest-mode" keeps only the lowest of the most
           frequent labels, as scikit-learn's classifier votes, which the reference code calls.
           "half" keeps what at least half of the neighbours agree with (an absolute majority).
Profiles   "paper"; "code" is the reference: "lowest-mode", and an example is its own neighbour,
           on which the paper says nothing.
Deviations Examples that tie with the k-th neighbour to the last bit all vote, so that the order of
           the data decides nothing.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from poisonbench.core.devices import is_accelerator
from poisonbench.core.settings import Profiles, setting
from poisonbench.defenses.shared.feature_filter import FeatureFilter, FilterConfig, feature_work

VERSION = 1

#: Distances that are held at once: 64 MiB on a CPU, 512 MiB on a GPU.
BLOCK = {"cpu": 2**24, "accelerator": 2**27}


@dataclass(frozen=True, kw_only=True)
class Config(FilterConfig):
    """Deep k-NN's settings; the defaults are the paper's."""

    k: int | None = setting(None, "Neighbours that vote; none: the mean size of a class.", low=1)
    rule: Literal["modes", "lowest-mode", "half"] = setting(
        "modes", "Keep labels among the most frequent, the lowest of those, or held by half."
    )
    count_self: bool = setting(False, "An example is the first of its own neighbours.")


PROFILES: Profiles = {"paper": {}, "code": {"*": {"rule": "lowest-mode", "count_self": True}}}


def kept(features: Tensor, labels: Tensor, generator: torch.Generator, config: Config) -> Tensor:
    """Steps 2 and 3: the rows to keep, (N,) bool, of features (N, F); nothing is random."""
    num_classes = int(labels.max()) + 1
    k = config.k or max(1, round(len(labels) / len(labels.unique())))
    # 2 neighbours
    votes = neighbour_votes(features, labels, num_classes, k, count_self=config.count_self)
    # 3 vote
    own = votes.gather(1, labels[:, None]).squeeze(1)
    if config.rule == "half":
        return 2 * own >= votes.sum(1)
    if config.rule == "lowest-mode":
        return votes.argmax(1) == labels
    return own == votes.amax(1)


def neighbour_votes(
    features: Tensor, labels: Tensor, num_classes: int, k: int, *, count_self: bool
) -> Tensor:
    """How many of the k nearest examples have each label, (N, K) int64, on the features' device.

    No neighbour is looked up: the k-th smallest distance is selected, and each class's distances
    up to it are counted. So the time hardly depends on k; more than there are means all.
    """
    k = min(k, len(labels) - (not count_self))
    if k < 1:
        return F.one_hot(labels, num_classes)
    # By class, so that a class's distances are adjacent; centred, so that rounding is small.
    order = labels.argsort(stable=True)
    points = (features - features.mean(0))[order]
    ends = torch.bincount(labels, minlength=num_classes).cumsum(0).tolist()
    classes = list(zip([0, *ends], ends, strict=False))
    own = -math.inf if count_self else math.inf
    count = _count_at_once if is_accelerator(features.device) else _count_cpu
    votes = torch.empty(len(labels), num_classes, dtype=torch.int64, device=labels.device)
    for rows, block in count(points, classes, k, own):
        votes[order[rows]] = block
    return votes


def _count_cpu(
    points: Tensor, classes: list[tuple[int, int]], k: int, own: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and their votes, block by block: NumPy selects a row's k-th value at memory's speed."""
    data = points.numpy()
    norms = np.square(data).sum(1)
    size = max(1, BLOCK["cpu"] // len(data))
    buffers = [np.empty((min(size, len(data)), len(data)), data.dtype) for _ in range(2)]
    for start in range(0, len(data), size):
        rows = np.arange(start, min(start + size, len(data)))
        distances, scratch = (buffer[: len(rows)] for buffer in buffers)
        # Squared, less the row's own norm, which changes no order within the row.
        np.matmul(-2 * data[rows], data.T, out=distances)
        distances += norms
        distances[np.arange(len(rows)), rows] = own
        np.copyto(scratch, distances)
        scratch.partition(k - 1, axis=1)
        is_near = distances <= scratch[:, k - 1 : k]
        votes = [np.count_nonzero(is_near[:, first:end], axis=1) for first, end in classes]
        yield torch.from_numpy(rows), torch.from_numpy(np.stack(votes, 1))


def _count_at_once(
    points: Tensor, classes: list[tuple[int, int]], k: int, own: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """The same as :func:`_count_cpu`, where the points are."""
    norms = points.square().sum(1)
    size = max(1, BLOCK["accelerator"] // len(points))
    for rows in torch.arange(len(points), device=points.device).split(size):
        distances = torch.addmm(norms, points[rows], points.T, alpha=-2)
        distances[torch.arange(len(rows), device=rows.device), rows] = own
        is_near = distances <= distances.kthvalue(k, dim=1, keepdim=True).values
        yield rows, torch.stack([is_near[:, first:end].sum(1) for first, end in classes], 1)


build = partial(FeatureFilter, kept)
work = feature_work
