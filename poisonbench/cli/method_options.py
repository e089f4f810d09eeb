"""Options that come from a method's config: shown in --help, checked, and never listed twice.

A command that takes them accepts unknown options and hands their texts on; the run checks them
against the method that was chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand

from poisonbench.config import did_you_mean, options_of
from poisonbench.errors import UsageError
from poisonbench.registry import Entry, attacks, defenses

#: For ``app.command(context_settings=...)``.
CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True}


def method_values(arguments: Sequence[str], shared: Sequence[str]) -> dict[str, str]:
    """Option texts by field name from what the command did not know.

    ``["--ratio", "0.5", "--gamma=0.1"]`` gives ``{"ratio": "0.5", "gamma": "0.1"}``.

    Args:
        arguments: left over from the command line.
        shared: the command's own flags, to suggest one for a near miss.

    Raises:
        UsageError: something that is no option, has no value, or comes twice.
    """
    values: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--") or len(flag) < 3:
            raise UsageError(f"expected an option such as --epochs 3, got {flag!r}")
        flag, has_value, text = flag.partition("=")
        if not has_value:
            if not rest or (rest[0].startswith("--") and not _is_number(rest[0])):
                raise UsageError(f"{flag}: expected a value after it{did_you_mean(flag, shared)}")
            text = rest.pop(0)
        name = flag[2:].replace("-", "_")
        if name in values:
            raise UsageError(f"{flag}: expected once, got it twice")
        values[name] = text
    return values


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class MethodCommand(TyperCommand):
    """A command whose ``--help`` also shows the options of the method named on the line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Remember the line, for the help."""
        ctx.meta["poisonbench.arguments"] = list(args)
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The usual help, then the method's options."""
        super().format_help(ctx, formatter)
        flag, table = ("--attack", attacks()) if self.name == "craft" else ("--method", defenses())
        name = _value_of(flag, ctx.meta.get("poisonbench.arguments", []))
        if name in table:
            formatter.write(f"\n{method_help(table[name])}\n")
        else:
            formatter.write(
                f"\nEach method has options of its own: {ctx.command_path} {flag} NAME --help\n"
            )


def method_help(entry: Entry) -> str:
    """The options of a method and of the training recipe, a line each."""
    from poisonbench.training.recipe import Recipe

    lines = [f"Options of {entry.name} ({entry.summary}):"]
    own = options_of(entry.load().Config)
    shared = [o for o in options_of(Recipe) if o.name not in {x.name for x in own}]
    for title, options in (("", own), ("Options of the training recipe:", shared)):
        if title:
            lines.append(title)
        for option in options:
            words = f" [{'|'.join(option.choices)}]" if option.choices else ""
            text = f"  {option.flag:22} {option.help}{words} [default {_default(option.default)}]"
            lines.append(text)
    return "\n".join(lines) + (
        "\nDefaults are the paper's for CIFAR-10; other data sets have presets of their own."
    )


def _default(value: Any) -> str:
    """A default as the user would write it: 8/255, or 5,15,40."""
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, float) and 0 < value < 1:
        level = round(value * 255)
        if level > 0 and abs(value * 255 - level) < 1e-9:
            return f"{level}/255"
    return str(value)


def _value_of(flag: str, arguments: Sequence[str]) -> str:
    for position, argument in enumerate(arguments):
        if argument == flag and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith(flag + "="):
            return argument.partition("=")[2]
    return ""
