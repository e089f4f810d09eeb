"""The tables by number: their cells, the runs that are missing, and the whole table. No torch here.

A table is a :class:`~poisonbench.tables.paper_table.PaperTable` in a module of its own: cells
for a data set, a function that lays them out, notes, and claims as data. Adding one means adding
its module and an entry to ``TABLES``.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from poisonbench import registry
from poisonbench.core.errors import UsageError
from poisonbench.core.quick_names import same_place, split_quick
from poisonbench.core.settings import did_you_mean
from poisonbench.registry import DEFAULT_READING, READINGS
from poisonbench.requests import RunRequest
from poisonbench.results import published
from poisonbench.results.statistics import SIGNIFICANCE, Verdict
from poisonbench.results.verdicts import holm
from poisonbench.tables import (
    apbench,
    baseline1,
    baseline2,
    declared,
    iss,
    matrix_gains,
    readings,
    remarks,
    table1,
    table2,
    table3,
    table4,
    table5,
)
from poisonbench.tables.cells import (
    SAMPLES,
    Cell,
    IndexedRuns,
    is_run_on,
    of_newest_data,
    table_name,
)
from poisonbench.tables.comparisons import Block, Standing, Table
from poisonbench.tables.layout import claims_block
from poisonbench.tables.paper_table import (
    PaperTable,
    Records,
    dataset_labels,
    dataset_title,
)
from poisonbench.tables.selection import Selection, bare_methods, select

#: What the words mean; a report's file may lie anywhere, where a link to the page would be dead.
_VERDICTS_PAGE = "docs/verdicts.md of poisonbench"


@dataclass(frozen=True)
class TableCheck:
    """The outcome of a table in short, of the paper's data sets or of the one asked for."""

    #: Cells that differ from the published figure, of those that were judged against it.
    differing: int
    compared: int
    #: Claims that are refuted, of those that were judged and that the paper's means bear out.
    refuted: int
    judged: int
    #: Runs.
    missing: int


def find_table(key: str) -> PaperTable:
    """The table of that number; a UsageError names those that there are."""
    if key not in TABLES:
        known = ", ".join(f"{name} ({table.title})" for name, table in TABLES.items())
        raise UsageError(f"expected a table among {known}, got {key!r}; choose one with --table")
    return TABLES[key]


def untargeted() -> list[str]:
    """The numbers of the tables whose poison is the mix, one for all trials."""
    return [key for key, table in TABLES.items() if table.is_of_mix and not table.is_targeted]


def papers() -> list[str]:
    """The numbers of the tables that a paper printed."""
    return [key for key, table in TABLES.items() if table.is_published]


def find_reading(key: str, name: str | None) -> str:
    """The reading of the mix that a table shall be of: the default one where none is named.

    Raises:
        UsageError: an unknown reading, or a table of single attacks, which have none.
    """
    find_table(key)
    if name is None:
        return DEFAULT_READING
    if key not in untargeted():
        raise UsageError(
            f"--reading: expected one of the tables {', '.join(untargeted())}, whose poison is "
            f"the mix, got {key}; leave it out"
        )
    return readings.check_reading(name)


def cells(
    key: str, records: Records = (), dataset: str | None = None, methods: Sequence[str] = ()
) -> list[Cell]:
    """The cells of a table: of the paper's data sets and methods, and of others that have runs.

    Args:
        key: the table's number.
        records: what has been run.
        dataset: only this one.
        methods: defenses that are wanted without runs too.

    Raises:
        UsageError: unknown table or data set, here and below.
    """
    table = find_table(key)
    records = table.own(records)
    return [
        cell
        for name in _datasets(table, records, dataset)
        for cell in table.cells(name, _methods(name, records, methods), records)
    ]


def missing_runs(
    key: str,
    records: Records = (),
    dataset: str | None = None,
    *,
    methods: Sequence[str] = (),
    trials: int | None = None,
    rhos: Container[float] | None = None,
    reading: str = DEFAULT_READING,
    attacks: Sequence[str] = (),
) -> list[RunRequest]:
    """The runs that a table lacks, each once; all its runs without records.

    Parameters: each but the first two leaves runs out; most calls give the first three.

    Args:
        key: the table's number.
        records: what has been run.
        dataset: only this one.
        methods: only these defenses, of the paper's or not, with ``:10`` behind a form of one; by
            default those of the table, without such forms.
        trials: as many of each cell; by default as many as the table wants.
        rhos: only cells of these poison ratios; null for all.
        reading: of the mix.
        attacks: only clean runs and those on poisons of these attacks, as ``--attack`` names them,
            with ``:jpeg`` behind one that is crafted against a defense and ``:class`` behind a form
            of one; none such without.

    Raises:
        UsageError: an unknown method or attack too, or one that the table has no cells of.
    """
    records = IndexedRuns(readings.runs_of(records, reading))
    every = cells(key, records, dataset, bare_methods(methods))
    chosen = select(every, methods, attacks, _where(key, dataset))
    requests = [
        cell.request(trial)
        for cell in every
        if chosen.is_planned(cell) and (rhos is None or cell.rho in rhos)
        for trial in replace(cell, trials=cell.trials and (trials or cell.trials)).missing(records)
    ]
    return [readings.asked_in(request, reading) for request in dict.fromkeys(requests)]


def _where(key: str, dataset: str | None) -> str:
    """A table in messages."""
    return f"table {key}" + (f" on {dataset}" if dataset else "")


def build(
    key: str,
    records: Records,
    dataset: str | None = None,
    poisons: Mapping[str, str] | None = None,
    reading: str = DEFAULT_READING,
    *,
    methods: Sequence[str] = (),
    attacks: Sequence[str] = (),
) -> Table:
    """A table from run records.

    Parameters: each but the first two leaves something out; most calls give the first three.

    Args:
        key: its number, e.g. "2".
        records: all that there are; those of other tables are passed over.
        dataset: show only this one.
        poisons: names of the poisons that the runs are on instead of the table's own, and what
            each is made of.
        reading: of the mix that the table's own poison is.
        methods: only these defenses, as in :func:`missing_runs`; by default all that have runs.
        attacks: only clean runs and these attacks, likewise.

    Raises:
        UsageError: also a method or attack that the table has no cells of.
    """
    table = find_table(key)
    every_run = table.own(records)
    of_reading = readings.runs_of(every_run, reading)
    records = IndexedRuns(of_newest_data(of_reading))
    is_default = not poisons and reading == DEFAULT_READING
    whole = cells(key, records, dataset, bare_methods(methods))
    # Without any run a table of any data has no cells, whatever is named.
    selection = select(whole, methods, attacks, _where(key, dataset)) if whole else Selection()
    every = selection.shown(whole)
    names = list(dict.fromkeys(cell.dataset for cell in every))
    blocks = []
    for name in names:
        group = [cell for cell in every if cell.dataset == name]
        blocks += table.blocks(name, group, records)
        findings = [
            declared.judge(key, claim, records, is_own_poison=is_default)
            for claim in table.claims(name, group, records)
        ]
        # The paper's own data sets show every claim; of a sample those that have runs are enough.
        if findings := [f for f in findings if f.records or name not in SAMPLES]:
            blocks.append(claims_block(f"{dataset_title(name)}: the paper's claims", findings))
    compared = [cell for block in blocks for cell in block.cells]
    source = published.source(key) if table.is_published else None
    state = table.notes(every, records)
    absent = remarks.without_runs(dataset, names, every_run) if dataset and not blocks else ""
    if table.takes_any and not blocks and not absent:
        state.append(remarks.nothing_shown(key, dataset, methods, attacks))
    state += remarks.named_without_runs(selection, every, records) if blocks else []
    if source and (extra := [name for name in names if name not in (*table.datasets, *SAMPLES)]):
        state.append(f"Not in the paper's table: {', '.join(extra)}.")
    is_of_mix = key in untargeted()
    state += remarks.several_poisons(compared, records) if is_of_mix else []
    state += remarks.unlike(compared, records) if table.takes_any else []
    state += remarks.earlier_contents(names, records, of_reading)
    planned = list(filter(selection.is_planned, every))
    # Of chosen poisons the commands would make others.
    if not poisons and (short := sum(bool(cell.missing(records)) for cell in planned)):
        option = "" if reading == DEFAULT_READING else f"--reading {reading} "
        state.append(f"{short} cell(s) lack runs ({option}--missing).")
    state += [] if methods or attacks else remarks.left_out(names, compared, every_run)
    has_reading = is_of_mix and not poisons
    named = ", ".join(f"{name} ({attacks})" for name, attacks in (poisons or {}).items())
    notes = [
        absent,
        f"The runs above rho 0 are on {named}." if named else "",
        f"Published: {source.citation}; {source.plus_minus}." if source else "",
        table.remark,
        _about_verdicts(blocks),
        " ".join(state),
    ]
    return Table(
        key=key,
        title=(f"Table {source.number}: " if source else "Matrix: ")
        + table.title
        + (f", reading {reading} ({READINGS[reading].reading})" if has_reading else "")
        # They are all of the same.
        + "".join(f", on {made_of}" for made_of in dict.fromkeys((poisons or {}).values())),
        reading=reading if has_reading else None,
        blocks=tuple(blocks),
        notes=tuple(filter(None, notes)),
    )


def check(
    key: str,
    records: Records,
    dataset: str | None = None,
    rhos: Container[float] | None = None,
    reading: str = DEFAULT_READING,
    *,
    methods: Sequence[str] = (),
    attacks: Sequence[str] = (),
) -> TableCheck:
    """Count what differs, what is refuted and what is missing.

    Data sets that the paper's table does not have count only when asked for; of a table that takes
    any those with runs count. What was not declared is held to 5 % together, by Holm's correction.

    Parameters: as of :func:`build`.

    Args:
        key: the table's number.
        records: what has been run.
        dataset: only this one.
        rhos: the poison ratios whose missing runs count; null for all.
        reading: of the mix.
        methods: only these defenses.
        attacks: only clean runs and these attacks.
    """
    named: dict[str, Any] = {"reading": reading, "methods": methods, "attacks": attacks}
    paper = find_table(key)
    names = [dataset] if dataset else paper.datasets
    # A table without data sets of its own would have nothing to count.
    places = [None] if paper.takes_any and not dataset else names
    table = build(key, records, dataset, **named)
    compared = [cell.judgement for cell in table.cells if cell.keys["dataset"] in names]
    findings = [
        f for f in table.findings if f.keys["dataset"] in names and f.bears_out is not False
    ]
    judged = [finding.judgement for finding in findings]
    undeclared = [f for f in findings if f.standing is not Standing.DECLARED]
    exploratory = [*compared, *(finding.judgement for finding in undeclared)]
    tested = [(j, j.p_against) for j in exploratory if j.is_complete and j.p_against is not None]
    adjusted = zip(tested, holm([p for _, p in tested]), strict=True)
    by_chance = {id(judgement) for (judgement, _), p in adjusted if p >= SIGNIFICANCE}
    missing = {
        run for place in places for run in missing_runs(key, records, place, rhos=rhos, **named)
    }
    facts = (Verdict.EQUAL, Verdict.DIFFERS)
    refutations = (Verdict.REFUTED, Verdict.TOO_SMALL)
    return TableCheck(
        differing=sum(j.verdict is Verdict.DIFFERS and id(j) not in by_chance for j in compared),
        compared=sum(j.is_complete or j.verdict in facts for j in compared),
        refuted=sum(j.verdict in refutations and id(j) not in by_chance for j in judged),
        judged=sum(j.is_complete for j in judged),
        missing=len(missing),
    )


def _about_verdicts(blocks: Sequence[Block]) -> str:
    """Say how many verdicts a table gives, each of a test, and which are of declared claims."""
    findings = [f for block in blocks for f in block.findings if f.judgement.is_complete]
    primary = sum(finding.standing is Standing.DECLARED for finding in findings)
    figures = sum(cell.judgement.is_complete for block in blocks for cell in block.cells)
    if not findings and not figures:
        return f"No figure here has a verdict. What verdicts say: {_VERDICTS_PAGE}."
    return (
        f"{len(findings) + figures} verdict(s), each at 5 % by itself, {primary} on declared "
        f"claims: {_VERDICTS_PAGE}."
    )


def _datasets(table: PaperTable, records: Records, dataset: str | None) -> list[str]:
    if dataset is None:
        others = [name for name in dataset_labels() if name not in table.datasets]
        used = [name for name in others if any(is_run_on(record, name) for record in records)]
        return [*table.datasets, *used, *(_own_names(records) if table.takes_any else ())]
    if table.takes_any and dataset not in dataset_labels():
        return _variants(records, dataset)
    if dataset not in dataset_labels():
        hint = did_you_mean(dataset, dataset_labels())
        if split_quick(dataset)[1] is not None:
            hint = "; data in settings for a CPU is in --table matrix"
        raise UsageError(
            f"expected a data set among {', '.join(dataset_labels())}, got {dataset!r}{hint}"
        )
    return [dataset]


def _own_names(records: Records) -> list[str]:
    """Data that has runs and no label: users' own, and ours in other settings."""
    labels = dataset_labels()
    return sorted({name for run in records if (name := table_name(run)) not in labels})


def _variants(records: Records, dataset: str) -> list[str]:
    """A data set in all settings for a CPU that have runs; as it is written without any.

    Raises:
        UsageError: there is no such kind of data set.
    """
    base, quick = split_quick(dataset)
    kind, _, path = base.partition(":")
    entry = registry.find("a data set", registry.datasets(), kind.partition("@")[0])
    if entry.takes_path and not path:
        raise UsageError(f"--dataset: expected {entry.pattern}, got {dataset!r}; write the path")
    place = same_place(base)
    used = [name for name in _own_names(records) if split_quick(name)[0] == place]
    return used if used and quick is None else [same_place(dataset)]


def _methods(dataset: str, records: Records, more: Sequence[str]) -> list[str]:
    """The paper's methods in its order, then others that have runs, and more."""
    paper = list(published.METHOD_LABELS)
    used = {record.spec.method for record in records if is_run_on(record, dataset)}
    used |= set(more)
    return paper + [name for name in registry.defenses() if name in used and name not in paper]


def matrix_key(metric: str) -> str:
    """The key of the matrix by one of its metrics."""
    return "matrix" if metric == "last" else f"matrix-{metric}"


TABLES = {
    "1": table1.TABLE,
    "2": table2.TABLE,
    "3": table3.TABLE,
    "4": table4.TABLE,
    "5": table5.TABLE,
    "baseline-1": baseline1.TABLE,
    "baseline-2": baseline2.TABLE,
    "apbench": apbench.TABLE,
    "iss": iss.TABLE,
    **{matrix_key(metric): table for metric, table in matrix_gains.METRICS.items()},
}
