"""Clean only: plain training on the images that are not poisoned. A control, not a defense.

Source  none; the bound that a perfect filter would reach.
Oracle  it is told which images are poisoned, which no defense may know. Any other way of dropping
        images can be read against it.

Algorithm
  1  before the first epoch, drop every poisoned image
  2  train plainly on the (1 - rho) N clean images that are left

Initial weights are those of every method of the trial, and the clean images come in the order that
they have in plain training, with the same augmentation. Epochs are the same number and shorter, so
there are (1 - rho) times the steps of plain training; ``--epochs`` can make up for that. At rho 0
it is plain training, byte for byte.
Scenarios  drops the poisons of what the scenario trains on. Where they are their whole class, as
           in the paper's transfer sets, that class goes, and a warning says so.
"""

import torch
from torch import Tensor

from poisonbench.core.settings import BaseConfig, require
from poisonbench.core.work import nothing_more
from poisonbench.defenses.base import Oracle, TrainingSet, TrainingState

VERSION = 1

#: Nothing to set.
Config = BaseConfig


class CleanOnly(Oracle):
    """Drops the poisons before the first epoch."""

    def reveal(self, is_poison: Tensor) -> None:
        """Remember the poisons as the base class does; ValueError where no image is clean."""
        require(
            not bool(is_poison.all()),
            "expected clean images to train on, got poisons alone; choose a smaller --rho",
        )
        super().reveal(is_poison)

    def start_epoch(self, state: TrainingState) -> TrainingSet:
        """Steps 1-2; after the first epoch the training set stays as it is."""
        if state.epoch > 0:
            return state.train
        labels = state.train.labels
        keep = ~self.is_poison.to(labels.device)
        emptied = labels.unique()[~torch.isin(labels.unique(), labels[keep])].tolist()
        state.note({"round": "filter", "classes_emptied": emptied})
        self.memory["keep"] = keep
        return state.train.with_keep(keep)


build = CleanOnly
work = nothing_more
