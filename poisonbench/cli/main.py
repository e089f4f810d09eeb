"""The program: its commands, and how an error becomes one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from poisonbench import __version__
from poisonbench.cli import (
    craft,
    data,
    defend,
    doctor,
    figure,
    importing,
    inspect,
    listing,
    report,
    sweep,
)
from poisonbench.cli.common import Command
from poisonbench.cli.method_options import CONTEXT, MethodCommand, value_of
from poisonbench.core.errors import PoisonbenchError

#: Exit code after SIGINT; Typer turns the exception into it.
INTERRUPTED = 130

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Benchmark of data-poisoning attacks against defenses: craft, defend, report.",
)
app.command("craft", cls=MethodCommand, context_settings=CONTEXT)(craft.craft)
app.command("defend", cls=MethodCommand, context_settings=CONTEXT)(defend.defend)
app.command("import", cls=Command)(importing.import_)
app.command("report", cls=Command)(report.report)
app.command("figure", cls=Command, context_settings=CONTEXT)(figure.figure)
app.add_typer(listing.app, name="list")
app.command("inspect", cls=Command)(inspect.inspect)
app.add_typer(data.app, name="data")
app.add_typer(sweep.app, name="sweep")
app.command("doctor", cls=Command)(doctor.doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code; a known error is one line on stderr."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = app(args=words, prog_name="poisonbench", standalone_mode=False) or 0
        sys.stdout.flush()
    except PoisonbenchError as error:
        _print_error(str(error))
        return error.exit_code
    except BrokenPipeError:
        return _end_of_pipe()
    except SystemExit as end:
        # Typer makes one of a broken pipe.
        if isinstance(end.__context__, BrokenPipeError):
            return _end_of_pipe()
        code = end.code if isinstance(end.code, int) else 1 if end.code else 0
    except Exception as error:
        # Typer's usage errors; their base class differs between its versions.
        if not hasattr(error, "format_message"):
            raise
        return _usage_error(error, words)
    if code == INTERRUPTED:
        _print_error("interrupted")
    return int(code)


def _print_error(text: str) -> None:
    print(f"error: {' '.join(text.split())}", file=sys.stderr)


def _usage_error(error: Any, words: Sequence[str]) -> int:
    """Typer's error as one line in the form of our own: what was expected, what came, what to do.

    A group without a command shows its help, which is what Typer's message then is.
    """
    text = error.format_message().rstrip(".")
    if "\n" in text:
        print(text, file=sys.stderr)
        return int(error.exit_code)
    flags = getattr(getattr(error, "param", None), "opts", [])
    if flags and error.message:
        text = f"{flags[0]}: {error.message.replace('Input should be', 'expected').rstrip('.')}"
        if given := value_of(flags[0], words):
            text += f", got {given!r}"
    where = error.ctx.command_path if error.ctx else "poisonbench"
    _print_error(f"{text}; see `{where} --help`")
    return int(error.exit_code)


def _end_of_pipe() -> int:
    """The reader (head, say) has what it wants; Python must not complain at exit either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
