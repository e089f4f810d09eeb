"""Options that come from a method's config: shown in --help, checked, and never listed twice.

A command that takes them accepts unknown options and hands their texts on; the run checks them
against the method that was chosen.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from poisonbench.cli.common import Command
from poisonbench.core.errors import UsageError
from poisonbench.core.settings import Option, did_you_mean, options_of
from poisonbench.registry import Entry, attacks, defenses
from poisonbench.targeting import PROFILES as TARGETING_PROFILES
from poisonbench.targeting import Targeting

#: For ``app.command(context_settings=...)``.
CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True}

#: How alike (0 to 1) a flag must be to one of the command's own to be taken for a typing mistake.
NEAR_MISS = 0.8


def method_values(
    arguments: Sequence[str], shared: Sequence[str], entries: Sequence[Entry]
) -> dict[str, str]:
    """Option texts by field name from what the command did not know.

    ``["--ratio", "0.5", "--gamma=0.1"]`` gives ``{"ratio": "0.5", "gamma": "0.1"}``.

    Args:
        arguments: left over from the command line.
        shared: the command's own flags, to suggest one for a near miss.
        entries: the methods that were chosen.

    Raises:
        UsageError: something that is no option, has no value, or comes twice, or a near miss of
            the command's own flags.
    """
    if not arguments:
        return {}
    own = {option.flag for entry in entries for part in _options(entry) for option in part}
    values: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--") or len(flag) < 3:
            raise UsageError(f"expected an option such as --epochs 3, got {flag!r}")
        flag, has_value, text = flag.partition("=")
        meant = did_you_mean(flag, shared, NEAR_MISS)
        if meant and flag not in own:
            raise UsageError(f"expected an option of this command or its method, got {flag}{meant}")
        if not has_value:
            if not rest or (rest[0].startswith("--") and not _is_number(rest[0])):
                got = f"the option {rest[0]}" if rest else "nothing"
                raise UsageError(f"{flag}: expected a value after it, got {got}")
            text = rest.pop(0)
        name = flag[2:].replace("-", "_")
        if name in values:
            raise UsageError(f"{flag}: expected once, got it twice")
        values[name] = text
    return values


def flags_of(ctx: Any) -> list[str]:
    """A command's own flags."""
    return [flag for parameter in ctx.command.params for flag in parameter.opts]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class MethodCommand(Command):
    """A command whose ``--help`` also shows the options of the method named on the line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Remember the line, for the help; a required option with a typing mistake is named."""
        ctx.meta["poisonbench.arguments"] = list(args)
        given, unknown, _ = self.make_parser(ctx).parse_args(args=list(args))
        lacking = [p.opts[0] for p in self.params if p.required and p.name not in given]
        for flag in (word.partition("=")[0] for word in unknown):
            meant = did_you_mean(flag, lacking, NEAR_MISS)
            if (
                flag.startswith("--")
                and meant
                and not given.get("help")
                and not ctx.resilient_parsing
            ):
                raise UsageError(f"expected an option of this command, got {flag}{meant}")
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The usual help, then the method's options."""
        super().format_help(ctx, formatter)
        flag, table = ("--attack", attacks()) if self.name == "craft" else ("--method", defenses())
        name = value_of(flag, ctx.meta.get("poisonbench.arguments", []))
        if name in table:
            formatter.write(f"\n{method_help(table[name])}\n")
        else:
            formatter.write(
                f"\nEach method has options of its own: {ctx.command_path} {flag} NAME --help\n"
            )
            if self.name == "craft":
                formatter.write("In a mix they take their attack's name: --dc.rounds 50\n")


def method_help(entry: Entry) -> str:
    """The options of a method and of the training recipe, a line each."""
    lines = [f"Options of {entry.name} ({entry.summary}):"]
    own, shared, targeting = _options(entry)
    for title, options in (
        ("", own),
        ("Options of the training recipe:", shared),
        ("Options of the target, of defend too:", targeting),
    ):
        if title and options:
            lines.append(title)
        for option in options:
            words = f" [{'|'.join(option.choices)}]" if option.choices else ""
            value = entry.scenario if option.name == "scenario" else option.default
            shown = _shown(value, option)
            lines.append(f"  {option.flag:22} {option.help}{words} [default {shown}]")
    return "\n".join([*lines, *_presets(entry, own, shared)])


def _presets(entry: Entry, own: Sequence[Option], shared: Sequence[Option]) -> list[str]:
    """What holds on other data, and under other profiles, than the defaults.

    A profile has the method's options to itself, and changes single values of the recipe.
    """
    from poisonbench.models import MODELS
    from poisonbench.training.recipe import RECIPE_PRESETS

    module = entry.load()
    parts = [
        ("The method's options", own, [module.PROFILES]),
        ("The recipe's", shared, [RECIPE_PRESETS, getattr(module, "RECIPE_CHANGES", {})]),
    ]
    if entry.scenario:
        parts.append(("The target's", options_of(Targeting), [TARGETING_PROFILES]))
    lines = [
        "Defaults are the paper's for CIFAR-10. On other data (a line adds to the more general "
        "ones above it; a profile has the method's options to itself):"
    ]
    for title, options, tables in parts:
        known = {option.name: option for option in options}
        found = [
            f"  {_place(profile, preset, MODELS)}: "
            + ", ".join(f"{known[name].flag} {_shown(values[name], known[name])}" for name in names)
            for profiles in tables
            for profile, presets in profiles.items()
            for preset, values in sorted(presets.items(), key=_generality)
            if (names := [name for name in values if name in known])
        ]
        lines += [f"{title}:", *found] if found else []
    return lines


def _generality(preset: tuple[str, Any]) -> tuple[str, str]:
    """Sorts mnist, mnist/transfer, mnist-sample."""
    return preset[0].partition("/")[0], preset[0]


def _place(profile: str, preset: str, networks: Container[str]) -> str:
    """Data, a network or a scenario in words, and the profile unless it is the paper's."""
    network = "network " if preset in networks else ""
    where = "all data" if preset == "*" else network + preset.replace("/", " in ")
    return where if profile == "paper" else f"--profile {profile}, {where}"


def _options(entry: Entry) -> tuple[list[Option], list[Option], list[Option]]:
    """The options of a method, those of the recipe that it lacks itself, and the target's."""
    from poisonbench.training.recipe import Recipe

    own = options_of(entry.load().Config)
    taken = {option.name for option in own}
    shared = [o for o in options_of(Recipe) if o.name not in taken] if entry.trains else []
    targeting = [o for o in options_of(Targeting) if o.name != "rho"] if entry.scenario else []
    return own, shared, targeting


def _shown(value: Any, option: Option) -> str:
    """A value as the user would write it: pixels as 8/255, a list as 5,15,40."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, float) and 0 < value < 1 and "in pixels" in option.help:
        level = round(value * 255)
        if level > 0 and abs(value * 255 - level) < 1e-9:
            return f"{level}/255"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def value_of(flag: str, arguments: Sequence[str]) -> str:
    """The text after a flag, or nothing."""
    for position, argument in enumerate(arguments):
        if argument == flag and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith(flag + "="):
            return argument.partition("=")[2]
    return ""
