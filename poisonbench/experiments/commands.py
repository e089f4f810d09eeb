"""The commands that fill a table, for all of it or for some methods, whatever has been run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from poisonbench import registry
from poisonbench.experiments import tables
from poisonbench.results.records import RunRecord


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
        methods: only these defenses; by default all that are built.
        trials: as many of each cell; by default as many as the table wants.

    Raises:
        UsageError: unknown table, data set or method.
    """
    built = registry.defenses()
    wanted = [registry.find("a defense", built, name).name for name in methods] or list(built)
    commands = [
        cell.command(trial)
        for cell in tables.cells(key, (), dataset)
        if cell.method in wanted
        for trial in replace(cell, trials=trials or cell.trials).missing(records)
    ]
    return list(dict.fromkeys(commands))
