"""Activation clustering: split each class in two and drop a part that is small.

Paper      Chen et al., "Detecting Backdoor Attacks on Deep Neural Networks by Activation
           Clustering", SafeAI 2019, Algorithm 1 and its analysis of clusters. Made for backdoors;
           EPIC and FRIENDS compare with it on triggerless poisons.
Library    scikit-learn's ``PCA``, ``KMeans`` and ``silhouette_score``.
Cost       a second training; the filter itself takes seconds.

Algorithm  (numbers reappear below)
  1  features phi(x) of all training images, the input of the network's last layer
  2  for each class: reduce its features to 10 dimensions
  3  k-means with two clusters
  4  suspect the smaller cluster, or neither, by one of:
       relative-size  it holds less than 35 % of the class
       silhouette     that, and the two clusters are apart: a mean silhouette over 0.1
       smaller        always
  5  drop the suspected clusters and train on the rest

Settings   10 dimensions and two clusters are the paper's; 35 % and 0.1 are the thresholds of the
           Adversarial Robustness Toolbox, by the paper's authors.
Profiles   "paper"; "code" is the form whose figures EPIC and FRIENDS print (JonasGeiping/data-
           poisoning @ 88d929c): clusters of the features themselves, and the smaller one of every
           class goes, poisoned or not, which costs much accuracy.
Deviations Principal components instead of independent ones: the same subspace up to whitening, and
           without an iteration that may not converge. The paper's third analysis, to classify
           suspects by a network trained without them, takes another training a class and is left
           out. Classes of fewer than three examples are not judged. Ties of size suspect neither
           ("smaller": the second).
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from poisonbench.core.settings import Profiles, setting
from poisonbench.defenses.shared.feature_filter import (
    FeatureFilter,
    FilterConfig,
    feature_work,
    rows_by_class,
)

VERSION = 1

STARTS = 10


@dataclass(frozen=True, kw_only=True)
class Config(FilterConfig):
    """The filter's settings; the defaults are the paper's."""

    dimensions: int | None = setting(10, "Dimensions to cluster in; none: all features.", low=1)
    analysis: Literal["relative-size", "silhouette", "smaller"] = setting(
        "relative-size", "When the smaller cluster is dropped."
    )
    largest_share: float = setting(
        0.35, "Share of a class under which a cluster is small.", over=0, high=0.5
    )
    least_silhouette: float = setting(
        0.1, "Mean silhouette over which clusters are apart.", low=-1, high=1
    )


PROFILES: Profiles = {"paper": {}, "code": {"*": {"dimensions": None, "analysis": "smaller"}}}


def kept(features: Tensor, labels: Tensor, generator: torch.Generator, config: Config) -> Tensor:
    """Steps 2-4: the rows to keep, (N,) bool; the generator seeds the starts of k-means."""
    keep = torch.ones_like(labels, dtype=torch.bool)
    for rows in rows_by_class(labels):
        seed = int(torch.randint(2**31 - 1, (), generator=generator))
        if len(rows) >= 3:
            is_suspect = suspects(features[rows].double().cpu().numpy(), seed, config)
            keep[rows] = torch.from_numpy(~is_suspect).to(keep.device)
    return keep


def suspects(points: NDArray[np.float64], seed: int, config: Config) -> NDArray[np.bool_]:
    """Steps 2-4 for one class: which of its examples (n_c,) go, of features (n_c, F)."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.metrics import silhouette_score
    from threadpoolctl import threadpool_limits

    nobody = np.zeros(len(points), dtype=np.bool_)
    if np.ptp(points, axis=0).max() == 0:
        return nobody
    # 2 dimensions
    if config.dimensions is not None and config.dimensions < min(points.shape):
        points = PCA(config.dimensions, random_state=seed).fit_transform(points)
    # 3 two clusters; on one thread, since several add up in any order
    with threadpool_limits(1):
        side: NDArray[np.int32] = KMeans(2, n_init=STARTS, random_state=seed).fit_predict(points)
    # 4 the smaller one
    share = float(np.mean(side == 1))
    smaller: NDArray[np.bool_] = side == (0 if share > 0.5 else 1)
    if config.analysis == "smaller":
        return smaller
    is_small = min(share, 1 - share) < config.largest_share
    if is_small and config.analysis == "silhouette":
        is_small = silhouette_score(points, side) > config.least_silhouette
    return smaller if is_small else nobody


build = partial(FeatureFilter, kept)
work = feature_work
