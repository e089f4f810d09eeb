"""CutMix: train on images with a patch of another, with labels in proportion to the area.

Paper      Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
           Features", ICCV 2019, eq. 1-2 and its Algorithm A1. As a defense against poisons: Borgnia
           et al., "Strong Data Augmentation Sanitizes Poisoning and Backdoor Attacks Without an
           Accuracy Tradeoff", ICASSP 2021.
Reference  clovaai/CutMix-PyTorch.
Cost       next to nothing.

Algorithm  (numbers reappear below), for each batch (x, y), with the given probability
  1  lambda ~ Beta(alpha, alpha), and a random order of the batch gives each image a partner
  2  a box of sides H sqrt(1 - lambda) and W sqrt(1 - lambda) around a uniform centre, cut at the
     border; lambda becomes the share of the image outside it
  3  train on x with the partner's pixels inside the box
  4  with the loss lambda CE(., y) + (1 - lambda) CE(., y_partner), the cross-entropy of the one-hot
     labels in proportion to the area

Profiles   "paper" mixes every batch; "code" every other one (``--cutmix_prob 0.5``, as the
           reference's commands for CIFAR have it).
Deviations none. As in the paper one lambda and one box serve a batch.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from poisonbench.core.devices import send
from poisonbench.core.settings import BaseConfig, Profiles, setting
from poisonbench.core.work import nothing_more
from poisonbench.defenses.base import Defense, TrainingState
from poisonbench.training.augmentation import draw_beta

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Config(BaseConfig):
    """CutMix's settings; the defaults are the paper's."""

    alpha: float = setting(1.0, "Of Beta(alpha, alpha), lambda's distribution.", over=0)
    probability: float = setting(1.0, "Share of the batches that are mixed.", over=0, high=1)


PROFILES: Profiles = {"paper": {}, "code": {"*": {"probability": 0.5}}}


#: Lines and columns.
Box = tuple[slice, slice]


class CutMix(Defense):
    """Mixes the batches; both hooks make the same draws."""

    config: Config

    def perturb_batch(self, state: TrainingState, images: Tensor, labels: Tensor) -> Tensor:
        """Step 3."""
        _, partner, (lines, columns) = self._draw(state, labels)
        mixed = images.clone()
        mixed[:, :, lines, columns] = images[partner, :, lines, columns]
        return mixed

    def batch_loss(self, state: TrainingState, logits: Tensor, labels: Tensor) -> Tensor:
        """Step 4."""
        weight, partner, _ = self._draw(state, labels)
        own = F.cross_entropy(logits, labels)
        return weight * own + (1 - weight) * F.cross_entropy(logits, labels[partner])

    def _draw(self, state: TrainingState, labels: Tensor) -> tuple[float, Tensor, Box]:
        """Steps 1 and 2: lambda, partners (B,), and the box, empty where nothing is mixed."""
        generator = state.generator("cutmix")
        height, width = state.train.images.shape[2:]
        chance, line, column = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        partner = send(torch.randperm(len(labels), generator=generator), labels.device)
        if chance >= self.config.probability:
            return 1.0, partner, (slice(0, 0), slice(0, 0))
        outside = draw_beta(self.config.alpha, generator)
        lines, columns = box_side(height, outside, line), box_side(width, outside, column)
        area = (lines.stop - lines.start) * (columns.stop - columns.start)
        return 1 - area / (height * width), partner, (lines, columns)


def box_side(length: int, outside: float, centre: float) -> slice:
    """Step 2 along a side of some length: pixels in the box, of lambda and centre as drawn."""
    size, middle = int(length * math.sqrt(1 - outside)), int(length * centre)
    return slice(max(middle - size // 2, 0), min(middle + size // 2, length))


build = CutMix
work = nothing_more
