"""``poisonbench list``: what there is to choose from."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer

from poisonbench.cli.common import (
    Command,
    JsonOption,
    command_app,
    print_json,
)
from poisonbench.registry import MIX
from poisonbench.registry import attacks as all_attacks
from poisonbench.registry import defenses as all_defenses

app = command_app("List attacks, defenses, data sets, models, tables.")

NameArgument = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="Show the options of this one.")
]


@app.command(cls=Command)
def attacks(name: NameArgument = None, json: JsonOption = False) -> None:
    """The attacks, or the options of one."""
    _methods("an attack", name, json)


@app.command(cls=Command)
def defenses(name: NameArgument = None, json: JsonOption = False) -> None:
    """The defenses, or the options of one."""
    _methods("a defense", name, json)


@app.command(cls=Command)
def datasets(json: JsonOption = False) -> None:
    """The data sets."""
    from poisonbench.data.names import KNOWN, PART, PREFIXES

    _print(KNOWN | PART | {f"{prefix}:PATH": text for prefix, text in PREFIXES.items()}, json)


@app.command(cls=Command)
def models(json: JsonOption = False) -> None:
    """The networks."""
    from poisonbench.models import MODELS

    about = {name: inspect.getdoc(inspect.getmodule(build)) for name, build in MODELS.items()}
    _print(
        {name: (text or "").partition("\n")[0].rstrip(".:") for name, text in about.items()}, json
    )


@app.command(cls=Command)
def tables(json: JsonOption = False) -> None:
    """The tables that report makes."""
    from poisonbench.tables.catalogue import TABLES

    _print({number: table.title for number, table in TABLES.items()}, json)


def _methods(kind: str, name: str | None, json: bool) -> None:
    table = all_attacks() if kind == "an attack" else all_defenses()
    if name is None:
        rows = {entry.name: f"{entry.label}: {entry.summary}" for entry in table.values()}
        if kind == "an attack":
            rows["mix"] = f"equal shares of {', '.join(MIX)}; also NAME+NAME, of untargeted ones"
        _print(rows, json)
        return
    from poisonbench.cli.method_options import method_help
    from poisonbench.core.settings import options_of
    from poisonbench.registry import find

    entry = find(kind, table, name)
    if json:
        print_json({option.flag: option.help for option in options_of(entry.load().Config)})
    else:
        print(method_help(entry))


def _print(rows: dict[str, str], json: bool) -> None:
    if json:
        print_json(rows)
        return
    width = max(len(name) for name in rows) + 2
    for name, text in rows.items():
        print(f"{name:{width}}{text}")
