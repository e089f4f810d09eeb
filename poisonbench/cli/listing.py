"""``poisonbench list``: what there is to choose from."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from poisonbench import registry
from poisonbench.cli.common import Command, JsonOption, PluginOption, command_app, show
from poisonbench.entries import DatasetEntry, Entry, MethodEntry
from poisonbench.requests import read_mix

app = command_app("List attacks, defenses, data sets, models, tables.")

NameArgument = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="Show the options of this one.")
]


@app.command(cls=Command)
def attacks(
    name: NameArgument = None, json: JsonOption = False, plugin: PluginOption = None
) -> None:
    """The attacks, or the options of one."""
    paper = "untargeted: a reading of the paper's poison"
    mixes = {
        name: _mix_text(mix.attacks, f", {mix.reading}; {paper}")
        for name, mix in registry.MIXES.items()
    }
    mixes["NAME+NAME"] = (
        "equal shares of these untargeted ones; norm, cost and images those of its parts"
    )
    if name is not None and "+" in name and name not in mixes:
        mixes[name] = _mix_text(read_mix(name).attacks, "; untargeted")
    _methods("an attack", registry.attacks(), name, json, mixes)


@app.command(cls=Command)
def defenses(
    name: NameArgument = None, json: JsonOption = False, plugin: PluginOption = None
) -> None:
    """The defenses, or the options of one."""
    _methods("a defense", registry.defenses(), name, json, {})


@app.command(cls=Command)
def datasets(json: JsonOption = False, plugin: PluginOption = None) -> None:
    """The data sets."""
    from poisonbench.data.names import about

    _print(about(), json, registry.datasets())


@app.command(cls=Command)
def models(json: JsonOption = False, plugin: PluginOption = None) -> None:
    """The networks."""
    table = registry.networks()
    rows = {name: entry.about for name, entry in table.items()}
    _print(rows | registry.OUTSIDE_NETWORKS, json, table)


@app.command(cls=Command)
def tables(json: JsonOption = False) -> None:
    """The tables that report makes."""
    from poisonbench.tables.catalogue import TABLES

    _print({number: table.title for number, table in TABLES.items()}, json)


def _mix_text(attacks: Sequence[str], purpose: str) -> str:
    """What a mix is and is for, its norm and cost, on which images, as a single attack's entry."""
    table = registry.attacks()
    norms = " and ".join(dict.fromkeys(table[name].norm for name in attacks))
    is_plain = not any(table[name].on_grey for name in attacks)
    rest = "cost that of its parts; grey and colour"
    rest = rest if is_plain else "cost and images those of its parts"
    return f"equal shares of {', '.join(attacks)}{purpose}; norm {norms}; {rest}"


def _methods(
    kind: str, table: Mapping[str, MethodEntry], name: str | None, json: bool, more: dict[str, str]
) -> None:
    if name is None:
        rows = {entry.name: f"{entry.title}: {entry.about}" for entry in table.values()}
        _print(rows | more, json, table)
        return
    from poisonbench.cli.method_options import method_help
    from poisonbench.core.settings import options_of

    if name in more:
        of_attacks = (
            "an option takes its attack's name, as --dc.rounds 50, and is listed with it: "
            "`poisonbench list attacks dc`"
        )
        show({name: more[name]}, [f"{name}: {more[name]}; {of_attacks}"], json)
        return
    find = registry.find_attack_form if kind == "an attack" else registry.find_form
    entry = find(name)[0] if ":" in name else registry.find(kind, table, name, more)
    helps = {option.flag: option.help for option in options_of(entry.load().Config)}
    show(helps, [method_help(entry)], json)


def _print(rows: dict[str, str], json: bool, table: Mapping[str, Entry] | None = None) -> None:
    """Print names and what they are; of a plug-in also where it is from, or what is wrong."""
    for entry in (table or {}).values():
        if entry.plug_in is not None:
            name = entry.pattern if isinstance(entry, DatasetEntry) else entry.name
            rows[name] = entry.fault() or f"{rows[name]} [{entry.source}]"
    rows |= registry.faults(table or {})
    width = max(len(name) for name in rows) + 2
    show(rows, [f"{name:{width}}{text}" for name, text in rows.items()], json)
