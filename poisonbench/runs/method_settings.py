"""From a method's name and what the user set to its config, its recipe and their variant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import ModuleType
from typing import Any

from poisonbench.core.errors import UsageError
from poisonbench.core.settings import options_of, resolve, typed, unknown_option
from poisonbench.data.splits import Dataset
from poisonbench.entries import MethodEntry
from poisonbench.registry import recipe_presets
from poisonbench.runs.workspace import default_model
from poisonbench.training.recipe import Recipe, recipe_profiles


@dataclass(frozen=True)
class Settings:
    """A method, fully set.

    Attributes:
        entry: its row in the registry.
        module: its module.
        config: its config.
        recipe: how its classifier is trained.
        profile: the profile's name.
        overrides: what the user set apart from the profile, by field name.
        given: the names of all that the user set, to other values than the profile's or not.
    """

    entry: MethodEntry
    module: ModuleType
    config: Any
    recipe: Recipe
    profile: str
    overrides: dict[str, Any]
    given: frozenset[str] = frozenset()

    @property
    def pretraining(self) -> Recipe:
        """How the classifier is trained on clean data, in a scenario that does so."""
        return replace(self.recipe, recalibrate=0.0)


def read_settings(
    entry: MethodEntry,
    dataset: Dataset,
    profile: str,
    values: Mapping[str, Any],
    model: str | None = None,
) -> Settings:
    """Check a method's settings and build its config and recipe.

    Args:
        entry: attack or defense.
        dataset: names the presets.
        profile: "paper", or another that the method has.
        values: what the user set by field name, of the method's config or of the recipe.
        model: the network, by default the data's; some have a recipe of their own.

    Raises:
        UsageError: an option that the method lacks, or a bad value.
    """
    module = entry.load()
    kinds = {option.name: option for option in options_of(module.Config)}
    recipe_options = options_of(Recipe) if entry.trains else []
    recipe_kinds = {o.name: o for o in recipe_options if o.name not in kinds}
    for name in values:
        if name not in kinds and name not in recipe_kinds:
            raise UsageError(unknown_option(name, (*kinds, *recipe_kinds), entry.name))
    given = {
        name: typed(value, (kinds | recipe_kinds)[name].kind, (kinds | recipe_kinds)[name].flag)
        for name, value in values.items()
    }
    presets = (*dataset.presets, model or default_model(dataset))
    build = {"profile": profile, "presets": presets, "owner": entry.name}
    own = {name: value for name, value in given.items() if name in kinds}
    shared = {name: value for name, value in given.items() if name in recipe_kinds}
    config = resolve(module.Config, module.PROFILES, overrides=own, **build)  # type: ignore[arg-type]
    changes = getattr(module, "RECIPE_CHANGES", {})
    profiles = recipe_profiles(
        {name: changes.get(name, {}) for name in module.PROFILES}, recipe_presets()
    )
    recipe = resolve(Recipe, profiles, overrides=shared, **build)  # type: ignore[arg-type]
    plain_config = resolve(module.Config, module.PROFILES, overrides={}, **build)  # type: ignore[arg-type]
    plain_recipe = resolve(Recipe, profiles, overrides={}, **build)  # type: ignore[arg-type]
    overrides = {
        field.name: getattr(built, field.name)
        for built, plain in ((config, plain_config), (recipe, plain_recipe))
        for field in fields(built)
        if getattr(built, field.name) != getattr(plain, field.name)
    }
    return Settings(entry, module, config, recipe, profile, overrides, frozenset(given))
