"""From the words of a command line to requests: the one place where their text is parsed."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from poisonbench.cli import craft, defend
from poisonbench.cli.method_options import method_settings, named_mix
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
    given = {**context.params, "quiet": True}
    named = method_settings(context), named_mix(context)
    if name == "craft":
        return [*craft.read_requests(craft.CraftOptions(**given), *named)]
    return [*defend.read_requests(defend.DefendOptions(**given), *named)]


@cache
def _command(name: str) -> Any:
    """The program's own command of that name."""
    from poisonbench.cli.main import load_command

    return load_command(name)
