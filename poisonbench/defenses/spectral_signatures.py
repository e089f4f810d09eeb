"""Spectral signatures: drop what sticks out along a class's first principal direction.

Paper      Tran, Li, Madry, "Spectral Signatures in Backdoor Attacks", NeurIPS 2018, Algorithm 1.
           Made for backdoors; EPIC and FRIENDS compare with it on triggerless poisons.
Cost       a second training; the filter itself is an F x F eigenproblem a class.

Algorithm  (numbers reappear below)
  1  features phi(x) of all training images, the input of the network's last layer
  2  for each class: mu the mean of its features, M the matrix of rows phi(x) - mu, v the top right
     singular vector of M
  3  score each example by ((phi(x) - mu) . v)^2
  4  drop the 1.5 epsilon n_c highest scores of the class
  5  train on the rest

Settings   epsilon bounds the share of poisons in a class. 0.1 with the paper's 1.5 removes 15 % of
           each class: of CIFAR-10's 5,000 images the 750 that the comparisons in EPIC and FRIENDS
           remove, whose poisons are 1 % of the data, all in one class.
Deviations v is the top eigenvector of M^T M (of M M^T where a class has fewer examples than
           features), in float64: the same scores, faster. The paper retrains for all classes at
           once, as here.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from poisonbench.core.settings import require, setting
from poisonbench.defenses.shared.feature_filter import (
    FeatureFilter,
    FilterConfig,
    feature_work,
    keep_lowest,
    rows_by_class,
)

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Config(FilterConfig):
    """The filter's settings."""

    epsilon: float = setting(
        0.1, "Most poisons that are feared, as a share of a class.", over=0, under=1
    )
    multiplier: float = setting(1.5, "Removed for each that is feared.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0 < self.multiplier * self.epsilon < 1,
            "multiplier: expected multiplier x epsilon in (0, 1), got "
            f"{self.multiplier} x {self.epsilon}",
        )


def kept(features: Tensor, labels: Tensor, generator: torch.Generator, config: Config) -> Tensor:
    """Steps 2-4: the rows to keep, (N,) bool, of features (N, F); nothing is random."""
    scores = torch.zeros(len(labels), dtype=torch.float64, device=labels.device)
    for rows in rows_by_class(labels):
        scores[rows] = spectral_scores(features[rows])
    # 4 the highest
    return keep_lowest(scores, labels, config.multiplier * config.epsilon)


def spectral_scores(features: Tensor) -> Tensor:
    """Steps 2 and 3 for one class: (n_c,) float64 of features (n_c, F)."""
    centred = features.double()
    centred = centred - centred.mean(0)
    if centred.shape[0] < centred.shape[1]:
        # M M^T has eigenvectors u and eigenvalues s^2, and (M v)^2 = s^2 u^2.
        values, vectors = torch.linalg.eigh(centred @ centred.T)
        return torch.mul(values[-1].clamp(min=0), vectors[:, -1].square())
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    return torch.mv(centred, vectors[:, -1]).square()


build = partial(FeatureFilter, kept)
work = feature_work
