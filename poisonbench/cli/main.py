"""The program: its commands, and how an error becomes one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from poisonbench import __version__
from poisonbench.cli import craft, data, defend, inspect, listing, report
from poisonbench.cli.method_options import CONTEXT, MethodCommand
from poisonbench.errors import PoisonbenchError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Benchmark of data-poisoning attacks against defenses: craft, defend, report.",
)
app.command("craft", cls=MethodCommand, context_settings=CONTEXT)(craft.craft)
app.command("defend", cls=MethodCommand, context_settings=CONTEXT)(defend.defend)
app.command("report")(report.report)
app.add_typer(listing.app, name="list")
app.command("inspect")(inspect.inspect)
app.add_typer(data.app, name="data")


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
    # cuBLAS reads it when it starts; without it equal runs on a GPU may differ in their last bits.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        app(args=None if arguments is None else list(arguments), prog_name="poisonbench")
    except PoisonbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, say) has what it wants; Python must not complain at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1 if end.code else 0
    return 0
