"""From the words of a command line to requests: the one place where their text is parsed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from typing import Any

from poisonbench.cli import craft, defend
from poisonbench.cli.method_options import method_settings
from poisonbench.cli.session import RunOptions
from poisonbench.core.errors import UsageError
from poisonbench.requests import Request


def from_words(words: Sequence[str]) -> list[Request]:
    """The requests of a line of ``defend`` or ``craft``, one a trial; where and how is passed over.

    Raises:
        UsageError: words that the command would refuse.
    """
    name, *arguments = words
    try:
        context = _command(name).make_context(f"poisonbench {name}", arguments)
    except Exception as error:
        # Typer's usage errors; their base class differs between its versions.
        if not hasattr(error, "format_message"):
            raise
        from poisonbench.cli.main import usage_text

        raise UsageError(usage_text(error, arguments)) from None
    module: Any = {"craft": craft, "defend": defend}[name]
    kind = {"craft": craft.CraftOptions, "defend": defend.DefendOptions}[name]
    asked, options = (_options(of, context.params) for of in (kind, RunOptions))
    options = replace(options, quiet=True)
    requests: list[Request] = module.read_requests(asked, options, method_settings(context))
    return requests


@cache
def _command(name: str) -> Any:
    """The program's own command of that name."""
    from poisonbench.cli.main import load_command

    return load_command(name)


def _options(kind: type[Any], given: Mapping[str, Any]) -> Any:
    return kind(**{field.name: given[field.name] for field in fields(kind)})
