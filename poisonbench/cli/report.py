"""``poisonbench report``: run records as a paper's table, beside its numbers.

A wrong table, data set or format is a UsageError, an unreadable poison an ArtefactError; an output
file that cannot be written is a StoreError. Typer shows the command's own docstring to the user, so
it does not say this there.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from poisonbench.cli.common import (
    Command,
    JsonOption,
    QuietOption,
    ResultsOption,
    command_app,
    say,
)
from poisonbench.core.errors import UsageError
from poisonbench.core.files import write_text
from poisonbench.core.folders import DEFAULT_RESULTS, results_folder
from poisonbench.registry import DATASETS
from poisonbench.requests import command_of
from poisonbench.results.store import Store
from poisonbench.tables import catalogue
from poisonbench.tables.all_runs import build_runs
from poisonbench.tables.filter_table import build_filters
from poisonbench.tables.poison_selection import (
    check_table,
    dataset_of,
    on_poisons,
    ratios_of,
)
from poisonbench.tables.render import FORMATS, check_format, print_rich, render
from poisonbench.tables.summary import sentences

#: Exit code of ``--check`` when a figure differs from the paper's or a claim is refuted.
DEVIATION = 3
#: Exit code of ``--check`` when nothing deviates and runs are missing.
MISSING = 4


app = command_app()


@app.command("report", cls=Command)
def report(
    table: Annotated[
        str | None,
        typer.Option("--table", help=f"Which table: {', '.join(catalogue.TABLES)}; 2 if not said."),
    ] = None,
    filters: Annotated[
        bool,
        typer.Option(
            "--filters",
            help="Instead: the poisons and clean images that defenses removed, of all runs.",
        ),
    ] = False,
    runs: Annotated[
        bool, typer.Option("--runs", help="Instead: all runs by their settings.")
    ] = False,
    summary: Annotated[
        bool,
        typer.Option(
            "--summary",
            help="Instead: what each poison did and which defense held, in plain words.",
        ),
    ] = False,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            help=f"Only this data set: {', '.join(catalogue.dataset_labels(DATASETS))}.",
        ),
    ] = None,
    format: Annotated[
        str | None, typer.Option("--format", help=f"One of {', '.join(FORMATS)}; rich if not said.")
    ] = None,
    poison: Annotated[
        list[str] | None,
        typer.Option(
            "--poison",
            metavar="POISON",
            help="Of the runs on this poison instead of the table's own mix: an artefact's path or "
            "id, or its digest's first digits; once for each ratio.",
        ),
    ] = None,
    missing: Annotated[
        bool, typer.Option("--missing", help="Print the commands of the runs that are missing.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Exit with 3 when a figure differs from the published one or a claim is "
            "refuted, else with 4 when runs are missing.",
        ),
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", help="Write to this file instead of stdout.")
    ] = None,
    results: ResultsOption = DEFAULT_RESULTS,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show the run records as a paper's table, beside the published figures.

    poisonbench report --table 3 --dataset mnist-sample@1000
    """
    if json and format not in (None, "json"):
        raise UsageError(f"expected one format, got --json and --format {format}; leave one out")
    kind = "json" if json else format or "rich"
    check_format(kind)
    key = "2" if table is None else table
    others = {"--filters": filters, "--summary": summary, "--runs": runs}
    ours = {"--table": table is not None, "--missing": missing, "--check": check}
    if not any(others.values()):
        catalogue.cells(key, (), dataset)
    else:
        chosen_last = [flag for flag, is_given in others.items() if is_given][1:]
        _refuse(others, {**dict.fromkeys(chosen_last, True), **ours})
    if poison:
        _refuse({"--poison": True}, {**others, "--missing": missing})
        check_table(key)
    if results.exists() and not results.is_dir():
        raise UsageError(f"--results: expected a folder, got the file {results}")
    cards = _cards(poison or (), Store(results))
    # Said with --quiet too: a table that lacks runs must not look whole.
    records = Store(results).records(lambda error: say(f"warning: left out: {error}"))
    if failed := len(Store(results).failures()):
        say(f"{failed} failed run(s) are in no table; {results}/runs/ID.failed.json says why")
    if not records:
        say(f"no run records in {results}; --missing prints the commands to make some", quiet=quiet)
    chosen = None
    if poison:
        records, chosen = on_poisons(records, poison, cards)
        dataset = dataset_of(records, poison, dataset)
    if summary:
        text = sentences(records, dataset)
        lines = [dumps({"summary": text})] if kind == "json" else text
        _emit("".join(f"{line}\n" for line in lines), output)
        return
    if filters:
        made = build_filters(records, dataset)
    else:
        made = (
            build_runs(records, dataset) if runs else catalogue.build(key, records, dataset, chosen)
        )
    if missing:
        where = [] if results == results_folder() else ["--results", str(results)]
        commands = [
            command_of(request, *where) for request in catalogue.missing_runs(key, records, dataset)
        ]
        say(f"{len(commands)} run(s) missing", quiet=quiet)
        lines = [dumps({"missing": commands})] if kind == "json" else commands
        _emit("".join(f"{line}\n" for line in lines), output)
    elif kind == "rich" and output is None and sys.stdout.isatty():
        from rich.console import Console

        print_rich(made, Console())
    else:
        _emit(render(made, kind), output)
    if check:
        rhos = ratios_of(records) if poison else None
        _check(catalogue.check(key, records, dataset, rhos), quiet=quiet)


def _refuse(given: Mapping[str, bool], clashing: Mapping[str, bool]) -> None:
    """Refuse the option that is given beside one that clashes with it."""
    first = next(flag for flag, is_given in given.items() if is_given)
    if clash := next((flag for flag, is_given in clashing.items() if is_given), None):
        raise UsageError(f"expected {first} without {clash}; leave one of them out")


def _cards(names: Sequence[str], store: Store) -> dict[str, dict[str, Any]]:
    """The cards of the poisons that are named by a path, or by an id of the results folder."""
    paths = {name: Path(name) for name in names}
    for name in names:
        if re.fullmatch("[0-9a-f]{16}", name) and store.poison_path(name).exists():
            paths[name] = store.poison_path(name)
    paths = {name: path for name, path in paths.items() if os.path.exists(path)}
    if not paths:
        return {}
    from poisonbench.data.artefacts import read_poison

    return {name: read_poison(path).card for name, path in paths.items()}


def _emit(text: str, output: Path | None) -> None:
    if output is None:
        sys.stdout.write(text)
    else:
        write_text(output, text)


def _check(outcome: catalogue.TableCheck, *, quiet: bool) -> None:
    """Exit with 3 when anything deviates, else with 4 when anything is missing."""
    say(
        f"check: {outcome.differing} of {outcome.compared} compared figure(s) differ, "
        f"{outcome.refuted} of {outcome.judged} judged claim(s) refuted, "
        f"{outcome.missing} run(s) missing",
        quiet=quiet,
    )
    if outcome.differing or outcome.refuted:
        raise typer.Exit(DEVIATION)
    if outcome.missing:
        raise typer.Exit(MISSING)
