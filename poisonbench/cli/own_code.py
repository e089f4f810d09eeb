"""What other people's code raises: its own part of the traceback, then one line that says whose."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from poisonbench import registry
from poisonbench.core.errors import PoisonbenchError
from poisonbench.entries import Entry, reason_of


@contextmanager
def told_by_line() -> Iterator[None]:
    """A block in which methods, networks and data sets of other people's run.

    Raises:
        PoisonbenchError: their code raised what it does not mean for users, or ended the program.
    """
    try:
        yield
    except PoisonbenchError:
        raise
    except (Exception, SystemExit) as error:
        entries, own = _entries_by_file(), []
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename in entries:
                own.append(trace)
            trace = trace.tb_next
        if not own:
            raise
        # Without what lies between the command and their code.
        traceback.print_exception(type(error), error, own[0])
        file = own[-1].tb_frame.f_code.co_filename
        entry = entries[file]
        raise PoisonbenchError(
            f"expected {entry.kind} that runs through, got {entry.name} ({entry.source}) with "
            f"{reason_of(error)} in line {own[-1].tb_lineno} of {file}; mend it"
        ) from None


def _entries_by_file() -> dict[str, Entry]:
    """Entries of other people's by the file of their module, where that has been imported."""
    tables = (registry.attacks(), registry.defenses(), registry.networks(), registry.datasets())
    return {
        str(sys.modules[entry.module].__file__): entry
        for table in tables
        for entry in table.values()
        if entry.plug_in is not None and entry.module in sys.modules
    }
