"""The arguments of the Python API: what is of another type is refused before anything is done.

No torch here.
"""

from __future__ import annotations

import inspect
import numbers
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar

from poisonbench.core.errors import UsageError
from poisonbench.core.settings import typed

P = ParamSpec("P")
R = TypeVar("R")

#: By their annotation, the arguments that are checked before anything else is done.
_PLAIN: dict[str, Any] = {
    "bool": bool,
    "int": int,
    "int | None": int | None,
    "float | None": float | None,
    "str": str,
    "str | None": str | None,
    "Literal['disagree', 'random']": Literal["disagree", "random"],
    "Literal['common', 'all']": Literal["common", "all"],
}


@contextmanager
def _names_of_parameters() -> Iterator[None]:
    """A block whose messages name parameters, ``epsilon``, where a command's name ``--epsilon``."""
    try:
        yield
    except UsageError as error:
        # A command to run is told as it is, and so is what only the command line has.
        if "poisonbench " in str(error):
            raise
        text = str(error).replace("--plugin:", "plug_in:")
        text = re.sub(r"--(?!plugin)([a-z][\w.-]*)", lambda flag: flag[1].replace("-", "_"), text)
        raise UsageError(text) from None


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function of the API: wrong types are refused, and its messages name parameters."""
    annotations = inspect.get_annotations(function)
    names = list(inspect.signature(function).parameters)

    @wraps(function)
    def with_checks(*values: Any, **named: Any) -> R:
        with _names_of_parameters():
            values = tuple(
                argument(name, value, annotations.get(name))
                for name, value in zip(names, values, strict=False)
            )
            named = {n: argument(n, value, annotations.get(n)) for n, value in named.items()}
            return function(*values, **named)

    return with_checks


def argument(name: str, value: Any, annotation: str | None) -> Any:
    """A value as the type that its parameter's annotation declares; whole floats are integers."""
    if annotation in _PLAIN:
        kind = _PLAIN[annotation]
        is_number = not isinstance(value, bool) and isinstance(value, numbers.Real)
        if kind in (int, int | None) and is_number and value % 1 == 0:
            value = round(value)
        return typed(value, kind, name)
    if annotation == "str | Sequence[str]":
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        return typed(tuple(value) if isinstance(value, Iterable) else value, tuple[str, ...], name)
    is_path = isinstance(value, str | os.PathLike) and "\0" not in str(value)
    if annotation in ("str | Path", "str | Path | None") and not (is_path or value is None):
        raise UsageError(f"{name}: expected a path, got {value!r}; pass text or a Path")
    return value
