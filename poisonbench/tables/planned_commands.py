"""The commands that fill a table, for all of it or for some methods, whatever has been run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from poisonbench import registry
from poisonbench.core.errors import UsageError
from poisonbench.results.records import RunRecord
from poisonbench.tables import catalogue


def table_commands(
    key: str,
    records: Sequence[RunRecord] = (),
    *,
    dataset: str | None = None,
    methods: Sequence[str] = (),
    trials: int | None = None,
) -> list[str]:
    """The commands of a table's runs, each once; of those that are missing, given records.

    Args:
        key: the table's number.
        records: what has been run; none gives every run of the table.
        dataset: only this one.
        methods: only these defenses, of the paper's or not; by default those of the table.
        trials: as many of each cell; by default as many as the table wants.

    Raises:
        UsageError: unknown table, data set or method, or a method that the table has no cells of.
    """
    built = registry.defenses()
    named = [registry.find("a defense", built, name).name for name in methods]
    cells = catalogue.cells(key, records, dataset, named)
    held = {cell.method for cell in cells}
    if lacking := [name for name in named if name not in held]:
        known = ", ".join(name for name in built if name in held)
        where = f"table {key}" + (f" on {dataset}" if dataset else "")
        raise UsageError(
            f"--methods: expected defenses that {where} has, got {', '.join(lacking)}; it has "
            + (f"these: {known}" if known else "no cells there")
        )
    commands = [
        cell.command(trial)
        for cell in cells
        if cell.method in (named or built)
        for trial in replace(cell, trials=cell.trials and (trials or cell.trials)).missing(records)
    ]
    return list(dict.fromkeys(commands))
