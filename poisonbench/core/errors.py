"""What a user sees instead of a traceback.

Each error carries the exit code of the command line's contract, so shell scripts can tell a
typing mistake (2) from a damaged file (65), a full disk (73) or a run to start again (75).
"""

from typing import Any


class PoisonbenchError(Exception):
    """An error whose message is shown to the user as one line: expected, received, what to do."""

    exit_code = 1


class UsageError(PoisonbenchError):
    """A bad option, an unknown name or a value out of range."""

    exit_code = 2


class JobsFailedError(PoisonbenchError):
    """Some jobs of a sweep failed; the others are done."""

    exit_code = 4


class ArtefactError(PoisonbenchError):
    """A data set, poison or record that is missing, damaged, or made for something else."""

    exit_code = 65


class StoreError(PoisonbenchError):
    """The results folder cannot be written."""

    exit_code = 73


class InterruptedRunError(PoisonbenchError):
    """A run stopped by a signal after its checkpoint was saved: the same command continues it."""

    exit_code = 75


class AbortedError(PoisonbenchError):
    """A run stopped by a signal before it had anything to save; nothing half-made is left."""

    exit_code = 130


class DivergedError(PoisonbenchError):
    """A loss or a solve stopped being finite; the message names the setting to change."""

    #: Of the training that it was in, from 1; None where there was none.
    epoch: int | None = None


def one_line(error: BaseException) -> str:
    """An exception's message without line breaks; its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def on_device(device: Any) -> str:
    """Words for a tensor's device, where it is not the CPU."""
    return "" if str(device) == "cpu" else f" on {device}"


def check_returned(where: str, fits: bool, expected: str, got: Any) -> None:
    """Raise UsageError unless what a method's code returned fits."""
    if not fits:
        form = f" {tuple(got.shape)} {got.dtype}" if hasattr(got, "dtype") else ""
        form += on_device(getattr(got, "device", "cpu"))
        raise UsageError(f"{where}: expected {expected}, got {type(got).__name__}{form}; mend it")
