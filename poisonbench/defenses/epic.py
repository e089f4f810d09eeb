"""EPIC: drop the training examples that stand alone in gradient space.

Paper      Yang, Liu, Mirzasoleiman, "Not All Poisons are Created Equal: Robust Training against
           Data Poisoning", ICML 2022, Algorithm 1.
Reference  YuYang0901/EPIC @ 0973f95.
Cost       a round is one forward pass over the training set and a greedy selection a class.

Algorithm  (numbers reappear below)
  1  train K epochs on all examples; then at every T-th epoch:
  2    g_i = softmax(logits) - onehot(y_i), the gradient of the loss at the last layer's output
  3    in each class: k greedy medoids of the g_i (facility location, Euclidean distance), k a
       fraction of the class; each example belongs to its nearest medoid
  4    drop, for good, every medoid that stands for itself alone
  5    train on the rest

"EPIC-0.1" is the fraction of medoids, not of drops. HINT (arXiv 2309.08549) ran EPIC-0.1 with K = 10
and T = 4 on CIFAR-10 and K = 5 and T = 2 on MNIST, which are the defaults here.

Profiles   "paper" is Algorithm 1. "code" is the reference: medoids are sought among all examples,
           dropped ones too; rounds fall on multiples of T up to the last milestone of the learning
           rate (at 3/4 of the epochs without one).
Deviations A class that a round would empty is kept whole, and the record says so. The reference
           computes logits without the head's bias and similarities as exp(-distance / 10).
           ``offset_bug`` reproduces the reference's indexing of unequal classes: a class's cluster
           sizes are looked up c k_c places into the concatenated sizes, which is right for equal
           classes only; elsewhere large clusters are dropped and lone ones stay.
Shapes     N training examples, K classes, n_c examples of class c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from poisonbench.config import Profiles, require, setting
from poisonbench.facility_location import cluster_sizes_of_sets
from poisonbench.influence.head import embed_all, head_weights, residuals
from poisonbench.models.classifier import frozen
from poisonbench.training.recipe import Recipe
from poisonbench.training.state import Defense, TrainingSet, TrainingState

RECIPE_NUMBER = 1


@dataclass(frozen=True, kw_only=True)
class Config:
    """EPIC's settings; the defaults are HINT's for CIFAR-10."""

    fraction: float = setting(0.1, "Medoids as a share of a class, in (0, 1).")
    warmup: int = setting(10, "K: epochs before the first round.")
    interval: int = setting(4, "T: epochs between rounds.")
    rounds: Literal["from-warmup", "multiples"] = setting(
        "from-warmup", "Rounds at K, K + T, ... or at the multiples of T from K on."
    )
    until_milestone: bool = setting(False, "No rounds after the last milestone.")
    universe: Literal["remaining", "all"] = setting(
        "remaining", "Where medoids are sought: among the kept examples or all."
    )
    offset_bug: bool = setting(False, "Index cluster sizes as the reference code does.")

    def __post_init__(self) -> None:
        require(0 < self.fraction < 1, f"fraction: expected in (0, 1), got {self.fraction}")
        require(self.warmup >= 1, f"warmup: expected at least 1, got {self.warmup}")
        require(self.interval >= 1, f"interval: expected at least 1, got {self.interval}")


PROFILES: Profiles = {
    "paper": {
        "mnist": {"warmup": 5, "interval": 2},
        "mnist-sample": {"warmup": 2, "interval": 1},
    },
    "code": {
        "*": {"rounds": "multiples", "until_milestone": True, "universe": "all"},
        "mnist": {"warmup": 5, "interval": 2},
        "mnist-sample": {"warmup": 2, "interval": 1},
    },
}


def build(config: Config, recipe: Recipe) -> Defense:
    """EPIC for one run.

    Raises:
        ValueError: no round falls inside the recipe's epochs.
    """
    last = recipe.epochs - 1
    if config.until_milestone:
        milestones = recipe.milestones or (int(0.75 * recipe.epochs),)
        last = min(last, max(milestones))
    phase = config.warmup if config.rounds == "from-warmup" else 0
    epochs = frozenset(
        epoch for epoch in range(config.warmup, last + 1) if (epoch - phase) % config.interval == 0
    )
    require(
        len(epochs) > 0,
        f"warmup: expected a round before epoch {last + 1}, got the first at {config.warmup}",
    )
    return Epic(config, epochs)


class Epic(Defense):
    """Drops lone medoids at the rounds' epochs."""

    def __init__(self, config: Config, epochs: frozenset[int]) -> None:
        super().__init__()
        self.config = config
        self.epochs = epochs

    def start_epoch(self, state: TrainingState) -> TrainingSet:
        """Steps 2-5 at a round's epoch; else the training set as it is."""
        if state.epoch not in self.epochs:
            return state.train
        train = state.train
        labels = train.labels
        keep = torch.ones_like(labels, dtype=torch.bool) if train.keep is None else train.keep
        # 2 gradients at the logits
        with frozen(state.model) as model, torch.no_grad():
            logits = embed_all(model, train.images) @ head_weights(model).T
        gradients = residuals(logits.softmax(1), labels)
        # 3 medoids and their clusters, class by class
        pool = keep if self.config.universe == "remaining" else torch.ones_like(keep)
        members = [
            ((labels == label) & pool).nonzero().flatten() for label in labels[pool].unique()
        ]
        counts = [max(1, round(self.config.fraction * len(rows))) for rows in members]
        clusters = cluster_sizes_of_sets([gradients[rows] for rows in members], counts)
        # 4 drop the lone ones
        drop = torch.zeros_like(keep)
        for rows, alone in zip(members, self._alone(clusters), strict=True):
            drop[rows] = alone
        drop &= keep
        spared = self._spare_classes(labels, keep, drop)
        state.note(
            {
                "round": "epic",
                "dropped": int(drop.sum()),
                "kept": int((keep & ~drop).sum()),
                "classes_spared": spared,
            }
        )
        # 5 train on the rest
        return train.with_keep(keep & ~drop)

    def _alone(self, clusters: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """For each class, which of its examples (n_c,) are in a cluster of one."""
        if not self.config.offset_bug:
            return [size[owner] == 1 for owner, size in clusters]
        sizes = torch.cat([size for _, size in clusters])
        return [
            sizes[(position * len(size) + owner).clamp(max=len(sizes) - 1)] == 1
            for position, (owner, size) in enumerate(clusters)
        ]

    def _spare_classes(self, labels: Tensor, keep: Tensor, drop: Tensor) -> list[int]:
        """Undo the drops of classes that would lose their last example; which they were."""
        emptied = [
            int(label)
            for label in labels[keep].unique()
            if not bool((keep & ~drop & (labels == label)).any())
        ]
        for label in emptied:
            drop &= labels != label
        return emptied
