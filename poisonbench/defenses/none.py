"""No defense: the shared training loop, unedited.

Source  the baseline "W/o Defense" of the HINT paper's tables (arXiv 2309.08549).
"""

from __future__ import annotations

from dataclasses import dataclass

from poisonbench.config import Profiles
from poisonbench.training.recipe import Recipe
from poisonbench.training.state import Defense

RECIPE_NUMBER = 1


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to set."""


#: "code" trains as HINT's reference code does, for a column beside its profile of that name.
PROFILES: Profiles = {"paper": {}, "code": {}}
RECIPES: Profiles = {"code": {"mnist": {"epochs": 10}}}


def build(config: Config, recipe: Recipe) -> Defense:
    """The defense that edits nothing."""
    return Defense()
