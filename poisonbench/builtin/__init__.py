"""What comes with the package: the rows of the registry's tables. No torch here."""

from dataclasses import replace
from typing import TypeVar

from poisonbench.entries import Entry, MethodEntry

EntryT = TypeVar("EntryT", bound=Entry)


def ours(folder: str, *entries: EntryT) -> tuple[EntryT, ...]:
    """Our own entries; modules are named like them, methods' labels are names in capitals."""
    return tuple(
        replace(
            entry,
            module=f"poisonbench.{folder}.{entry.module or entry.name.replace('-', '_')}",
            label=entry.label or (entry.name.upper() if isinstance(entry, MethodEntry) else ""),
        )
        for entry in entries
    )
