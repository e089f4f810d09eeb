"""The tables by number: their cells, the runs that are missing, and the whole table. No torch here.

A table is a :class:`~poisonbench.tables.paper_table.PaperTable` in a module of its own: cells
for a data set, a function that lays them out, notes, and claims as data. Adding one means adding
its module and an entry to ``TABLES``.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

from poisonbench import registry
from poisonbench.core.errors import UsageError
from poisonbench.core.settings import did_you_mean
from poisonbench.requests import RunRequest
from poisonbench.results import published
from poisonbench.results.statistics import SIGNIFICANCE, Verdict
from poisonbench.tables import baseline_tables, table1, table2, table3, table4, table5
from poisonbench.tables.cells import SAMPLES, Cell, is_run_on
from poisonbench.tables.comparisons import Comparison, Finding, Table
from poisonbench.tables.layout import claims_block
from poisonbench.tables.paper_table import (
    PaperTable,
    Records,
    dataset_labels,
)


@dataclass(frozen=True)
class TableCheck:
    """The outcome of a table in short, of the paper's data sets or of the one asked for.

    Attributes:
        differing: cells that differ from the published figure.
        compared: cells that were tested against it.
        not_reproduced: claims that the paper's own means bear out and the runs do not.
        judged: claims that were tested, of those.
        missing: runs.
    """

    differing: int
    compared: int
    not_reproduced: int
    judged: int
    missing: int


def find_table(key: str) -> PaperTable:
    """The table of that number.

    Raises:
        UsageError: it is not there; names those that are.
    """
    if key not in TABLES:
        known = ", ".join(f"{name} ({table.title})" for name, table in TABLES.items())
        raise UsageError(f"expected a table among {known}, got {key!r}; choose one with --table")
    return TABLES[key]


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
        UsageError: unknown table or data set.
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
) -> list[RunRequest]:
    """The runs that a table lacks, each once; all its runs without records.

    Args:
        key: the table's number.
        records: what has been run.
        dataset: only this one.
        methods: only these defenses, of the paper's or not; by default those of the table.
        trials: as many of each cell; by default as many as the table wants.
        rhos: only cells of these poison ratios; null for all.

    Raises:
        UsageError: unknown table, data set or method, or a method that the table has no cells of.
    """
    known = registry.defenses()
    named = [registry.find("a defense", known, name).name for name in methods]
    every = cells(key, records, dataset, named)
    held = {cell.method for cell in every}
    if lacking := [name for name in named if name not in held]:
        others = ", ".join(name for name in known if name in held)
        where = f"table {key}" + (f" on {dataset}" if dataset else "")
        raise UsageError(
            f"--methods: expected defenses that {where} has, got {', '.join(lacking)}; it has "
            + (f"these: {others}" if others else "no cells there")
        )
    requests = [
        cell.request(trial)
        for cell in every
        if (not named or cell.method in named) and (rhos is None or cell.rho in rhos)
        for trial in replace(cell, trials=cell.trials and (trials or cell.trials)).missing(records)
    ]
    return list(dict.fromkeys(requests))


def build(key: str, records: Records, dataset: str | None = None) -> Table:
    """A table from run records.

    Args:
        key: its number, e.g. "2".
        records: all that there are; those of other tables are passed over.
        dataset: show only this one.

    Raises:
        UsageError: unknown table or data set.
    """
    table = find_table(key)
    records = table.own(records)
    every = cells(key, records, dataset)
    names = list(dict.fromkeys(cell.dataset for cell in every))
    blocks = []
    for name in names:
        group = [cell for cell in every if cell.dataset == name]
        blocks += table.blocks(name, group, records)
        findings = [claim.judge(records) for claim in table.claims(name, group, records)]
        # The paper's own data sets show every claim; of a sample those that have runs are enough.
        if findings := [f for f in findings if f.records or name not in SAMPLES]:
            blocks.append(claims_block(f"{dataset_labels()[name]}: the paper's claims", findings))
    compared = [cell for block in blocks for cell in block.cells]
    findings = [finding for block in blocks for finding in block.findings]
    source = published.source(key)
    notes = [f"Published figures: {source.citation}.", *table.notes(every, compared, records)]
    notes += _claim_notes(findings, table)
    if extra := [name for name in names if name not in (*table.datasets, *SAMPLES)]:
        notes.append(f"The paper's table does not have {', '.join(extra)}.")
    notes += [
        f"{name} is a part of MNIST with settings for a CPU; the paper has no figures for it."
        for name in names
        if name in SAMPLES
    ]
    if short := sum(bool(cell.missing(records)) for cell in every):
        notes.append(
            f"{short} cell(s) lack runs: poisonbench report --table {key} "
            + (f"--dataset {dataset} " if dataset else "")
            + "--missing prints the commands."
        )
    return Table(
        key=key,
        title=f"Table {source.number}: {table.title}",
        blocks=tuple(blocks),
        notes=(
            *notes,
            *([] if table.is_targeted else _several_poisons(compared, records)),
            *_left_out(names, compared, records),
        ),
    )


def check(
    key: str,
    records: Records,
    dataset: str | None = None,
    rhos: Container[float] | None = None,
) -> TableCheck:
    """Count what differs, what was not reproduced and what is missing.

    Data sets that the paper's table does not have count only when asked for.

    Args:
        key: the table's number.
        records: what has been run.
        dataset: only this one.
        rhos: the poison ratios whose missing runs count; null for all.

    Raises:
        UsageError: unknown table or data set.
    """
    names = [dataset] if dataset else find_table(key).datasets
    table = build(key, records, dataset)
    verdicts = [cell.verdict for cell in table.cells if cell.keys["dataset"] in names]
    differing = verdicts.count(Verdict.DIFFERS)
    claims = [
        finding.verdict
        for finding in table.findings
        if finding.keys["dataset"] in names and finding.bears_out is not False
    ]
    not_reproduced = claims.count(Verdict.NOT_REPRODUCED)
    missing = {run for name in names for run in missing_runs(key, records, name, rhos=rhos)}
    return TableCheck(
        differing=differing,
        compared=differing + verdicts.count(Verdict.AGREES),
        not_reproduced=not_reproduced,
        judged=not_reproduced + claims.count(Verdict.REPRODUCED),
        missing=len(missing),
    )


def _claim_notes(findings: Sequence[Finding], table: PaperTable) -> list[str]:
    if not findings:
        return []
    notes = [
        'Claims: "beats" and "is faster" are one-sided paired t-tests over trials, of which the '
        'largest p counts; "at least as good" is the same with a margin of '
        f"{table2.MARGIN:.1%} of accuracy; trends are Page's test over trials. Reproduced: p < "
        f"{SIGNIFICANCE:g}; not reproduced: the test did not find it in "
        + (
            "as many trials as could tell"
            if table.is_targeted
            else "all the trials that are wanted"
        )
        + ", or found the opposite (of one of several comparisons at the level over their number). "
        "The effect is the smallest mean difference, or the last level's mean minus the first's.",
        "Claims, paper: whether the means that the paper printed bear the claim out; --check "
        "counts none that they do not.",
        "Each trial has its own target and poison, which all defenses of the trial share."
        if table.is_targeted
        else "Trials of a cell share one poison, so these tests speak of training's randomness and "
        "not of other draws of the poison.",
    ]
    if tested := sum(finding.p_value is not None for finding in findings):
        notes.append(
            f"{tested} claim(s) were tested at the 5 % level: were all false, about "
            f"{tested * SIGNIFICANCE:.1f} would still be reproduced by chance."
        )
    return notes


def _datasets(table: PaperTable, records: Records, dataset: str | None) -> list[str]:
    if dataset is None:
        others = [name for name in dataset_labels() if name not in table.datasets]
        used = [name for name in others if any(is_run_on(record, name) for record in records)]
        return [*table.datasets, *used]
    if dataset not in dataset_labels():
        raise UsageError(
            f"expected a data set among {', '.join(dataset_labels())}, got {dataset!r}"
            f"{did_you_mean(dataset, dataset_labels())}"
        )
    return [dataset]


def _methods(dataset: str, records: Records, more: Sequence[str]) -> list[str]:
    """The paper's methods in its order, then others that have runs, and more."""
    paper = list(published.METHOD_LABELS)
    used = {record.spec.method for record in records if is_run_on(record, dataset)}
    used |= set(more)
    return paper + [name for name in registry.defenses() if name in used and name not in paper]


def _several_poisons(compared: Sequence[Comparison], records: Records) -> list[str]:
    """A note for each row whose columns are of different poisons, as after a setting changed."""
    by_id = {record.id: record.spec for record in records}
    poisons: dict[tuple[str, float, int], set[str]] = {}
    for cell in compared:
        for spec in (by_id[run] for run in cell.records):
            if spec.poison_digest is not None:
                row = (spec.dataset.name, spec.rho, spec.seed)
                poisons.setdefault(row, set()).add(spec.poison_digest)
    return [
        f"The runs on {name} at rho {rho:g} with seed {seed} are of {len(digests)} poisons, "
        f"{', '.join(sorted(digest[:12] for digest in digests))}: compare columns of one alone, "
        "which --poison shows."
        for (name, rho, seed), digests in sorted(poisons.items())
        if len(digests) > 1
    ]


def _left_out(names: Sequence[str], compared: Sequence[Comparison], records: Records) -> list[str]:
    averaged = {run for cell in compared for run in cell.records}
    others = [
        record
        for record in records
        if any(is_run_on(record, name) for name in names) and record.id not in averaged
    ]
    if not others:
        return []
    return [
        f"{len(others)} other run(s) of these data sets are not averaged here: other settings, "
        "another poison, an older recipe of the method, or a repeated trial."
    ]


TABLES = {
    "1": table1.TABLE,
    "2": table2.TABLE,
    "3": table3.TABLE,
    "4": table4.TABLE,
    "5": table5.TABLE,
    **baseline_tables.BASELINE_TABLES,
}
