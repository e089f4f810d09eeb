"""``poisonbench report``: run records as a paper's table, beside its numbers.

A wrong table, data set or format is a UsageError; an output file that cannot be written is a
StoreError. Typer shows the command's own docstring to the user, so it does not say this there.
"""

from __future__ import annotations

import os
import sys
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from poisonbench.cli.common import (
    DEFAULT_RESULTS,
    JsonOption,
    QuietOption,
    ResultsOption,
    say,
)
from poisonbench.errors import UsageError
from poisonbench.experiments import tables
from poisonbench.results.render import FORMATS, check_format, print_rich, render
from poisonbench.results.report import Table
from poisonbench.results.statistics import Verdict
from poisonbench.results.store import Store, write_text

#: Exit code of ``--check`` when a cell differs from the published figure.
DEVIATION = 3


def report(
    table: Annotated[
        str, typer.Option("--table", help=f"Which table: {', '.join(tables.TABLES)}.")
    ] = "2",
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help=f"Only this data set: {', '.join(tables.DATASET_LABELS)}."),
    ] = None,
    format: Annotated[
        str | None, typer.Option("--format", help=f"One of {', '.join(FORMATS)}; rich if not said.")
    ] = None,
    missing: Annotated[
        bool, typer.Option("--missing", help="Print the commands of the runs that are missing.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Exit with 3 when a figure differs from the published one."),
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", help="Write to this file instead of stdout.")
    ] = None,
    results: ResultsOption = DEFAULT_RESULTS,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show the run records as a paper's table, beside the published figures."""
    if json and format not in (None, "json"):
        raise UsageError(f"expected one format, got --json and --format {format}; leave one out")
    kind = "json" if json else format or "rich"
    check_format(kind)
    tables.cells(table, (), dataset)
    # Said with --quiet too: a table that lacks runs must not look whole.
    records = Store(results).records(lambda error: say(f"warning: left out: {error}"))
    if not records:
        say(f"no run records in {results}; --missing prints the commands to make some", quiet=quiet)
    made = tables.build(table, records, dataset)
    if missing:
        commands = tables.missing_commands(table, records, dataset, _results_option(results))
        say(f"{len(commands)} run(s) missing", quiet=quiet)
        lines = [dumps({"missing": commands})] if kind == "json" else commands
        _emit("".join(f"{line}\n" for line in lines), output)
    elif kind == "rich" and output is None and sys.stdout.isatty():
        from rich.console import Console

        print_rich(made, Console())
    else:
        _emit(render(made, kind), output)
    if check:
        _check(made, quiet=quiet)


def _emit(text: str, output: Path | None) -> None:
    if output is None:
        sys.stdout.write(text)
    else:
        write_text(output, text)


def _results_option(results: Path) -> Path | None:
    """The folder, unless a command would use it without being told."""
    default = os.environ.get("POISONBENCH_RESULTS") or str(DEFAULT_RESULTS)
    return None if results == Path(default) else results


def _check(made: Table, *, quiet: bool) -> None:
    """Exit with 3 when any cell differs."""
    verdicts = [cell.verdict for cell in made.cells]
    differing = verdicts.count(Verdict.DIFFERS)
    compared = differing + verdicts.count(Verdict.AGREES)
    say(f"check: {differing} of {compared} compared figure(s) differ", quiet=quiet)
    if differing:
        raise typer.Exit(DEVIATION)
