"""``poisonbench check``: the conformance kit."""

import traceback
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from poisonbench.cli import common
from poisonbench.core.errors import ArtefactError, PoisonbenchError, UsageError, one_line
from poisonbench.core.settings import options_of, parse_value, unknown_option
from poisonbench.entries import Entry, MethodEntry

app = common.command_app()


@dataclass(frozen=True, kw_only=True)
class _CheckOptions:
    subject: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE.py",
            help="One of `poisonbench list`, or a file with an entry; behind a colon the PATH "
            "of a data set that takes one.",
        ),
    ]
    set: list[str] | None = common.option(
        None,
        "A setting of the method for a run of three epochs, as schedule=1,2; may be repeated.",
        metavar="NAME=VALUE",
    )
    plugin: common.PluginOption = None
    json: common.JsonOption = False


@app.command("check", cls=common.Command)
@common.takes(_CheckOptions)
def check(options: _CheckOptions) -> None:
    """Hold a method, a network or a data set to its contract, and say what breaks it.

    The problem is tiny. Exits with 65 if a promise is broken; each one is named with what to do.
    """
    from poisonbench.conformance import checks_of, subject_of

    entry, path = subject_of(options.subject)
    rows: dict[str, Any] = {}
    for conforms in checks_of(entry, path, **_settings(entry, options.set or [])):
        try:
            conforms()
            rows[conforms.name] = "ok"
        except Exception as error:
            rows[conforms.name] = _reason(error, entry)
    common.show(rows, [f"{name:42}{text}" for name, text in rows.items()], options.json)
    broken = [name for name, text in rows.items() if text != "ok"]
    if broken:
        raise ArtefactError(
            f"expected {options.subject} to keep {len(rows)} promises, got {len(broken)} broken: "
            f"{', '.join(broken)}; mend it and check again"
        )


def _reason(error: Exception, entry: Entry) -> str:
    """What a check says; of an exception of the code itself also where it was raised."""
    if isinstance(error, AssertionError | PoisonbenchError):
        return one_line(error)
    from poisonbench.conformance.check import line_in

    last = traceback.extract_tb(error.__traceback__)[-1]
    place = line_in(entry.load(), error) or f"line {last.lineno} of {last.filename}"
    return (
        f"expected it to run through, got {type(error).__name__}: {one_line(error)}; mend {place}"
    )


def _settings(entry: Entry, texts: list[str]) -> dict[str, Any]:
    """The values of ``--set``, by name."""
    kinds = {
        option.name: option.kind
        for option in (options_of(entry.load().Config) if isinstance(entry, MethodEntry) else [])
    }
    settings = {}
    for text in texts:
        name, _, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if name not in kinds:
            raise UsageError(unknown_option(name, kinds, entry.name))
        settings[name] = parse_value(value, kinds[name], f"--set {name}")
    return settings
