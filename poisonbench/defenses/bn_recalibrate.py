"""Recalibration: train plainly, then take batch norm's running statistics from clean images.

Source     recalibrating batch norm on other data without labels is AdaBN (Li, Wang, Shi, Liu, Hou,
           "Revisiting Batch Normalization For Practical Domain Adaptation", arXiv 1603.04779); as
           a defense against poisons it is this project's, made of its own diagnostic.
Needs      clean images, without labels: the validation split. A network with batch norm.
Cost       one forward pass over the validation images.

Algorithm
  1  train plainly on the poisoned images
  2  after the last epoch, reset the running mean and variance of every batch norm and average them
     over batches of about 100 clean images

Where      the recipe does both (``models/norms.py``), by ``recalibrate``, the share of the
           validation images, which this method sets to 1: any other defense takes it as well
           (``--method hint --recalibrate 1``).
Scenarios  all; in transfer the statistics are the frozen features' too.
Limits     repairs what poisons do to the statistics, not what they do to weights.
"""

from collections.abc import Collection

from poisonbench.core.settings import BaseConfig, Profiles, require
from poisonbench.core.work import nothing_more
from poisonbench.defenses.base import Defense, Recipe

VERSION = 1

#: Nothing to set: the recipe's ``recalibrate`` is the method's setting.
Config = BaseConfig
RECIPE_CHANGES: Profiles = {"paper": {"*": {"recalibrate": 1.0}}}


class Recalibration(Defense):
    """Plain training, by a recipe that recalibrates."""

    recipe: Recipe

    def check_run(self, scenario: str, given: Collection[str]) -> None:
        """Refuse a recipe that recalibrates nothing."""
        require(
            self.recipe.recalibrate > 0,
            "expected a share of the validation images above 0 as --recalibrate, got 0; "
            "--method none trains without",
        )


build = Recalibration
work = nothing_more
