"""What the module of an entry must hold, and names that no setting has. No torch here."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from poisonbench.core.settings import BaseConfig
from poisonbench.targeting import Targeting

#: Options of ``craft`` and ``defend``, which would hide a method's settings of the same names.
CRAFT_OPTIONS = {
    *("attack", "dataset", "preset", "rho", "selection", "trial", "trials", "profile", "model"),
    *("results", "data_root", "device", "seed", "plugin", "json", "quiet", "help"),
}
DEFEND_OPTIONS = CRAFT_OPTIONS | {
    *("method", "poison", "clean", "poison_trial", "attack_profile", "attack_model"),
    *("save_model", "plan"),
}
#: Those of a target, which ``defend`` always takes, and ``craft`` with a targeted attack.
TARGET_OPTIONS = {field.name for field in fields(Targeting)}

#: By name, what a module must hold: in words, and the check.
Needs = Mapping[str, tuple[str, Callable[[Any], bool]]]


def takes(count: int) -> Callable[[Any], bool]:
    """A check that a value can be called with so many arguments by position."""

    def fits(value: Any) -> bool:
        try:
            inspect.signature(value).bind(*range(count))
        except TypeError:
            return False
        except ValueError:
            # Code that is not Python's tells no signature.
            return callable(value)
        return True

    return fits


def call_text(value: Any) -> str:
    """What can be called as ``name(its, parameters)``, anything else as Python shows it."""
    try:
        return f"{value.__name__}({', '.join(inspect.signature(value).parameters)})"
    except (AttributeError, TypeError, ValueError):
        return repr(value)


def is_config(value: Any) -> bool:
    """Whether a value is a class of settings."""
    is_derived = isinstance(value, type) and issubclass(value, BaseConfig)
    # Its own fields are options: a class that is no dataclass itself has none.
    return is_derived and "__dataclass_params__" in vars(value)


def is_attack_config(value: Any) -> bool:
    """Whether it is one of an attack's."""
    # AttackConfig itself needs torch.
    return is_config(value) and hasattr(value, "budget")


def is_trigger_config(value: Any) -> bool:
    """Whether it is one of a trigger's."""
    return is_attack_config(value) and hasattr(value, "clean_label")


def is_adaptive_config(value: Any) -> bool:
    """Whether it is one of an attack that may be crafted against a defense."""
    return is_attack_config(value) and hasattr(value, "against")


def is_profiles(value: Any) -> bool:
    """Whether a value is settings by profile and preset."""
    levels = list(value.values()) if isinstance(value, Mapping) else [None]
    levels += [by for level in levels if isinstance(level, Mapping) for by in level.values()]
    return all(isinstance(level, Mapping) for level in levels)


#: What the module of every method must hold.
METHOD: Needs = {
    "Config": ("a frozen dataclass that derives from BaseConfig", is_config),
    "PROFILES": ('settings as {"paper": {"mnist": {...}}}', lambda v: v is None or is_profiles(v)),
    "RECIPE_CHANGES": ("settings likewise", lambda v: v is None or is_profiles(v)),
    "VERSION": ("a whole number", lambda v: isinstance(v, int)),
    "work": ("a function of a Config, a Recipe and Sizes", lambda v: v is None or takes(3)(v)),
}
