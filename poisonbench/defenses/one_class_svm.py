"""One-class SVM: drop the training examples at the rim of their class's support.

Paper      Peri et al., "Deep k-NN Defense against Clean-label Data Poisoning Attacks", ECCV
           Workshops 2020, section on one-class SVMs; there a baseline of deep k-NN. The model is of
           Schoelkopf et al., "Estimating the Support of a High-Dimensional Distribution", Neural
           Computation 2001.
Library    scikit-learn's ``OneClassSVM`` (libsvm, float64).
Cost       a second training, and a quadratic program a class.

Algorithm  (numbers reappear below)
  1  features phi(x) of all training images, the input of the network's last layer
  2  a one-class SVM with an RBF kernel and nu = 0.01 for each class
  3  drop what lies outside
  4  train on the rest

Cuts       "ranked" drops the ceil(nu n_c) examples of the lowest scores. "sklearn" drops what the
           SVM itself predicts as outside. With more features than a class has examples nearly
           every one is a support vector on the boundary, and rounding puts many of them outside:
           at nu = 0.01 and 512 features it flags 39 % of a class of 50, 9 % of 500 and 1.5 % of
           5,000. The paper's convex polytope row (7.1 % of clean examples gone) looks like it.
Deviations gamma is not printed; it is scikit-learn's "scale", 1 / (F var(features)). A class of
           fewer than two examples is not judged.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from poisonbench.core.settings import setting
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
    """The filter's settings; the defaults are the paper's."""

    nu: float = setting(0.01, "Share of each class to be outside.", over=0, under=1)
    gamma: Literal["scale", "auto"] = setting("scale", "Width of the kernel, as in scikit-learn.")
    cut: Literal["ranked", "sklearn"] = setting(
        "ranked", "Remove exactly the share of lowest scores, or what the SVM predicts."
    )


def kept(features: Tensor, labels: Tensor, generator: torch.Generator, config: Config) -> Tensor:
    """Steps 2 and 3: the rows to keep, (N,) bool, of features (N, F); nothing is random."""
    from sklearn.svm import OneClassSVM

    keep = torch.ones(len(labels), dtype=torch.bool)
    outlyingness = torch.zeros(len(labels), dtype=torch.float64)
    for rows in rows_by_class(labels):
        if len(rows) < 2:
            continue
        data = features[rows].double().cpu().numpy()
        rows = rows.cpu()
        # 2 the support of a class
        svm = OneClassSVM(kernel="rbf", nu=config.nu, gamma=config.gamma)
        # What fit draws is of no use here, but comes from numpy's global generator otherwise.
        svm.random_state = 0
        svm.fit(data)
        # 3 what lies outside
        if config.cut == "sklearn":
            keep[rows] = torch.from_numpy(svm.predict(data) == 1)
        else:
            outlyingness[rows] = -torch.from_numpy(svm.score_samples(data))
    if config.cut == "sklearn":
        return keep.to(labels.device)
    return keep_lowest(outlyingness.to(labels.device), labels, config.nu)


build = partial(FeatureFilter, kept)
work = feature_work
