"""Hold a method, a network or a data set to its contract, in the manner of ``check_estimator``.

Each check runs the real training loop, or the attack, on a tiny problem. From pytest::

    @pytest.mark.parametrize("check", checks_of("gray"), ids=str)
    def test_it_conforms(check):
        check()
"""

import re
from pathlib import Path
from typing import Any

from poisonbench import registry
from poisonbench.conformance.attacks import AttackChecks
from poisonbench.conformance.check import Check, ConformanceError, checks_in
from poisonbench.conformance.datasets import DatasetChecks
from poisonbench.conformance.defenses import DefenseChecks
from poisonbench.conformance.methods import short_config
from poisonbench.conformance.networks import NetworkChecks
from poisonbench.core.errors import UsageError
from poisonbench.core.settings import did_you_mean
from poisonbench.entries import AttackEntry, DatasetEntry, DefenseEntry, Entry, NetworkEntry
from poisonbench.plugins import entries_of_file

__all__ = ["Check", "ConformanceError", "check_method", "checks_of", "subject_of"]


def checks_of(subject: str | Path | Entry, path: str = "", /, **settings: Any) -> list[Check]:
    """The checks of a name, a Python file with one entry, or an entry.

    Args:
        subject: what is to be checked; of a data set that takes a path ``NAME:PATH`` or
            ``FILE.py:PATH``.
        path: of an entry that takes one.
        settings: of a method; others are its defaults, with few repetitions.

    Raises:
        UsageError: an unknown name, a broken plug-in, or a setting that it lacks.
    """
    entry, path = (subject, path) if isinstance(subject, Entry) else subject_of(str(subject))
    module = entry.load()
    if path and not isinstance(entry, DatasetEntry):
        raise UsageError(f"expected a data set before a colon, got {entry.kind} and {path!r}")
    if isinstance(entry, DefenseEntry):
        return checks_in(DefenseChecks(entry, module, short_config(entry, module, settings)))
    if isinstance(entry, AttackEntry):
        return checks_in(AttackChecks(entry, module, short_config(entry, module, settings)))
    if isinstance(entry, NetworkEntry):
        return checks_in(NetworkChecks(entry))
    assert isinstance(entry, DatasetEntry)
    return checks_in(DatasetChecks(entry, module, path))


def check_method(subject: str | Path | Entry, **settings: Any) -> None:
    """Run all checks; ConformanceError for the first promise that is broken."""
    for check in checks_of(subject, **settings):
        check()


def subject_of(text: str) -> tuple[Entry, str]:
    """The entry of a name, or the one of a file, and the path behind its colon.

    Raises:
        UsageError: there is none, or more than one.
    """
    # A folder's name may hold .py as well, as ~/.pyenv does.
    if of_file := re.fullmatch(r"(.*?\.py)(?::(.*))?", text, re.DOTALL):
        file, path = of_file[1], of_file[2] or ""
        entries = entries_of_file(Path(file))
        if len(entries) > 1:
            several = ", ".join(entry.name for entry in entries)
            raise UsageError(f"expected a file with one entry, got {file} with {several}; split it")
        return entries[0], path
    name, _, path = text.partition(":")
    tables: list[registry.EntryTable[Any]] = [
        registry.attacks(),
        registry.defenses(),
        registry.networks(),
        registry.datasets(),
    ]
    for table in tables:
        if name in table or name in registry.faults(table):
            entry: Entry = registry.find("something to check", table, name)
            return entry, path
    names = [name for table in tables for name in table]
    raise UsageError(
        "expected a name of `poisonbench list`, or a file that ends in .py, got "
        f"{text!r}{did_you_mean(name, names)}"
    )
