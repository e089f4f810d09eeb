"""A check, and the error that says which promise is broken."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass


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


def expect(holds: bool, expected: str, got: object, remedy: str) -> None:
    """Raise ConformanceError unless it holds."""
    if not holds:
        raise ConformanceError(f"expected {expected}, got {got}; {remedy}")


# The tiny problem
