"""What every command shares: options, where text goes, how errors end."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from poisonbench.core.errors import UsageError
from poisonbench.core.folders import DATA_VARIABLE, RESULTS_VARIABLE, data_folder, results_folder
from poisonbench.core.settings import Option
from poisonbench.registry import DATASETS, register, remember

DatasetOption = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        help=f"{', '.join(entry.pattern for entry in DATASETS)}, a part such as "
        "mnist-sample@1000, or another of `poisonbench list datasets`.",
    ),
]
ResultsOption = Annotated[
    Path,
    typer.Option("--results", envvar=RESULTS_VARIABLE, help="Folder of poisons and run records."),
]
DataRootOption = Annotated[
    Path,
    typer.Option("--data-root", envvar=DATA_VARIABLE, help="Folder of the data sets."),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, help="Root seed of everything random, 0 or more.")
]
PluginOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE",
        help="A Python file with a defense, an attack, a network or a data set; may be repeated.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress and no remarks on stderr.")]


def command_app(help: str | None = None, cls: type[TyperGroup] = TyperGroup) -> typer.Typer:
    """The Typer application of one command's module: one command, or a group with its help."""
    return typer.Typer(
        cls=cls, rich_markup_mode=None, add_completion=False, no_args_is_help=True, help=help
    )


class Command(TyperCommand):
    """A command that refuses an option twice, or one as another's value, and loads plug-ins."""

    def make_context(self, *line: Any, **options: Any) -> Any:
        """The context of a line; one that is refused leaves no plug-in."""
        forget = remember()
        try:
            return super().make_context(*line, **options)
        except BaseException:
            forget()
            raise

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Check the line, then read it as usual."""
        given, _ = self.tokens(ctx, args)
        load_plugins(ctx, given)
        return super().parse_args(ctx, args)

    def tokens(self, ctx: Any, args: list[str]) -> tuple[dict[str, Any], list[str]]:
        """The texts of a line by option, and the words that are of none.

        Raises:
            UsageError: an option twice, or without its value.
        """
        given, others, order = self.make_parser(ctx).parse_args(args=list(args))
        for parameter in order:
            flag = parameter.flag if isinstance(parameter, Option) else parameter.opts[0]
            is_list = getattr(parameter, "multiple", False)
            if order.count(parameter) > 1 and not is_list:
                raise UsageError(f"{flag}: expected once, got it {order.count(parameter)} times")
            value = given.get(parameter.name)
            for text in (value or []) if is_list else [value]:
                if isinstance(text, str) and text.startswith("--"):
                    raise UsageError(f"{flag}: expected a value after it, got the option {text}")
        return given, others


def load_plugins(ctx: Any, given: dict[str, Any]) -> None:
    """Register the files of ``--plugin``, once, before anything asks what there is to choose from.

    Args:
        ctx: the command's context, at whose end they are forgotten.
        given: texts by option.
    """
    if given.get("plugin") and not ctx.meta.setdefault("poisonbench.plugins", False):
        ctx.meta["poisonbench.plugins"] = True
        ctx.call_on_close(remember())
        for path in given["plugin"]:
            register(path)


def say(text: str, *, quiet: bool = False) -> None:
    """A remark for the person at the terminal: stderr, so that stdout stays the result."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """The result as one JSON object on stdout."""
    print(json.dumps(value, sort_keys=True, allow_nan=False))


def plugin_options(paths: Iterable[str]) -> list[str]:
    """The options that name a command's plug-ins."""
    return [word for path in paths for word in ("--plugin", path)]


def folder_options(results: Path, data_root: Path) -> list[str]:
    """The options that name a command's folders, but for those that it would use untold."""
    words: list[str] = []
    for flag, path, untold in (
        ("--results", results, results_folder()),
        ("--data-root", data_root, data_folder()),
    ):
        if path != untold:
            words += [flag, str(path)]
    return words
