"""Algorithm settings: declared once as a frozen dataclass, used as options, specs and records.

A config field made with :func:`setting` carries its help text, so the command line is generated
from it and nothing is written twice. This module imports no torch.
"""

import dataclasses
import difflib
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from operator import ge, gt, le, lt
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from poisonbench.core.errors import UsageError

ConfigT = TypeVar("ConfigT")

#: ``profile -> preset -> {field: value}``. Presets are applied in the order in which a data set
#: names them (``mnist-sample`` is "mnist", then "mnist-sample"); ``"*"`` comes first, always.
Profiles = Mapping[str, Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Bounds:
    """What a number may be: ``low`` or more or over ``over``; up to ``high`` or under ``under``."""

    low: float | None = None
    over: float | None = None
    high: float | None = None
    under: float | None = None

    def __contains__(self, value: Any) -> bool:
        # Comparisons that must hold, so that nan is in no bounds.
        sides = ((ge, self.low), (gt, self.over), (le, self.high), (lt, self.under))
        try:
            return all(bound is None or holds(value, bound) for holds, bound in sides)
        except TypeError:
            return False

    def __str__(self) -> str:
        """``in (0, 1]``, ``at least 1``, ``0 or more`` or ``over 0``; nothing if unbounded."""
        low, over, high, under = (
            None if bound is None else f"{bound:g}".replace("e+", "e")
            for bound in (self.low, self.over, self.high, self.under)
        )
        if high or under:
            left = f"[{low}" if low else f"({over or '-inf'}"
            return f"in {left}, {high}]" if high else f"in {left}, {under})"
        if low:
            return "0 or more" if self.low == 0 else f"at least {low}"
        return f"over {over}" if over else ""


def setting(default: Any, help: str, *, extension: bool = False, **bounds: float) -> Any:
    """A dataclass field with its help text; becomes the option ``--field-name``.

    Args:
        default: its value where nothing else is said.
        help: its text in ``--help``, where its bounds follow.
        extension: not the paper's; the default is the method without it. :func:`as_json` leaves it
            out then, so that a run's id does not depend on extensions that it does not use.
        bounds: those of :class:`Bounds` (low, over, high, under), which a :class:`BaseConfig`
            checks; None is in them, and a tuple whose members are.
    """
    interval = Bounds(**bounds)
    text = f"{help} {str(interval).capitalize()}." if bounds else help
    metadata = {"help": text, "bounds": interval, "extension": extension}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """What every config derives from: its settings are in their bounds, or there is none.

    A config with checks of its own, of several settings together, calls ``super().__post_init__()``
    first and then :func:`require`.

    Raises:
        ValueError: a setting is out of bounds.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_bounds(field, getattr(self, field.name), field.name)


def _check_bounds(field: dataclasses.Field[Any], value: Any, where: str) -> None:
    """Raise ValueError for a field's value, or a member of it, that is out of its bounds."""
    bounds = field.metadata.get("bounds", Bounds())
    members = value if isinstance(value, tuple) else (value,)
    require(
        all(member is None or member in bounds for member in members),
        f"{where}: expected {bounds}, got {value!r}",
    )


@dataclass(frozen=True)
class Option:
    """One field of a config as a command-line option."""

    name: str
    flag: str
    kind: Any
    default: Any
    help: str

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed words, empty unless the field is a ``Literal``."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()


def options_of(config: type[Any], prefix: str = "") -> list[Option]:
    """The settings of a config dataclass, in order of declaration; the prefix is of their flags."""
    hints = get_type_hints(config)
    return [
        Option(
            f.name, flag_of(prefix + f.name), hints[f.name], f.default, f.metadata.get("help", "")
        )
        for f in dataclasses.fields(config)
    ]


def flag_of(name: str) -> str:
    """A setting's option: ``from_epoch`` as ``--from-epoch``."""
    return "--" + name.replace("_", "-")


def parse_value(text: str, kind: Any, flag: str) -> Any:
    """Read the text of one option as the type its config field declares.

    A number may be written as ``0.5``, ``8/255`` or ``1e-3``.

    Raises:
        UsageError: the text does not fit the type.
    """
    origin = get_origin(kind)
    if origin is Literal:
        if text in (known := get_args(kind)):
            return text
        raise UsageError(
            f"{flag}: expected one of {', '.join(known)}, got {text!r}{did_you_mean(text, known)}"
        )
    if origin in (Union, types.UnionType):
        inner = next(k for k in get_args(kind) if k is not type(None))
        return None if text.lower() in ("none", "") else parse_value(text, inner, flag)
    if origin is tuple:
        inner = get_args(kind)[0]
        if text.lower() == "none":
            return ()
        return tuple(
            parse_value(part.strip(), inner, flag) for part in text.split(",") if part.strip()
        )
    if kind is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() in words:
            return words[text.lower()]
        raise UsageError(f"{flag}: expected true or false, got {text!r}")
    if kind is int:
        try:
            number = int(text)
        except ValueError:
            raise UsageError(f"{flag}: expected a whole number, got {text!r}") from None
        if abs(number) >= 2**31:
            raise UsageError(f"{flag}: expected a whole number of at most 9 digits, got {text!r}")
        return number
    if kind is float:
        try:
            real = float(Fraction(text)) if "/" in text else float(text)
        except (ValueError, ZeroDivisionError, OverflowError):
            real = math.nan
        if not math.isfinite(real):
            raise UsageError(
                f"{flag}: expected a number such as 0.5 or 8/255, got {text!r}; write it with "
                "digits"
            )
        return real
    return text


def typed(value: Any, kind: Any, flag: str) -> Any:
    """A value as the type that its config field declares; text never stands for another type.

    Raises:
        UsageError: the value does not fit the type.
    """
    import msgspec

    # A single value of numpy or PyTorch, a truth or a text too.
    is_single = hasattr(value, "item") and getattr(value, "ndim", None) == 0
    plain = value.item() if is_single else value
    if get_origin(kind) is Literal and isinstance(plain, str):
        return parse_value(plain, kind, flag)
    try:
        converted = msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"{flag}: {str(error).lower()}, which is {value!r}") from None
    if isinstance(converted, float) and not math.isfinite(converted):
        raise UsageError(f"{flag}: expected a finite number, got {value!r}")
    return converted


def check_table(settings: Mapping[str, Any], config: type[Any], where: str) -> None:
    """Raise UsageError for a name or value in a table that no setting of the config has.

    ``where`` names the table, as ``PROFILES['paper']['mnist']``.
    """
    kinds = {option.name: option.kind for option in options_of(config)}
    declared = {field.name: field for field in dataclasses.fields(config)}
    for name, value in settings.items():
        place = f"{where}[{name!r}]"
        if name not in kinds:
            raise UsageError(
                f"expected settings among {', '.join(kinds) or 'none'} in {where}, got {name}"
            )
        converted = typed(value, kinds[name], place)
        if converted != value:
            raise UsageError(f"{place}: expected {converted!r}, got {value!r}")
        try:
            _check_bounds(declared[name], value, place)
        except ValueError as error:
            raise UsageError(str(error)) from None


def number_text(number: float, *, is_pixel: bool = True) -> str:
    """A number as short text that :func:`parse_value` reads as the same number.

    Pixels are whole grey levels where they are: ``8/255``; other numbers are decimal.
    """
    short = f"{number:g}"
    if float(short) == number or not math.isfinite(number):
        return short
    levels = round(number * 255) if is_pixel and abs(number) < 256 else 0
    return f"{levels}/255" if levels / 255 == number else repr(number)


def value_text(value: Any) -> str:
    """A setting's value as text that :func:`parse_value` reads as the same value."""
    if isinstance(value, tuple):
        return ",".join(map(value_text, value)) or "none"
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return number_text(value) if isinstance(value, float) else str(value)


def resolve(
    config: type[ConfigT],
    profiles: Profiles,
    *,
    profile: str,
    presets: Iterable[str],
    overrides: Mapping[str, Any],
    owner: str,
) -> ConfigT:
    """Build a config: defaults < profile for the data set < what the user gave.

    The config is a dataclass whose ``__post_init__`` raises ValueError on bad values. Profiles are
    the owner's, an algorithm's; an absent ``"paper"`` means the defaults. Presets are the data
    set's, most general first.

    Raises:
        UsageError: unknown profile or field, or a value out of range.
    """
    known_profiles = ("paper", *(name for name in profiles if name != "paper"))
    if profile not in known_profiles:
        raise UsageError(
            f"{owner} has no profile {profile!r}; it has {', '.join(known_profiles)}"
            f"{did_you_mean(profile, known_profiles)}"
        )
    names = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
    for name in overrides:
        if name not in names:
            raise UsageError(unknown_option(name, names, owner))
    values: dict[str, Any] = {}
    for preset in ("*", *presets):
        values |= profiles.get(profile, {}).get(preset, {})
    values |= overrides
    try:
        return config(**values)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{owner}: {error}") from None


def meant_levels(values: Mapping[str, Any], options: Iterable[Option]) -> str:
    """``"; did you mean --epsilon 8/255?"`` of grey levels given for pixels of [0, 1], if any."""
    # A size in another norm is no grey level.
    if values.get("norm", "linf") != "linf":
        return ""
    for option in options:
        value = values.get(option.name)
        is_level = isinstance(value, float) and value.is_integer() and 1 < value <= 255
        if is_level and "pixels" in option.help:
            return f"; did you mean {option.flag} {value:g}/255?"
    return ""


def unknown_option(name: str, names: Iterable[str], owner: str, prefix: str = "") -> str:
    """The message for an option that an algorithm lacks; lists its own, with a line's prefix."""
    flags, flag = [flag_of(prefix + known) for known in names], flag_of(prefix + name)
    own = ", ".join(flags) or "none"
    return f"{owner} has no option {flag}; its own options: {own}{did_you_mean(flag, flags)}"


def did_you_mean(text: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """``"; did you mean 'x'?"`` for the closest known word, or nothing."""
    return f"; did you mean {close!r}?" if (close := closest(text, known, likeness)) else ""


def closest(text: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """The known word that is most like a text, whatever the case; empty if none is like it."""
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(text.lower(), names, n=1, cutoff=likeness)
    return names[close[0]] if close else ""


def as_json(config: Any) -> dict[str, Any]:
    """A config as plain JSON values: tuples become lists, floats stay floats.

    Extensions at their defaults are left out.
    """
    values = {field: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {
        field.name: list(value) if isinstance(value, tuple) else value
        for field, value in values.items()
        if not (field.metadata.get("extension") and value == field.default)
    }


def require(condition: bool, message: str) -> None:
    """Raise ValueError(message) unless the condition holds; for ``__post_init__`` checks."""
    if not condition:
        raise ValueError(message)


def percent_text(share: float) -> str:
    """A share in percent, with two decimals."""
    return f"{100 * share:.2f} %"
