"""Options that come from a method's config: shown in --help, checked, and never listed twice.

Click reads them as it reads a command's own, once the line has named its methods.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from poisonbench.cli.common import Command, load_plugins
from poisonbench.core.errors import UsageError
from poisonbench.core.settings import (
    Option,
    closest,
    did_you_mean,
    options_of,
    parse_value,
    unknown_option,
    value_text,
)
from poisonbench.entries import DefenseEntry, MethodEntry, broken, unusable
from poisonbench.registry import attacks, defenses, find, networks, recipe_presets
from poisonbench.requests import Value, attack_names, not_of
from poisonbench.targeting import PROFILES as TARGETING_PROFILES
from poisonbench.targeting import Targeting

#: For ``app.command(context_settings=...)``: what Click does not know is refused in our words.
CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True}

#: How alike (0 to 1) a flag must be to one of the command's own to be taken for a typing mistake.
NEAR_MISS = 0.8

#: By command, the option that names its method, and what may be named.
_NAMED: dict[str, tuple[str, Callable[[], Mapping[str, MethodEntry]]]] = {
    "craft": ("--attack", attacks),
    "defend": ("--method", defenses),
}

_LINE = "poisonbench.line"
_OPTIONS = "poisonbench.options"
_SETTINGS = "poisonbench.settings"


def method_settings(ctx: Any) -> dict[str, Value]:
    """The settings of methods on a command's line, by the names of their options."""
    settings: dict[str, Value] = ctx.meta[_SETTINGS]
    return settings


class MethodCommand(Command):
    """A command that also takes the options of the methods named on its line."""

    def make_parser(self, ctx: Any) -> Any:
        """Click's parser, with the methods' options once they are known."""
        parser = super().make_parser(ctx)
        for option in ctx.meta.get(_OPTIONS, ()):
            parser.add_option(option, opts=[option.flag, f"--{option.name}"], dest=option.name)
        return parser

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Look which methods the line names, then read it with their options."""
        given, others, _ = self.make_parser(ctx).parse_args(args=list(args))
        ctx.meta[_LINE] = given
        load_plugins(ctx, given)
        if given.get("help") or ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        lacking = [p.opts[0] for p in self.params if p.required and p.name not in given]
        if lacking:
            self._refuse_unnamed(others, lacking)
            return super().parse_args(ctx, args)
        methods = named_methods(str(self.name), given)
        own = {flag for parameter in self.params for flag in parameter.opts}
        if "" in methods:
            # Others' have their method's name before them.
            _refuse_hidden(methods[""], own)
        options = [o for o in _line_options(str(self.name), methods) if o.flag not in own]
        if args and args[-1] in {option.flag for option in options}:
            raise UsageError(f"{args[-1]}: expected a value after it, got nothing")
        ctx.meta[_OPTIONS] = options
        given, others = self.tokens(ctx, args)
        if others or "--" in args:
            raise UsageError(_unknown((others or ["--"])[0], own, methods, options))
        ctx.meta[_SETTINGS] = {
            option.name: parse_value(given[option.name], option.kind, option.flag)
            for option in options
            if option.name in given
        }
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The usual help, then the method's options."""
        super().format_help(ctx, formatter)
        if self.name not in _NAMED:
            return
        flag, table = _NAMED[self.name]
        name = ctx.meta.get(_LINE, {}).get(flag.removeprefix("--"))
        if name and (entry := table().get(name)):
            formatter.write(f"\n{method_help(entry)}\n")
        else:
            formatter.write(
                f"\nEach method has options of its own: {ctx.command_path} {flag} NAME --help\n"
            )
            if self.name == "craft":
                formatter.write("In a mix they take their attack's name: --dc.rounds 50\n")

    def _refuse_unnamed(self, others: Sequence[str], lacking: Sequence[str]) -> None:
        """Raise UsageError where the option that names the method is misspelt or left out."""
        flag, table = _NAMED.get(str(self.name), ("", dict))
        for word in (other.partition("=")[0] for other in others):
            if word.startswith("--") and (meant := did_you_mean(word, lacking, NEAR_MISS)):
                raise UsageError(f"expected an option of this command, got {word}{meant}")
        if others and flag in lacking and (name := closest(others[0], table())):
            raise UsageError(
                f"expected an option, got {others[0]!r}; did you mean '{flag} {name}'?"
            )


def named_methods(command: str, given: Mapping[str, Any]) -> dict[str, MethodEntry]:
    """The methods that a line names, by what stands before their options: nothing, or ``dc.``.

    Args:
        command: the command.
        given: the line's texts by the command's own options.

    Raises:
        UsageError: a method that is not there.
    """
    if command == "1":
        # The figure of HINT's noise.
        return {"": defenses()["hint"]}
    table = attacks()
    is_default = command == "defend" and not {"poison", "clean"} & given.keys()
    attack = given.get("attack", "mix" if is_default else None)
    chosen: dict[str, MethodEntry] = {
        f"{name}.": table[name] for name in (attack_names(attack) if attack is not None else ())
    }
    if command == "defend":
        return {"": find("a defense", defenses(), given["method"]), **chosen}
    return chosen if len(chosen) > 1 else dict(zip([""], chosen.values(), strict=True))


def _refuse_hidden(entry: MethodEntry, flags: set[str]) -> None:
    """Raise UsageError where a method's setting could not be reached, for an option of its name."""
    has_target = isinstance(entry, DefenseEntry) or bool(entry.scenario)
    taken = flags | {option.flag for option in options_of(Targeting) if has_target}
    settings = [option.flag for option in options_of(entry.load().Config)]
    if hidden := [flag for flag in settings if flag in taken]:
        reason = f"expected settings of other names than the command's options, got {hidden[0]}"
        raise UsageError(unusable(entry.kind, entry.name, broken(entry.source, reason)))


def _line_options(command: str, methods: Mapping[str, MethodEntry]) -> list[Option]:
    """The options of a line's methods; a run's poison may be an artefact that has a target."""
    options = []
    for prefix, entry in methods.items():
        own, shared, targeting = _options(entry)
        targeting = options_of(Targeting) if command == "defend" else targeting
        for option in (*own, *shared, *(() if prefix else targeting)):
            name = prefix + option.name
            options.append(replace(option, name=name, flag="--" + name.replace("_", "-")))
    return options


def _unknown(
    word: str, own: Iterable[str], methods: Mapping[str, MethodEntry], options: Sequence[Option]
) -> str:
    """The message for a word of a line that is of no option."""
    if not word.startswith("--") or len(word) < 3:
        return f"expected an option such as --epochs 3, got {word!r}"
    flag = word.partition("=")[0]
    if meant := did_you_mean(flag, own, NEAR_MISS):
        return f"expected an option of this command or its method, got {flag}{meant}"
    name = flag[2:].replace("-", "_")
    owner = name[: name.find(".") + 1]
    if owner not in methods and any(methods):
        return not_of([prefix[:-1] for prefix in methods if prefix], name)
    owner = owner if owner in methods else ""
    names = [o.name.removeprefix(owner) for o in options if o.name[: o.name.find(".") + 1] == owner]
    return unknown_option(name.removeprefix(owner), names, methods[owner].name)


def method_help(entry: MethodEntry) -> str:
    """The options of a method and of the training recipe, a line each."""
    lines = [f"Options of {entry.name} ({entry.about}):"]
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
            shown = value_text(value)
            lines.append(f"  {option.flag:22} {option.help}{words} [default {shown}]")
    return "\n".join([*lines, *_presets(entry, own, shared)])


def _presets(entry: MethodEntry, own: Sequence[Option], shared: Sequence[Option]) -> list[str]:
    """What holds on other data, and under other profiles, than the defaults.

    A profile has the method's options to itself, and changes single values of the recipe.
    """
    from poisonbench.training.recipe import RECIPE_PRESETS

    module = entry.load()
    nets = networks()
    recipes = {**RECIPE_PRESETS, "paper": {**RECIPE_PRESETS["paper"], **recipe_presets()}}
    parts = [
        ("The method's options", own, [module.PROFILES]),
        ("The recipe's", shared, [recipes, getattr(module, "RECIPE_CHANGES", {})]),
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
            f"  {_place(profile, preset, nets)}: "
            + ", ".join(f"{known[name].flag} {value_text(values[name])}" for name in names)
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


def _options(entry: MethodEntry) -> tuple[list[Option], list[Option], list[Option]]:
    """The options of a method, those of the recipe that it lacks itself, and the target's."""
    from poisonbench.training.recipe import Recipe

    own = options_of(entry.load().Config)
    taken = {option.name for option in own}
    shared = [o for o in options_of(Recipe) if o.name not in taken] if entry.trains else []
    targeting = [o for o in options_of(Targeting) if o.name != "rho"] if entry.scenario else []
    return own, shared, targeting
