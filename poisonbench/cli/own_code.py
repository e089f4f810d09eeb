"""What other people's code raises: its own part of the traceback, then one line that says whose."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from poisonbench import registry
from poisonbench.core.errors import PoisonbenchError
from poisonbench.entries import reason_of


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
        known, own = _known_by_file(), []
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename in known:
                own.append(trace)
            trace = trace.tb_next
        if not own:
            raise
        # Without what lies between the command and their code.
        traceback.print_exception(type(error), error, own[0])
        file = own[-1].tb_frame.f_code.co_filename
        kind, name = known[file]
        raise PoisonbenchError(
            f"expected {kind} that runs through, got {name} with "
            f"{reason_of(error)} in line {own[-1].tb_lineno} of {file}; mend it"
        ) from None


def _known_by_file() -> dict[str, tuple[str, str]]:
    """What is other people's, by the file of its imported module: of what kind, and its name."""
    tables = (registry.attacks(), registry.defenses(), registry.networks(), registry.datasets())
    entries = {
        str(sys.modules[entry.module].__file__): (entry.kind, f"{entry.name} ({entry.source})")
        for table in tables
        for entry in table.values()
        if entry.plug_in is not None and entry.module in sys.modules
    }
    return {str(path): ("a model", name) for name, path in registry.network_files()} | entries
