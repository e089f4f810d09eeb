"""Options that come from a method's config: shown in --help, checked, and never listed twice.

Click reads them as it reads a command's own, once the line has named its methods.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from poisonbench.cli.common import Command
from poisonbench.core.errors import UsageError
from poisonbench.core.settings import (
    Option,
    closest,
    did_you_mean,
    meant_levels,
    options_of,
    parse_value,
    unknown_option,
    value_text,
)
from poisonbench.entries import MethodEntry, profiles_of, recipe_changes
from poisonbench.registry import (
    Mix,
    attacks,
    defenses,
    find_attack_form,
    find_form,
    networks,
    recipe_presets,
)
from poisonbench.requests import Value, not_of, read_mix
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


def method_settings(ctx: Any) -> dict[str, Value]:
    """The settings of methods on a command's line, by the names of their options."""
    settings: dict[str, Value] = ctx.meta["poisonbench.settings"]
    return settings


def named_mix(ctx: Any) -> Mix | None:
    """The attacks that a command's line names; None of an artefact or clean data."""
    mix: Mix | None = ctx.meta["poisonbench.mix"]
    return mix


class MethodCommand(Command):
    """A command that also takes the options of the methods named on its line.

    One that is of a single defense names it as ``defense``.
    """

    defense: str | None = None

    def make_parser(self, ctx: Any) -> Any:
        """Click's parser, with the methods' options once they are known."""
        parser = super().make_parser(ctx)
        for option in ctx.meta.get("poisonbench.options", ()):
            parser.add_option(option, opts=[option.flag, f"--{option.name}"], dest=option.name)
        return parser

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Look which methods the line names, then read it with their options."""
        given, others = self.tokens(ctx, args)
        ctx.meta["poisonbench.line"] = given
        if given.get("help") or ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        lacking = [p.opts[0] for p in self.params if p.required and p.name not in given]
        if lacking:
            self._refuse_unnamed(others, lacking)
            return super().parse_args(ctx, args)
        mix = ctx.meta["poisonbench.mix"] = _mix(str(self.name), given)
        if self.defense is None:
            methods = _named_methods(str(self.name), given, mix)
        else:
            methods = {"": defenses()[self.defense]}
        own = {flag for parameter in self.params for flag in parameter.opts}
        options = _line_options(str(self.name), methods, own)
        if args and args[-1] in {option.flag for option in options}:
            raise UsageError(f"{args[-1]}: expected a value after it, got nothing")
        ctx.meta["poisonbench.options"] = options
        given, others = self.tokens(ctx, args)
        if others or "--" in args:
            raise UsageError(_unknown(others or ["--"], own, methods, options, mix is None))
        ctx.meta["poisonbench.settings"] = {
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
        name = ctx.meta.get("poisonbench.line", {}).get(flag.removeprefix("--"))
        if name and "+" not in name and (entry := table().get(name.partition(":")[0])):
            formatter.write(f"\n{method_help(entry)}\n")
            form = (find_form if flag == "--method" else find_attack_form)(name)[1]
            for key, value in form.items():
                flag = "--" + key.replace("_", "-")
                formatter.write(
                    f"{name} has {flag} {value_text(value)} in the place of that default.\n"
                )
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
        if not others or flag not in lacking:
            return
        if name := closest(others[0], table()):
            meant = f"{flag} {name}"
        elif name := closest(others[0], attacks()):
            meant = f"--attack {name} {flag} NAME"
        else:
            return
        raise UsageError(f"expected an option, got {others[0]!r}; did you mean '{meant}'?")


def _mix(command: str, given: Mapping[str, Any]) -> Mix | None:
    is_default = command == "defend" and not {"poison", "clean"} & given.keys()
    attack = given.get("attack", "mix" if is_default else None)
    return None if attack is None else read_mix(attack)


def _named_methods(
    command: str, given: Mapping[str, Any], mix: Mix | None
) -> dict[str, MethodEntry]:
    """The methods that a line names, by what stands before their options: nothing, or ``dc.``."""
    table = attacks()
    names = () if mix is None else mix.attacks
    if command == "craft" and len(names) == 1:
        return {"": table[names[0]]}
    chosen: dict[str, MethodEntry] = {f"{name}.": table[name] for name in names}
    if command == "defend":
        chosen[""] = find_form(given["method"])[0]
    return chosen


def _line_options(
    command: str, methods: Mapping[str, MethodEntry], taken: set[str]
) -> list[Option]:
    """The options of a line's methods but those whose flags the command takes.

    A run's poison may be an artefact that has a target.
    """
    options = []
    for prefix, entry in methods.items():
        own, shared, targeting = _options(entry)
        targeting = options_of(Targeting) if command == "defend" else targeting
        for option in (*own, *shared, *(() if prefix else targeting)):
            name = prefix + option.name
            options.append(replace(option, name=name, flag="--" + name.replace("_", "-")))
    return [option for option in options if option.flag not in taken]


def _unknown(
    words: Sequence[str],
    own: Iterable[str],
    methods: Mapping[str, MethodEntry],
    options: Sequence[Option],
    is_uncrafted: bool,
) -> str:
    """The message for the first of the words of a line that are of no option.

    A line that is uncrafted names no attack.
    """
    word = words[0]
    if not word.startswith("--") or len(word) < 3:
        return f"expected an option such as --epochs 3, got {word!r}"
    flag, _, text = word.partition("=")
    if meant := did_you_mean(flag, own, NEAR_MISS):
        return f"expected an option of this command or its method, got {flag}{meant}"
    name = flag[2:].replace("-", "_")
    owner = name[: name.find(".") + 1]
    if owner not in methods and (any(methods) or is_uncrafted):
        return not_of([prefix[:-1] for prefix in methods if prefix], name)
    owner = owner if owner in methods else ""
    names = [o.name for o in options if o.name[: o.name.find(".") + 1] == owner]
    message = unknown_option(name, names, methods[owner].name)
    for option in options:
        # An attack's option without the attack's name.
        if not owner and option.name.rpartition(".")[2] == name:
            return message.partition("; did you mean")[0] + _meant(option, text or words[1:2])
    return message


def _meant(option: Option, given: str | Sequence[str]) -> str:
    """A suggestion of an option, with the value that it was given under another name."""
    text = given if isinstance(given, str) else "".join(given)
    try:
        value = parse_value(text, option.kind, option.flag)
    except UsageError:
        return f"; did you mean {option.flag}?"
    levels = meant_levels({option.name: value}, [option])
    return levels or f"; did you mean {option.flag} {text}?"


def method_help(entry: MethodEntry) -> str:
    """The options of a method and of the training recipe, a line each."""
    lines = [f"Options of {entry.name} ({entry.about}):"]
    titles = ("", "Options of the training recipe:", "Options of the target, of defend too:")
    for title, options in zip(titles, _options(entry), strict=True):
        lines += [title] if title and options else []
        for option in options:
            words = f" [{'|'.join(option.choices)}]" if option.choices else ""
            value = entry.scenario if option.name == "scenario" else option.default
            lines.append(f"  {option.flag:22} {option.help}{words} [default {value_text(value)}]")
    return "\n".join([*lines, *_presets(entry)])


def _presets(entry: MethodEntry) -> list[str]:
    """What holds on other data, and under other profiles, than the defaults.

    A profile has the method's options to itself, and changes single values of the recipe.
    """
    from poisonbench.training.recipe import RECIPE_PRESETS

    module, nets = entry.load(), networks()
    own, shared, _ = _options(entry)
    targeting = options_of(Targeting) if entry.scenario else []
    recipes = {**RECIPE_PRESETS, "paper": {**RECIPE_PRESETS["paper"], **recipe_presets()}}
    parts = [
        ("The method's options:", own, [profiles_of(module)]),
        ("The recipe's:", shared, [recipes, recipe_changes(module)]),
        ("The target's:", targeting, [TARGETING_PROFILES]),
    ]
    lines = [
        "Defaults are the paper's for CIFAR-10. On other data (a line adds to the more general "
        "ones above it; a profile has the method's options to itself):"
    ]
    for title, options, profiles in parts:
        flags = {option.name: option.flag for option in options}
        rows = [
            f"  {_preset_text(profile, preset, nets)}: "
            + ", ".join(f"{flags[name]} {value_text(values[name])}" for name in names)
            for table in profiles
            for profile, presets in table.items()
            for preset, values in sorted(presets.items(), key=_generality)
            if (names := [name for name in values if name in flags])
        ]
        lines += [title, *rows] if rows else []
    return lines


def _generality(preset: tuple[str, Any]) -> tuple[str, str]:
    """Sorts mnist, mnist/transfer, mnist-sample."""
    return preset[0].partition("/")[0], preset[0]


def _preset_text(profile: str, preset: str, networks: Container[str]) -> str:
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
