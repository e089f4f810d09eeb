"""mixup: train on blends of pairs of images, with the blend of their labels.

Paper      Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018,
           eq. 1 and the code of its Figure 1. As a defense against poisons: Borgnia et al., "Strong
           Data Augmentation Sanitizes Poisoning and Backdoor Attacks Without an Accuracy Tradeoff",
           ICASSP 2021.
Cost       next to nothing.

Algorithm  (numbers reappear below), for each batch (x, y)
  1  lambda ~ Beta(alpha, alpha), and a random order of the batch gives each image a partner
  2  train on lambda x + (1 - lambda) x_partner
  3  with the loss lambda CE(., y) + (1 - lambda) CE(., y_partner), the cross-entropy of the blended
     one-hot labels

Settings   alpha 1, the paper's for CIFAR-10: lambda is uniform.
Deviations none. As in the paper's code one lambda serves a batch.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from poisonbench.core.devices import send
from poisonbench.core.settings import BaseConfig, setting
from poisonbench.core.work import nothing_more
from poisonbench.defenses.base import Defense, TrainingState
from poisonbench.training.augmentation import draw_beta

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Config(BaseConfig):
    """The settings of mixup; the defaults are the paper's."""

    alpha: float = setting(
        1.0, "Of Beta(alpha, alpha); small means that one image prevails.", over=0
    )


class Mixup(Defense):
    """Blends every batch; both hooks make the same draws."""

    config: Config

    def perturb_batch(self, state: TrainingState, images: Tensor, labels: Tensor) -> Tensor:
        """Step 2."""
        weight, partner = self._draw(state, labels)
        return weight * images + (1 - weight) * images[partner]

    def batch_loss(self, state: TrainingState, logits: Tensor, labels: Tensor) -> Tensor:
        """Step 3."""
        weight, partner = self._draw(state, labels)
        own = F.cross_entropy(logits, labels)
        return weight * own + (1 - weight) * F.cross_entropy(logits, labels[partner])

    def _draw(self, state: TrainingState, labels: Tensor) -> tuple[float, Tensor]:
        """Step 1: lambda, and each image's partner, (B,) rows of the batch."""
        generator = state.generator("mixup")
        weight = draw_beta(self.config.alpha, generator)
        return weight, send(torch.randperm(len(labels), generator=generator), labels.device)


build = Mixup
work = nothing_more
