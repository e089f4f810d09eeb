"""No defense: the shared training loop, unedited.

Source     the baseline "W/o Defense" of the HINT paper's tables (arXiv 2309.08549).
Extension  ``--with-validation true``, not the paper's, is a control: the clean validation images
           are trained on like the others. HINT needs them, so this is plain training on all the
           data that HINT has. It shares initial weights with the other runs of its trial, and
           nothing else: batches and augmentation are drawn for N + M rows, not N, and an epoch has
           (N + M) / N times the steps. The validation accuracy of its record is that of images it
           was trained on and says nothing.
"""

from dataclasses import dataclass

import torch

from poisonbench.core.settings import BaseConfig, Profiles, setting
from poisonbench.core.work import nothing_more
from poisonbench.data.splits import Split
from poisonbench.defenses.base import Defense, Recipe
from poisonbench.training.recipe import HINT_CODE_CHANGES

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Config(BaseConfig):
    """What is trained on."""

    with_validation: bool = setting(
        False, "Train on the validation images as well, a control.", extension=True
    )


#: "code" trains as HINT's reference code does, for a column beside its profile of that name.
PROFILES: Profiles = {"paper": {}, "code": {}}
RECIPE_CHANGES: Profiles = HINT_CODE_CHANGES


def build(config: Config, recipe: Recipe) -> Defense:
    """The defense that edits nothing, or the control."""
    return WithValidation() if config.with_validation else Defense()


class WithValidation(Defense):
    """Trains on the validation images as well."""

    def extend(self, train: Split, validation: Split) -> Split:
        """The N training images, then the M validation images."""
        return Split(
            torch.cat([train.images, validation.images]),
            torch.cat([train.labels, validation.labels]),
        )


work = nothing_more
