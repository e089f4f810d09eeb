"""What an attack gets and gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from poisonbench.attacks.shared.checkpoint import NO_CHECKPOINT, AttackCheckpoint
from poisonbench.data.splits import Split
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
        checkpoint: where an attack may save itself between two steps.
    """

    images: Tensor
    labels: Tensor
    validation: LabelledImages
    num_classes: int
    surrogate: Callable[[], Classifier]
    generator: torch.Generator
    report: Callable[[int, int], None]
    checkpoint: AttackCheckpoint = NO_CHECKPOINT


@dataclass(frozen=True, kw_only=True)
class TargetedTask:
    """Everything a targeted attack may look at, for T targets at once: T attacks side by side.

    No victim's seed, weight or batch is here. What a target's poisons become depends on that
    target's row of each tensor and on its generator alone, not on its neighbours.

    Attributes:
        images: (T, P, C, H, W) float32 in [0, 1], the base images, on the device.
        labels: (T, P) int64, their labels; poisons keep them (clean-label).
        rows: (T, P) int64, where they lie in ``train``.
        targets: (T, C, H, W) float32 in [0, 1], the test images that shall be misclassified.
        intended: (T,) int64, the classes that they shall be given.
        train: the clean training split, uint8, on the device.
        num_classes: K.
        epochs: those of a full training of a surrogate.
        snapshots: ``snapshots(number, epochs)`` gives the attacker's model of that number after
            each of these numbers of epochs, trained on clean data; in eval mode, frozen, on the
            device. Numbers differ in initial weights and batches. All targets share them.
        generators: T CPU generators, the only source of randomness.
        report: called with (steps done, steps in all) to show progress.
        checkpoint: where an attack may save itself between two steps, with all its targets.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor
    targets: Tensor
    intended: Tensor
    train: Split
    num_classes: int
    epochs: int
    snapshots: Callable[[int, Sequence[int]], list[Classifier]]
    generators: Sequence[torch.Generator]
    report: Callable[[int, int], None]
    checkpoint: AttackCheckpoint = NO_CHECKPOINT
