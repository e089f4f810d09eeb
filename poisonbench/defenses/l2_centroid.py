"""L2 centroid: drop the training examples that lie farthest from their class's mean.

Paper      Peri et al., "Deep k-NN Defense against Clean-label Data Poisoning Attacks", ECCV
           Workshops 2020, section on L2-norm outliers; there a baseline of deep k-NN.
Cost       a second training; the filter itself is a pass over the features.

Algorithm  (numbers reappear below)
  1  features phi(x) of all training images, the input of the network's last layer
  2  the centroid of class c is the mean of its features
  3  drop the ceil(epsilon n_c) examples of class c farthest from it
  4  train on the rest

Settings   epsilon is the share of poisons that is feared: 0.01 for the paper's feature collision
           (50 in a class of 5,000); for its convex polytope (5 in a class of 50) it is not printed,
           and the 9.1 % of clean examples that went fit 0.1.
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from poisonbench.core.settings import setting
from poisonbench.defenses.shared.feature_filter import (
    FeatureFilter,
    FilterConfig,
    feature_work,
    keep_lowest,
)

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Config(FilterConfig):
    """The filter's settings; the defaults are the paper's for feature collision."""

    fraction: float = setting(0.01, "epsilon: share of each class to remove.", over=0, under=1)


def kept(features: Tensor, labels: Tensor, generator: torch.Generator, config: Config) -> Tensor:
    """Steps 2 and 3: the rows to keep, (N,) bool, of features (N, F); nothing is random."""
    return keep_lowest(distances_to_centroid(features, labels), labels, config.fraction)


def distances_to_centroid(features: Tensor, labels: Tensor) -> Tensor:
    """Squared Euclidean distance of each example to the mean of its class, (N,)."""
    members = F.one_hot(labels).to(features)
    # A matrix product instead of scattered sums, which a GPU adds in any order.
    means = members.T @ features / members.sum(0).clamp(min=1)[:, None]
    return (features - means[labels]).square().sum(1)


build = partial(FeatureFilter, kept)
work = feature_work
