"""What an attack gets and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from poisonbench.models.classifier import Classifier


@dataclass(frozen=True)
class LabelledImages:
    """Images and what they show.

    Attributes:
        images: (N, C, H, W) float32 in [0, 1], on the device.
        labels: (N,) int64.
    """

    images: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True)
class AttackTask:
    """Everything an untargeted attack may look at. There is no test split here and no defense.

    Attributes:
        images: (P, C, H, W) float32 in [0, 1], the clean images that it may change, on the device.
        labels: (P,) int64, their labels; poisons keep them (clean-label).
        validation: clean images that are not among those, which the attacker trusts and may choose
            among its results by; no victim is trained or tested on them.
        num_classes: K.
        surrogate: returns the attacker's model, trained on clean data, in eval mode and frozen;
            an attack that needs none never calls it.
        generator: CPU generator, the only source of randomness.
        report: called with (steps done, steps in all) to show progress.
    """

    images: Tensor
    labels: Tensor
    validation: LabelledImages
    num_classes: int
    surrogate: Callable[[], Classifier]
    generator: torch.Generator
    report: Callable[[int, int], None]
