"""Sentences under a table on its runs: what they are on, and which are left out. No torch here."""

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from poisonbench.core.settings import did_you_mean
from poisonbench.entries import shown_name
from poisonbench.registry import READINGS
from poisonbench.tables import readings
from poisonbench.tables.cells import Cell, is_run_on, table_name
from poisonbench.tables.comparisons import Comparison
from poisonbench.tables.paper_table import Records
from poisonbench.tables.selection import Selection


def several_poisons(compared: Sequence[Comparison], records: Records) -> list[str]:
    """A sentence on the rows whose columns are of different poisons of one draw."""
    by_id = {record.id: record.spec for record in records}
    poisons: dict[tuple[Any, ...], set[str]] = {}
    for cell in compared:
        for spec in (by_id[run] for run in cell.records):
            if spec.poison is not None and spec.poison_digest is not None:
                row = (spec.dataset.name, spec.rho, spec.seed, spec.poison.trial)
                poisons.setdefault(row, set()).add(spec.poison_digest)
    rows = [row for row, digests in sorted(poisons.items(), key=str) if len(digests) > 1]
    if not rows:
        return []
    name, rho, *_ = rows[0]
    more = f" and {len(rows) - 1} more" if rows[1:] else ""
    return [f"Rows of several poisons: {name} at rho {rho:g}{more} (--poison)."]


def unlike(compared: Sequence[Comparison], records: Records) -> list[str]:
    """Sentences on the runs of a matrix that stand beside others and differ in more than shown."""
    gains = [cell for cell in compared if cell.keys["quantity"] == "accuracy_gain"]
    levels = [cell for cell in compared if cell.keys["quantity"] != "accuracy_gain"]
    return [*_other_poisons(levels, records), *_other_processors(gains, records)]


def _other_poisons(compared: Sequence[Comparison], records: Records) -> list[str]:
    """A sentence on the attacks and columns with another poison of a draw than the first column.

    The same draw made on two kinds of processors is two poisons.
    """
    by_id = {record.id: record.spec for record in records}
    first: dict[tuple[Any, ...], str] = {}
    others: dict[str, dict[str, None]] = {}
    for cell in compared:
        dataset, attack = str(cell.keys["dataset"]), str(cell.keys["attack"])
        for spec in (by_id[run] for run in cell.records):
            # A targeted poison is made for the network of its victim.
            if spec.poison is None or spec.poison_digest is None or spec.targeting is not None:
                continue
            draw = (dataset, attack, spec.seed, spec.poison.trial)
            if first.setdefault(draw, spec.poison_digest) != spec.poison_digest:
                others.setdefault(attack, {})[spec.method] = None
    return _sentence("Other poisons than the first column's", others)


def _other_processors(gains: Sequence[Comparison], records: Records) -> list[str]:
    """A sentence on the pairs of runs on two kinds of processors, or in two precisions.

    Rounding differs between these, and what a training makes of it is in the gain too.
    """
    arithmetic = {
        run.id: (run.environment.device, run.environment.processor, run.environment.precision)
        for run in records
    }
    others: dict[str, dict[str, None]] = {}
    for gain in gains:
        pairs = zip(gain.records[::2], gain.records[1::2], strict=True)
        if any(arithmetic[run] != arithmetic[plain] for run, plain in pairs):
            others.setdefault(str(gain.keys["attack"]), {})[str(gain.keys["method"])] = None
    return _sentence("Pairs of two kinds of processor or precisions", others)


def _sentence(what: str, others: Mapping[str, Iterable[str]]) -> list[str]:
    # By the names that --methods takes: titles make no line of most attacks.
    named = [f"{attack} ({', '.join(methods)})" for attack, methods in others.items()]
    return [f"{what}: {', '.join(named)}."] if named else []


def without_runs(dataset: str, names: Sequence[str], records: Records) -> str:
    """A sentence on data that has no runs, and what has some; empty where it has."""
    if any(is_run_on(record, name) for record in records for name in names):
        return ""
    used = sorted({shown_name(table_name(record)) for record in records})
    others = f"; there are runs on {', '.join(used)}" if used else ", nor on other data"
    return f"There is no run on {dataset} here{others}{did_you_mean(dataset, used) or '.'}"


def nothing_shown(
    key: str, dataset: str | None, methods: Sequence[str], attacks: Sequence[str]
) -> str:
    """A sentence on a table of any data without a run in its cells: which, and what makes some.

    The methods and attacks are those that are wanted; all where none is named.
    """
    which = f" of {', '.join(methods)}" if methods else ""
    which += f" under {', '.join(attacks)} or without poison" if attacks else ""
    which += f" on {dataset}" if dataset else ""
    named = {"--methods": ",".join(methods), "--attacks": ",".join(attacks)}
    words = [word for flag, text in named.items() if text for word in (flag, text)]
    command = shlex.join(["--table", key, "--dataset", dataset or "NAME", *words, "--missing"])
    return f"No run{which} is in a cell here: `report {command}` prints commands of such runs."


def named_without_runs(selection: Selection, cells: Sequence[Cell], records: Records) -> list[str]:
    """A sentence on defenses and poisons that were named and have no run in a cell."""
    done = [cell for cell in cells if cell.select(records)]
    held = {cell.method_text for cell in done} | {cell.poison_text for cell in done if cell.rho}
    lacking = [name for name in (*selection.methods, *selection.poisons) if name not in held]
    return [f"No run is here of {', '.join(lacking)}."] if lacking else []


def earlier_contents(names: Sequence[str], kept: Records, records: Records) -> list[str]:
    """A sentence on runs that were on other images by the same name, which count in no cell."""
    ids = {record.id for record in kept}
    others = [
        record
        for record in records
        if record.id not in ids and any(is_run_on(record, name) for name in names)
    ]
    if not others:
        return []
    return [
        f"{len(others)} run(s) on other images by the same name are left out: the path was written "
        "to, or names another folder elsewhere; name each by its absolute path then."
    ]


def left_out(names: Sequence[str], compared: Sequence[Comparison], records: Records) -> list[str]:
    """A sentence on the runs of the data sets that no cell averages."""
    averaged = {run for cell in compared for run in cell.records}
    others = [
        record
        for record in records
        if any(is_run_on(record, name) for name in names) and record.id not in averaged
    ]
    if not others:
        return []
    counts = Counter(filter(None, map(readings.reading_of, others)))
    parts = [f"{counts[name]} of reading {name}" for name in READINGS if counts[name]]
    if parts and (rest := len(others) - counts.total()):
        parts.append(f"{rest} others")
    shown = f"{', '.join(parts)}; " if parts else ""
    return [f"{len(others)} other run(s) are not averaged ({shown}--runs)."]
