"""Random filtering: drop training examples by lot.

Paper      Peri et al., "Deep k-NN Defense against Clean-label Data Poisoning Attacks", ECCV
           Workshops 2020, the control of its tables: what a filter gains by removing as many
           examples without looking at them.
Cost       none; training is shorter by what went.

Algorithm
  1  drop round(fraction N) of the N training examples, drawn uniformly
  2  train on the rest

Settings   the paper's text says 1 % for feature collision, its Table 1 shows 10 % in both settings.
           To compare with another filter, give the share that its record says it removed.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from poisonbench.core.settings import BaseConfig, setting
from poisonbench.core.work import nothing_more
from poisonbench.defenses.shared.feature_filter import FeatureFilter

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Config(BaseConfig):
    """The filter's settings; the defaults are of the paper's Table 1."""

    fraction: float = setting(0.1, "Share of the training set to remove.", over=0, under=1)


def kept(features: Tensor, labels: Tensor, generator: torch.Generator, config: Config) -> Tensor:
    """Step 1: the rows to keep, (N,) bool; features are not looked at."""
    keep = torch.ones_like(labels, dtype=torch.bool)
    count = round(config.fraction * len(labels))
    keep[torch.randperm(len(labels), generator=generator)[:count].to(labels.device)] = False
    return keep


build = partial(FeatureFilter, kept)
work = nothing_more
