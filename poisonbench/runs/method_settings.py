"""From a method's name and what the user set to its config, its recipe and their variant."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from types import ModuleType
from typing import Any

from poisonbench.core.errors import UsageError
from poisonbench.core.settings import (
    BaseConfig,
    Option,
    Profiles,
    check_table,
    flag_of,
    meant_levels,
    options_of,
    parse_value,
    resolve,
    typed,
    unknown_option,
)
from poisonbench.data.budget import bound_fault
from poisonbench.data.splits import Dataset
from poisonbench.entries import (
    AttackEntry,
    Entry,
    MethodEntry,
    broken,
    profiles_of,
    recipe_changes,
    unusable,
)
from poisonbench.registry import recipe_owners, recipe_presets
from poisonbench.runs.context import default_model
from poisonbench.training.recipe import Recipe, recipe_profiles

#: The preset of what a data set sets itself, after its network's.
_OWN = "own settings"


@dataclass(frozen=True)
class Settings:
    """A method, fully set, and the recipe that its classifier is trained by.

    ``overrides`` is what the user set apart from the profile, by field name; ``given`` names all
    that the user set, to other values than the profile's or not.
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
    prefix: str = "",
) -> Settings:
    """Check a method's settings and build its config and recipe.

    ``values`` are what the user set by field name, of the method's config or of the recipe; the
    model is by default the data's, and some have a recipe of their own. The prefix stands before
    the options' names in messages, like the attack's name on the line of a run.

    Raises:
        UsageError: an option that the method lacks, or a bad value; an attack's Config without a
            budget.
    """
    module = entry.load()
    own_profiles = profiles_of(module)
    own, shared = method_options(entry, prefix)
    names = {option.name for option in own}
    given = typed_values(values, [*own, *shared], entry.name, prefix)
    presets = (*dataset.presets, model or default_model(dataset), _OWN)
    build: dict[str, Any] = {"profile": profile, "presets": presets, "owner": entry.name}
    changes, owners = recipe_changes(module), recipe_owners()
    for preset in ("*", *presets):
        key = f"[{profile!r}][{preset!r}]"
        own_values = own_profiles.get(profile, {}).get(preset, {})
        _check_table(entry, own_values, module.Config, f"PROFILES{key}")
        recipe_values = changes.get(profile, {}).get(preset, {})
        _check_table(entry, recipe_values, Recipe, f"RECIPE_CHANGES{key}")
        if preset in owners:
            _check_table(owners[preset], owners[preset].recipe, Recipe, "recipe")
    profiles = recipe_profiles(
        {name: changes.get(name, {}) for name in own_profiles}, recipe_presets()
    )
    own_profiles = _with_own(own_profiles, dataset.settings.get(entry.name))
    profiles = _with_own(profiles, dataset.settings.get(""))
    of_config = {name: value for name, value in given.items() if name in names}
    of_recipe = {name: value for name, value in given.items() if name not in names}
    try:
        config = resolve(module.Config, own_profiles, overrides=of_config, **build)
    except UsageError as error:
        raise UsageError(f"{error}{meant_levels(given, own)}") from None
    if isinstance(entry, AttackEntry) and (fault := bound_fault(config)):
        raise UsageError(f"{entry.name}: {fault}; mend its Config")
    recipe = resolve(Recipe, profiles, overrides=of_recipe, **build)
    overrides = differing(config, resolve(module.Config, own_profiles, overrides={}, **build))
    overrides |= differing(recipe, resolve(Recipe, profiles, overrides={}, **build))
    return Settings(entry, module, config, recipe, profile, overrides, frozenset(given))


def _check_table(owner: Entry, settings: Mapping[str, Any], config: type[Any], where: str) -> None:
    """Raise UsageError for what is no setting in a table of an entry or its module."""
    try:
        check_table(settings, config, where)
    except UsageError as error:
        fault = broken(owner.source, str(error))
        raise UsageError(unusable(owner.kind, owner.name, fault)) from None


def _with_own(profiles: Profiles, settings: Mapping[str, Any] | None) -> Profiles:
    """The profiles, each with the settings that the data set has of its own."""
    if not settings:
        return profiles
    return {name: {**presets, _OWN: settings} for name, presets in profiles.items()}


def method_options(entry: MethodEntry, prefix: str = "") -> tuple[list[Option], list[Option]]:
    """A method's own options, and those of the recipe that it lacks itself."""
    own = options_of(entry.load().Config, prefix)
    names = {option.name for option in own}
    shared = [o for o in options_of(Recipe, prefix) if o.name not in names] if entry.trains else []
    return own, shared


def parse_texts(
    values: Mapping[str, Any], methods: Mapping[str, MethodEntry], others: Iterable[Option] = ()
) -> dict[str, Any]:
    """Values by option name as Python code gives them, with texts such as ``"8/255"`` parsed.

    Args:
        values: what is no text, or of no option, is left as it is.
        methods: by what stands before their options' names, nothing or ``dc.``.
        others: options of no method.

    Raises:
        UsageError: a text that does not fit its option's type.
    """
    options = {option.name: option for option in others}
    for prefix, entry in methods.items():
        own, shared = method_options(entry)
        options = {prefix + option.name: option for option in (*shared, *own)} | options
    return {
        name: parse_value(value, options[name].kind, flag_of(name))
        if isinstance(value, str) and name in options
        else value
        for name, value in values.items()
    }


def typed_values(
    values: Mapping[str, Any], options: Iterable[Option], owner: str, prefix: str = ""
) -> dict[str, Any]:
    """Values by field name as the types that the options declare.

    Raises:
        UsageError: an option that the owner lacks, or a value that does not fit.
    """
    known = {option.name: option for option in options}
    for name in values:
        if name not in known:
            raise UsageError(unknown_option(name, known, owner, prefix))
    return {
        name: typed(value, known[name].kind, known[name].flag) for name, value in values.items()
    }


def differing(config: BaseConfig, other: BaseConfig) -> dict[str, Any]:
    """The values of a config, by field name, that another of its kind has not."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    return {name: value for name, value in values.items() if value != getattr(other, name)}
