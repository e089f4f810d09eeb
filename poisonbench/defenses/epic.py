"""EPIC: drop the training examples that stand alone in gradient space.

Paper      Yang, Liu, Mirzasoleiman, "Not All Poisons are Created Equal: Robust Training against
           Data Poisoning", ICML 2022, Algorithm 1.
Reference  YuYang0901/EPIC @ 0973f95.
Cost       a round is one forward pass over the training set and a greedy selection a class; the
           epochs after it are shorter by what it dropped.

Algorithm  (numbers reappear below)
  1  train K epochs on all examples; then at every T-th epoch:
  2    g_i = softmax(logits) - onehot(y_i), the gradient of the loss at the last layer's output;
       eval mode, images not augmented, labels as given
  3    in each class: k greedy medoids of the g_i (facility location, Euclidean distance), k a
       fraction of the class; each example belongs to its nearest medoid
  4    drop, for good, every medoid that stands for itself alone
  5    train on the rest

"EPIC-0.1" is the fraction of medoids, not of drops; HINT (arXiv 2309.08549) ran the defaults here.

Profiles   "paper" is Algorithm 1. "code" is the reference: medoids are sought among all examples,
           dropped ones too; rounds fall on multiples of T up to the last milestone of the learning
           rate (at 3/4 of the epochs without one).
Scenarios  in transfer and fine-tuning rounds are counted by the second stage's epochs.
Deviations k is rounded class by class; the reference rounds up and takes the excess from classes
           drawn at random. k shrinks with its class, where the paper keeps it: a fixed k leaves
           ever more of a shrinking class alone. A class that a round would empty is kept as it was,
           and the record says so. The reference's logits lack the head's bias and its similarity
           is exp(-distance / 10), nearly linear over these distances; both are not followed.
           ``offset_bug`` reproduces the reference's indexing of unequal classes: a class's cluster
           sizes are looked up c k_c places into the concatenated sizes, which is right for equal
           classes only; elsewhere large clusters are dropped and lone ones stay.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from poisonbench.core.settings import BaseConfig, Profiles, require, setting
from poisonbench.core.work import Passes, Sizes, Work
from poisonbench.defenses.base import Defense, Recipe, TrainingSet, TrainingState
from poisonbench.defenses.shared.facility_location import medoid_clusters
from poisonbench.defenses.shared.feature_filter import restore_emptied_classes
from poisonbench.influence.head import residuals
from poisonbench.models.classifier import Classifier
from poisonbench.training.evaluation import finite_outputs

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Config(BaseConfig):
    """EPIC's settings; the defaults are HINT's for CIFAR-10."""

    fraction: float = setting(0.1, "Medoids as a share of a class.", over=0, under=1)
    warmup: int = setting(10, "K: epochs before the first round.", low=1)
    interval: int = setting(4, "T: epochs between rounds.", low=1)
    rounds: Literal["from-warmup", "multiples"] = setting(
        "from-warmup", "Rounds at K, K + T, ... or at the multiples of T from K on."
    )
    until_milestone: bool = setting(False, "No rounds after the last milestone.")
    universe: Literal["remaining", "all"] = setting(
        "remaining", "Where medoids are sought: among the kept examples or all."
    )
    offset_bug: bool = setting(False, "Index cluster sizes as the reference code does.")


_BY_DATA = {
    "mnist": {"warmup": 5, "interval": 2},
    "mnist-sample": {"warmup": 2, "interval": 1},
    # The paper's share of the epochs; on validation images half as many rounds do a little better
    # (docs/findings.md, "The presets in colour").
    "cifar-small": {"warmup": 2, "interval": 1},
}

PROFILES: Profiles = {
    "paper": _BY_DATA,
    "code": {"*": {"rounds": "multiples", "until_milestone": True, "universe": "all"}, **_BY_DATA},
}


def build(config: Config, recipe: Recipe) -> Defense:
    """EPIC for one run; ValueError where no round falls inside the recipe's epochs."""
    rounds = rounds_of(config, recipe)
    require(
        len(rounds) > 0,
        f"warmup: expected a first round after at most {rounds.stop - 1} of {recipe.epochs} "
        f"epochs, got one after {rounds.start}",
    )
    return Epic(config, rounds)


def rounds_of(config: Config, recipe: Recipe) -> range:
    """The numbers of epochs after which there is a round."""
    last = recipe.epochs - 1
    if config.until_milestone:
        last = min(last, max(recipe.milestones, default=int(0.75 * recipe.epochs)))
    first = config.warmup
    if config.rounds == "multiples":
        first = math.ceil(config.warmup / config.interval) * config.interval
    return range(first, last + 1, config.interval)


def work(config: Config, recipe: Recipe, sizes: Sizes) -> Work:
    """The rounds' predictions; the selection is not counted, nor what it saves by dropping."""
    rounds = len(rounds_of(config, recipe))
    return Work(
        passes=(Passes(kind="forward", images=rounds * sizes.images),),
        remarks=("the greedy selection of medoids is not counted, nor what dropping saves",),
    )


class Epic(Defense):
    """Drops lone medoids when ``rounds`` epochs are done."""

    def __init__(self, config: Config, rounds: range) -> None:
        super().__init__(config)
        self.rounds = rounds

    def start_epoch(self, state: TrainingState) -> TrainingSet:
        """Steps 2-5 at a round; between rounds the training set stays as it is."""
        if state.epoch not in self.rounds:
            return state.train
        labels = state.train.labels
        everything = torch.ones_like(labels, dtype=torch.bool)
        keep = everything if state.train.keep is None else state.train.keep
        # 2 gradients at the logits; never in 16 bits, which would make twins of other examples
        logits = finite_outputs(state.model, state.train, Classifier.__call__, "logits")
        gradients = residuals(logits.softmax(1), labels)
        # 3 medoids and their clusters, class by class
        pool = keep if self.config.universe == "remaining" else everything
        members = [
            ((labels == label) & pool).nonzero().flatten() for label in labels[pool].unique()
        ]
        counts = [max(1, round(self.config.fraction * len(rows))) for rows in members]
        clusters = medoid_clusters([gradients[rows] for rows in members], counts)
        # 4 drop the lone ones
        kept = keep.clone()
        for rows, is_alone in zip(members, lone(clusters, self.config.offset_bug), strict=True):
            kept[rows[is_alone]] = False
        spared = restore_emptied_classes(labels, keep, kept)
        state.note(
            {
                "round": "epic",
                "medoids": sum(counts),
                "dropped": int((keep & ~kept).sum()),
                "kept": int(kept.sum()),
                "classes_spared": spared,
            }
        )
        # 5 train on the rest
        self.memory["keep"] = kept
        return state.train.with_keep(kept)


def lone(clusters: Sequence[tuple[Tensor, Tensor]], offset_bug: bool) -> list[Tensor]:
    """Step 4: of each class's (owner, size), which of its examples (n_c,) are clusters alone."""
    if not offset_bug:
        return [size[owner] == 1 for owner, size in clusters]
    # The reference counts the empty cluster of a twin as one, and reads past the end when the last
    # class has more than its share of medoids; here it then reads the last size.
    sizes = torch.cat([size for _, size in clusters]).clamp(min=1)
    return [
        sizes[(position * len(size) + owner).clamp(max=len(sizes) - 1)] == 1
        for position, (owner, size) in enumerate(clusters)
    ]
