"""A check, and the error that says which promise is broken."""

import inspect
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType


class ConformanceError(AssertionError):
    """What was expected, what came, what to do."""


@dataclass(frozen=True)
class Check:
    """One promise of the contract, which a call holds something to.

    Raises:
        ConformanceError: on the call, if it is broken.
    """

    name: str
    run: Callable[[], None]

    def __str__(self) -> str:
        return self.name

    def __call__(self) -> None:
        """Hold it to the promise."""
        self.run()


def checks_in(checks: object) -> list[Check]:
    """A check for each public method, in the order of their names in the class."""
    names = dict.fromkeys(
        name for kind in reversed(type(checks).__mro__) for name in vars(kind) if name[0] != "_"
    )
    return [
        Check(name.replace("_", "-"), method)
        for name in names
        if inspect.ismethod(method := getattr(checks, name))
    ]


def line_in(module: ModuleType, error: Exception) -> str:
    """The module's innermost line that an exception came through, in words; empty for none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == module.__file__]
    return f"line {own[-1].lineno} of {own[-1].filename}" if own else ""


def expect(holds: bool, expected: str, got: object, remedy: str) -> None:
    """Raise ConformanceError unless it holds."""
    if not holds:
        raise ConformanceError(f"expected {expected}, got {got}; {remedy}")


# The tiny problem


def expect_resumed(
    stops: Sequence[int], continues: Callable[[Sequence[int]], bool], what: str, remedy: str
) -> None:
    """Raise ConformanceError unless what is stopped and continued ends as what is not.

    Args:
        stops: numbers of steps after which it can be stopped, rising.
        continues: whether one that is stopped after each of these ends in the same.
        what: it ends in.
        remedy: what to do.
    """
    # All in one, which costs little, and one alone, after which many steps follow.
    if not stops or (continues(stops) and continues([stops[len(stops) // 2]])):
        return
    alone = next((stop for stop in stops if not continues([stop])), None)
    where = f"each of the steps {list(stops)}" if alone is None else f"step {alone}"
    raise ConformanceError(
        f"expected {what} as without a stop, got others after a stop at {where}; {remedy}"
    )
