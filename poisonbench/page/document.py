"""The whole page: what it shows, in the order in which it stands, as one file of HTML."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from poisonbench.core.settings import percent_text
from poisonbench.page import overview
from poisonbench.page.compact import compact
from poisonbench.page.figures_shown import figures_of
from poisonbench.page.folder import read_folders
from poisonbench.page.groups import Row, rows_of
from poisonbench.page.leaderboard import submission_rows, submitters_of
from poisonbench.page.pairs import pair_table
from poisonbench.page.plots import MARKERS
from poisonbench.page.poison_pages import poison_pages, read_artefacts
from poisonbench.page.poison_pictures import DataSets
from poisonbench.page.run_pages import (
    FILTERS,
    RunPage,
    environments,
    filters_of,
    overlaid,
    poison_anchor,
    run_pages,
    shown,
)
from poisonbench.registry import DEFAULT_READING, READINGS
from poisonbench.requests import command_of
from poisonbench.results.merging import PassedOver
from poisonbench.results.records import RunRecord
from poisonbench.results.statistics import Verdict
from poisonbench.tables import catalogue
from poisonbench.tables.all_runs import build_runs
from poisonbench.tables.comparisons import Block, Comparison, Finding, Table
from poisonbench.tables.filter_table import build_filters
from poisonbench.tables.layout import DASH, show_measured
from poisonbench.tables.readings import reading_of
from poisonbench.tables.render import render_csv, render_latex, render_markdown
from poisonbench.tables.summary import sentences

#: Lines of one comparison's learning curves that can still be told apart.
_MOST_LINES = 7

_SCRIPTS = ("view.js", "filters.js", "tables.js", "overlay.js", "compare.js")


@dataclass(frozen=True)
class Page:
    """The file, how many records it shows, and the files that are damaged or passed over."""

    text: str
    records: int
    damaged: tuple[str, ...]
    passed_over: tuple[PassedOver, ...]


@dataclass(frozen=True, kw_only=True)
class ShownTable:
    """A table with the commands of the runs that it lacks."""

    anchor: str
    table: Table
    missing: tuple[str, ...] = ()

    @property
    def figures(self) -> str:
        """How many figures got which verdict, beside the published ones."""
        return _counts(cell.verdict for cell in self.table.cells if cell.published is not None)

    @property
    def claims(self) -> str:
        """How many claims got which verdict."""
        return _counts(finding.verdict for finding in self.table.findings)


@dataclass(frozen=True, kw_only=True)
class ShownRow:
    """One poison with its defenses, their differences, and learning curves over each other."""

    row: Row
    differences: Table | None
    curves: tuple[Markup, Markup]
    settings: Sequence[tuple[str, Sequence[str]]]


def build_page(paths: Sequence[Path], data_root: Path, *, live: str | None = None) -> Page:
    """Make the page of results folders; the same content gives the same bytes.

    Args:
        paths: the folders.
        data_root: where data sets are, for the pictures.
        live: digest of the folders, of a page that asks the server that it comes from for news.
    """
    folders = read_folders(paths)
    records = folders.records
    rows = rows_of(records)
    artefacts, damaged_cards = read_artefacts(folders.stores, folders.submissions)
    has_images = any(artefact.path is not None for artefact in artefacts)
    # Records alone make the same page everywhere: data that may be lacking is read for poisons.
    sets = DataSets(data_root, is_embedded_alone=not has_images)
    figures = figures_of(rows, folders.drawn, sets)
    damaged = (*folders.damaged, *damaged_cards, *figures.damaged)
    pages = run_pages(rows)
    tradeoffs = overview.tradeoffs(rows)
    environment = _environment()
    style, early, script = _static("page.css"), _static("early.js"), _script(live is not None)
    text = environment.get_template("page.html").render(
        csp=_policy(style, (early, script), is_live=live is not None),
        style=Markup(style),
        early=Markup(early),
        script=Markup(script),
        live=live,
        facts=overview.facts(records, rows),
        headlines=overview.headlines(rows),
        sentences=sentences(records) if records else [],
        matrices=overview.matrices(rows),
        shades=overview.SHADES,
        tradeoffs=[
            (title, lines, overview.tradeoff_plot(lines)) for title, lines in tradeoffs.items()
        ],
        tables=_tables(records),
        run_table=_run_table(pages),
        pages=pages,
        rows=[_shown_row(row) for row in rows],
        poisons=poison_pages(rows, artefacts, sets),
        figures=figures,
        environments=environments(records),
        damaged=damaged,
        failed=folders.failed,
        passed_over=[one.without_folders for one in folders.passed_over],
        markers=MARKERS,
        submissions=submission_rows(folders.submissions),
        submitters=submitters_of(folders.submissions),
        filters=_choices(pages),
    )
    names = tuple(trouble.name for trouble in damaged)
    return Page(compact(text), len(records), names, folders.passed_over)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("poisonbench.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"moment": moment, "percent": percent_text, "shown": shown}
    environment.globals |= {
        "attributes": attributes,
        "exports": exports,
        "judged_filters": judged_filters,
        "measured_first": measured_first,
        "row_filters": lambda row, method="": filters_of(row, method),
        "poison_anchor": poison_anchor,
        "p_text": p_text,
        "show_measured": show_measured,
        "DASH": DASH,
    }
    return environment


def _tables(records: Sequence[RunRecord]) -> list[ShownTable]:
    """The papers' tables, by each reading of the mix that has runs, and those of all runs."""
    tables = []
    of_mix = catalogue.untargeted()
    used = {reading_of(record) for record in records}
    others = [name for name in READINGS if name in used and name != DEFAULT_READING]
    # The overview has the matrix.
    for key in catalogue.papers():
        for reading in [DEFAULT_READING, *(others if key in of_mix else [])]:
            missing = catalogue.missing_runs(key, records, reading=reading)
            tables.append(
                ShownTable(
                    anchor=f"table-{key}" + (f"-{reading}" if reading != DEFAULT_READING else ""),
                    table=catalogue.build(key, records, reading=reading),
                    missing=tuple(map(command_of, missing)),
                )
            )
    if records:
        tables.append(ShownTable(anchor="table-runs", table=build_runs(records)))
    if any(record.metrics.filter is not None for record in records):
        tables.append(ShownTable(anchor="table-filters", table=build_filters(records)))
    return tables


def _counts(verdicts: Iterable[Verdict]) -> str:
    counts = Counter(verdicts)
    order = [verdict for verdict in Verdict if counts[verdict]]
    return ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in order) or DASH


def _shown_row(row: Row) -> ShownRow:
    lines = {entry.label: entry.trials for entry in row.entries[:_MOST_LINES]}
    differing: dict[str, list[str]] = {}
    names = sorted({name for run in row.runs for name in run.labels.overrides})
    for name in names:
        values = [
            shown(entry.trials[0].labels.overrides[name])
            if name in entry.trials[0].labels.overrides
            else DASH
            for entry in row.entries
        ]
        if len(set(values)) > 1:
            differing[name] = values
    return ShownRow(
        row=row,
        differences=pair_table(row),
        curves=overlaid(lines) if len(lines) > 1 else (Markup(""), Markup("")),
        settings=tuple(differing.items()),
    )


RUN_COLUMNS = (
    *("defense", "data set", "attack", "rho", "scenario", "settings", "seed", "trial"),
    *("accuracy", "batch statistics", "target hit", "seconds", "run"),
)


def _run_table(pages: Sequence[RunPage]) -> Table:
    """Every run, one a row."""
    rows = []
    for page in pages:
        record, row, metrics = page.record, page.row, page.record.metrics
        anew = metrics.batch_statistics_accuracy
        hit = metrics.attack_success
        own = ", ".join(f"{name}={value}" for name, value in page.settings.items())
        rows.append(
            (
                page.label.partition(" (")[0] if own and "=" in page.label else page.label,
                row.dataset,
                row.attack or DASH,
                f"{row.rho:g}",
                row.scenario or DASH,
                own or record.labels.profile,
                str(record.spec.seed),
                str(record.spec.trial),
                f"{100 * metrics.test_accuracy:.2f}",
                f"{100 * anew:.2f}" if isinstance(anew, float) else DASH,
                DASH if hit is None else "yes" if hit else "no",
                f"{record.cost.seconds.total:.1f}",
                record.id,
            )
        )
    block = Block(title="Every run", columns=RUN_COLUMNS, rows=tuple(rows), keys=8)
    return Table(key="every-run", title="Every run", blocks=(block,))


def _choices(pages: Sequence[RunPage]) -> dict[str, list[str]]:
    """What each filter offers: the values that runs have."""
    values: dict[str, set[str]] = {name: set() for name in FILTERS}
    for page in pages:
        for name, value in page.filters.items():
            values[name].add(value)
    return {
        name: sorted(own, key=(lambda text: (float(text), text)) if name == "rho" else None)
        for name, own in values.items()
    }


def attributes(values: Mapping[str, str]) -> Markup:
    """Values of filters as attributes of an element."""
    return Markup("").join(
        Markup(' data-{}="{}"').format(name, value) for name, value in values.items()
    )


def judged_filters(judged: Comparison | Finding) -> dict[str, str]:
    """What of a figure's keys the page filters by."""
    keys = judged.keys
    values = {
        "dataset": keys.get("dataset"),
        "attack": keys.get("attack"),
        "defense": keys.get("method"),
        "rho": None if (rho := keys.get("rho")) is None else f"{rho:g}",
        "scenario": keys.get("scenario"),
    }
    return {name: str(value) for name, value in values.items() if value is not None}


def measured_first(table: Table) -> list[Block]:
    """A table's blocks, those of data sets without a run last; a title begins with its data set."""

    def dataset(block: Block) -> str:
        return block.title.partition(":")[0]

    blocks = table.filled_blocks
    measured = {dataset(b) for b in blocks if any(one.records for one in (*b.cells, *b.judged))}
    return sorted(blocks, key=lambda block: dataset(block) not in measured)


def moment(time: str) -> str:
    """A record's time of day as people write it."""
    return time.replace("T", " ").replace("+00:00", " UTC")


def p_text(p: float | None) -> str:
    """A p-value as it is printed."""
    if p is None:
        return DASH
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def exports(table: Table) -> dict[str, str]:
    """A table as the texts that its buttons copy."""
    as_csv = render_csv(table) if table.cells or table.findings else _grid_csv(table)
    return {"LaTeX": render_latex(table), "CSV": as_csv, "Markdown": render_markdown(table)}


def _grid_csv(table: Table) -> str:
    """The printed grid of a table that has no figures for programs."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for block in table.filled_blocks:
        writer.writerow(block.columns)
        writer.writerows(block.rows)
    return stream.getvalue()


def _static(name: str) -> str:
    return (files("poisonbench.page") / "static" / name).read_text(encoding="utf-8")


def _script(is_live: bool) -> str:
    names = (*_SCRIPTS, "live.js") if is_live else _SCRIPTS
    return "\n".join(map(_static, (*names, "start.js")))


def _policy(style: str, scripts: Sequence[str], *, is_live: bool) -> str:
    """A Content-Security-Policy that allows this style, this script, embedded pictures: no more."""

    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(map(source, scripts))}",
            f"style-src {source(style)}",
            "img-src data:",
            "connect-src 'self'" if is_live else "connect-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
