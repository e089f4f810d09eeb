"""``poisonbench report``: run records as a paper's table, beside its numbers."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import Any, Literal

import typer

from poisonbench.builtin.datasets import DATASETS
from poisonbench.cli import common
from poisonbench.cli.answers import stdout
from poisonbench.core.errors import UsageError
from poisonbench.core.files import write_text
from poisonbench.core.folders import DEFAULT_RESULTS, folder_options
from poisonbench.core.settings import parse_value
from poisonbench.registry import DEFAULT_READING, READINGS
from poisonbench.requests import RunRequest, command_of
from poisonbench.results.store import Store
from poisonbench.results.submissions import SUFFIX, records_at
from poisonbench.specs import PoisonCard
from poisonbench.tables import catalogue
from poisonbench.tables.all_runs import build_runs
from poisonbench.tables.filter_table import build_filters
from poisonbench.tables.matrix_gains import METRICS
from poisonbench.tables.paper_table import dataset_labels
from poisonbench.tables.poison_selection import (
    check_table,
    dataset_of,
    on_poisons,
    ratios_of,
)
from poisonbench.tables.render import FORMATS, check_format, print_rich, render
from poisonbench.tables.selection import check_names
from poisonbench.tables.summary import sentences
from poisonbench.tables.unpaired import Unpaired, unpaired_runs

#: Exit code of ``--check`` when a figure differs from the paper's or a claim is refuted.
DEVIATION = 3
#: Exit code of ``--check`` when nothing deviates and runs are missing.
MISSING = 4


app = common.command_app()


@dataclass(frozen=True, kw_only=True)
class _ReportOptions:
    table: str | None = common.option(
        None, f"Which table: {', '.join(catalogue.TABLES)}; 2 if not said."
    )
    filters: bool = common.option(
        False, "Instead: the poisons and clean images that defenses removed, of all runs."
    )
    runs: bool = common.option(False, "Instead: all runs by their settings.")
    summary: bool = common.option(
        False, "Instead: what each poison did and which defense held, in plain words."
    )
    dataset: str | None = common.option(
        None, f"Only this data set: {', '.join(dataset_labels(DATASETS))}."
    )
    metric: str | None = common.option(
        None,
        f"With --table matrix, what cells are of: {', '.join(METRICS)}; last if not said.",
    )
    methods: str = common.option(
        "",
        "With --table matrix, only these defenses, separated by commas; jpeg:10 is a form of one.",
    )
    attacks: str = common.option(
        "", "With --table matrix, only clean runs and these attacks, separated by commas."
    )
    format: str | None = common.option(None, f"One of {', '.join(FORMATS)}; rich if not said.")
    poison: list[str] | None = common.option(
        None,
        "Of the runs on this poison instead of the table's own mix: an artefact's path or id, or "
        "its digest's first digits; once for each ratio.",
        metavar="POISON",
    )
    reading: str | None = common.option(
        None,
        "Of the runs on this reading of the mix: "
        f"{', '.join(READINGS)}; {DEFAULT_READING} if not said.",
    )
    missing: bool = common.option(False, "Print the commands of the runs that are missing.")
    check: bool = common.option(
        False,
        "Exit with 3 when a figure differs from the published one or a claim is refuted, "
        "else with 4 when runs are missing.",
    )
    output: Path | None = common.option(None, "Write to this file instead of stdout.")
    results: common.ResultsOption = DEFAULT_RESULTS
    json: common.JsonOption = False
    quiet: common.QuietOption = False


@app.command("report", cls=common.Command)
@common.takes(_ReportOptions)
def report(options: _ReportOptions) -> None:
    """Show the run records as a paper's table, beside the published figures.

    poisonbench report --table 3 --dataset mnist-sample@1000
    """
    number = _table_of(options)
    dataset, quiet = options.dataset, options.quiet
    wanted: dict[str, Any] = {
        "methods": common.names_in(options.methods),
        "attacks": common.names_in(options.attacks),
    }
    kind = _check_options(options, number)
    check_names(**wanted)
    reading = catalogue.find_reading(number, options.reading)
    # Commands may be for a folder that they are to make.
    if not options.missing:
        common.check_results_exist(options.results)
    store = Store(options.results)
    cards = _cards(options.poison or (), store)
    records = records_at(options.results, common.say_left_out)
    if failed := len(store.failures()):
        common.say(
            f"{failed} failed run(s) are in no table; {store.root}/runs/ID.failed.json says why"
        )
    if not records:
        where = "" if store.root.exists() else ", which does not exist yet"
        hint = "" if options.missing else "; --missing prints the commands to make some"
        common.say(f"no run records in {store.root}{where}{hint}", quiet=quiet)
    chosen = None
    if options.poison:
        records, chosen = on_poisons(records, options.poison, cards)
        dataset = dataset_of(records, options.poison, dataset)
    if options.summary:
        text = sentences(records, dataset)
        lines = [dumps({"summary": text})] if kind == "json" else text
        _emit("".join(f"{line}\n" for line in lines), options.output)
        return
    if options.filters:
        table = build_filters(records, dataset)
    elif options.runs:
        table = build_runs(records, dataset)
    else:
        table = catalogue.build(number, records, dataset, chosen, reading, **wanted)
    if options.missing:
        if dataset is None and not catalogue.cells(number, records, dataset):
            raise UsageError(
                f"--missing: expected --dataset with --table {number} where there is no run, got "
                "none; name one"
            )
        named = {"reading": reading, **wanted}
        missing = catalogue.missing_runs(number, records, dataset, **named)
        _show_missing(missing, unpaired_runs(number, records, dataset, **named), options, kind)
    elif kind == "rich" and options.output is None and stdout().isatty():
        from rich.console import Console

        print_rich(table, Console())
    else:
        _emit(render(table, kind), options.output)
    if options.check:
        rhos = ratios_of(records) if options.poison else None
        _check(catalogue.check(number, records, dataset, rhos, reading, **wanted), quiet=quiet)


def _table_of(options: _ReportOptions) -> str:
    """The key of the table; of the matrix that by the metric."""
    key = "2" if options.table is None else options.table
    is_matrix = key.startswith("matrix")
    own = {
        "--methods": options.methods and not is_matrix,
        "--attacks": options.attacks and not is_matrix,
        "--metric": options.metric is not None and key != "matrix",
    }
    if flag := next(filter(own.get, own), None):
        others = _others(options)
        asked = "no --table" if options.table is None else f"--table {key}"
        raise UsageError(
            f"expected {flag} with --table matrix, got it with "
            f"{next(filter(others.get, others), asked)}; leave it out or write --table matrix"
        )
    if options.metric is None:
        return key
    parse_value(options.metric, Literal[tuple(METRICS)], "--metric")
    return catalogue.matrix_key(options.metric)


def _others(options: _ReportOptions) -> dict[str, bool]:
    """What can be asked for instead of a table, and whether it is."""
    return {"--filters": options.filters, "--summary": options.summary, "--runs": options.runs}


def _check_options(options: _ReportOptions, number: str) -> str:
    """The format; raises UsageError for options that make no sense."""
    if options.json and options.format not in (None, "json"):
        raise UsageError(
            f"expected one format, got --json and --format {options.format}; leave one out"
        )
    kind = "json" if options.json else options.format or "rich"
    check_format(kind)
    common.check_output(options.output)
    others = _others(options)
    missing = {"--missing": options.missing}
    plain = {"--summary": options.summary, **missing}
    if options.format not in (None, "json") and (flag := next(filter(plain.get, plain), None)):
        raise UsageError(
            f"expected {flag} as text or json, got --format {options.format}; leave it out or "
            "write --format json"
        )
    reading = {"--reading": options.reading is not None}
    if any(others.values()):
        second = [flag for flag, is_given in others.items() if is_given][1:]
        ours = {"--table": options.table is not None, **missing, "--check": options.check}
        ours |= reading
        _refuse(others, {**dict.fromkeys(second, True), **ours})
    else:
        catalogue.cells(number, (), options.dataset)
    if options.poison:
        _refuse({"--poison": True}, {**others, **missing, **reading})
        check_table(number)
    if options.results.is_file() and not options.results.name.endswith(SUFFIX):
        raise UsageError(
            f"--results: expected a folder or a submission (*{SUFFIX}), got the file "
            f"{options.results}"
        )
    return kind


def _refuse(given: Mapping[str, bool], clashing: Mapping[str, bool]) -> None:
    """Refuse the option that is given beside one that clashes with it."""
    first = next(flag for flag, is_given in given.items() if is_given)
    if clash := next((flag for flag, is_given in clashing.items() if is_given), None):
        raise UsageError(f"expected {first} without {clash}; leave one of them out")


def _cards(names: Sequence[str], store: Store) -> dict[str, PoisonCard]:
    """The cards of the poisons that are named by a path, or by an id of the results folder."""
    paths = {}
    for name in names:
        is_id = re.fullmatch("[0-9a-f]{16}", name) and store.poison_path(name).exists()
        path = store.poison_path(name) if is_id else Path(name)
        if name and os.path.exists(path):
            paths[name] = path
    if not paths:
        return {}
    from poisonbench.data.artefacts import read_poison

    return {name: read_poison(path).card for name, path in paths.items()}


def _show_missing(
    missing: Sequence[RunRequest], unpaired: Sequence[Unpaired], options: _ReportOptions, kind: str
) -> None:
    """Commands, a line each; those of trials that only lack a pair are no result, but a remark."""
    # A submission holds what was done; runs go to the folder that `defend` uses untold.
    folders = [] if options.results.is_file() else folder_options(options.results)
    commands = [command_of(request, *folders) for request in missing]
    common.say(f"{len(commands)} run(s) missing", quiet=options.quiet)
    both = dict.fromkeys(request for found in unpaired for pair in found.runs for request in pair)
    pairs = [command_of(request, *folders) for request in both]
    if pairs:
        count = sum(len(found.runs) for found in unpaired)
        common.say(
            f"{count} more trial(s) are done, but on another poison than plain training of the "
            f"same trial, so they do not pair: {'; '.join(found.text for found in unpaired)}. "
            "These make pairs, on the poison that the results folder has; what is done on it is "
            "not done again:",
            quiet=options.quiet,
        )
        common.say("\n".join(pairs), quiet=options.quiet)
    facts = {"missing": commands, "unpaired": pairs}
    lines = [dumps(facts)] if kind == "json" else commands
    _emit("".join(f"{line}\n" for line in lines), options.output)


def _emit(text: str, output: Path | None) -> None:
    if output is None:
        stdout().write(text)
    else:
        write_text(output, text)


def _check(outcome: catalogue.TableCheck, *, quiet: bool) -> None:
    """Exit with 3 when anything deviates, else with 4 when anything is missing."""
    common.say(
        f"check: {outcome.differing} of {outcome.compared} compared figure(s) differ, "
        f"{outcome.refuted} of {outcome.judged} judged claim(s) refuted, "
        f"{outcome.missing} run(s) missing (declared claims are held to 5 % each, all else to 5 % "
        "together, by Holm's correction)",
        quiet=quiet,
    )
    if outcome.differing or outcome.refuted:
        raise typer.Exit(DEVIATION)
    if outcome.missing:
        raise typer.Exit(MISSING)
