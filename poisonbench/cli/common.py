"""What every command shares: options, where text goes, how errors end."""

import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import MISSING, Field, field, fields
from functools import wraps
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from poisonbench.builtin.datasets import DATASETS
from poisonbench.cli.answers import answer, others_aside
from poisonbench.cli.own_code import told_by_line
from poisonbench.core.errors import UsageError
from poisonbench.core.folders import DATA_VARIABLE, DEFAULT_RESULTS, RESULTS_VARIABLE
from poisonbench.core.settings import Option
from poisonbench.registry import forgetting, register

DatasetOption = Annotated[
    str | None,
    typer.Option(
        help=f"{', '.join(entry.pattern for entry in DATASETS)}, a part such as "
        "mnist-sample@1000, or another of `poisonbench list datasets`.",
    ),
]
ResultsOption = Annotated[
    Path, typer.Option(envvar=RESULTS_VARIABLE, help="Folder of poisons and run records.")
]
DataRootOption = Annotated[
    Path, typer.Option(envvar=DATA_VARIABLE, help="Folder of the data sets.")
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        help="For a CPU: quick, the embedded sample, or with --dataset any images, in both a "
        "small network and few epochs; colour, 10,000 images of CIFAR-10 and a small network."
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Root seed of everything random, 0 or more.")]
PluginOption = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        help="A Python file with a defense, an attack, a network or a data set; may be repeated.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
#: Of ``--attack``.
ATTACK_HELP = (
    "One of `poisonbench list attacks`, a form of one such as em:class, untargeted ones "
    "joined by +, or a mix."
)

QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress and no remarks on stderr.")]


def option(default: Any, help: str, **attributes: Any) -> Any:
    """A dataclass field that becomes an option of the commands that take the dataclass.

    The default is ``MISSING`` of one that must be given; attributes are those of ``typer.Option``.
    """
    return field(default=default, metadata={"help": help, **attributes})


def takes(kind: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command whose parameter ``options`` stands for the fields of a dataclass.

    Typer makes options of a function's parameters: the signature that it reads has the fields in
    place of the one parameter, those of the class before those of its bases.
    """
    kinds = get_type_hints(kind, include_extras=True)
    by_name = {field.name: field for field in fields(kind)}
    names = dict.fromkeys(chain.from_iterable(map(inspect.get_annotations, kind.__mro__)))
    parameters = [_parameter(by_name[name], kinds[name]) for name in names]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        others = [one for one in signature.parameters.values() if one.name != "options"]

        @wraps(command)
        def with_fields(**values: Any) -> None:
            given = {name: values.pop(name) for name in names}
            command(**values, options=kind(**given))

        with_fields.__signature__ = inspect.Signature([*others, *parameters])  # type: ignore[attr-defined]
        return with_fields

    return decorate


def _parameter(field: Field[Any], kind: Any) -> inspect.Parameter:
    if field.metadata:
        flag = "--" + field.name.replace("_", "-")
        kind = Annotated[kind, typer.Option(flag, **field.metadata)]
    default = inspect.Parameter.empty if field.default is MISSING else field.default
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind
    )


def command_app(help: str | None = None, cls: type[TyperGroup] = TyperGroup) -> typer.Typer:
    """The Typer application of one command's module: one command, or a group with its help."""
    return typer.Typer(
        cls=cls, rich_markup_mode=None, add_completion=False, no_args_is_help=True, help=help
    )


class Command(TyperCommand):
    """A command that refuses an option twice, or one as another's value, and loads plug-ins."""

    def make_context(self, *line: Any, **options: Any) -> Any:
        """The context of a line, at whose end, or if it is refused, its plug-ins are forgotten."""
        with ExitStack() as stack:
            stack.enter_context(forgetting())
            context = super().make_context(*line, **options)
            context.call_on_close(stack.pop_all().close)
        return context

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Check the line, then read it as usual."""
        self.tokens(ctx, args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command, whose answer alone goes to stdout."""
        with others_aside(), told_by_line():
            return super().invoke(ctx)

    def tokens(self, ctx: Any, args: list[str]) -> tuple[dict[str, Any], list[str]]:
        """The texts of a line by option, and the words that are of none; plug-ins are registered.

        Raises:
            UsageError: an option twice, or without its value; a plug-in that cannot be used.
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
        # Before anything asks what there is to choose from; the same file again changes nothing.
        for path in given.get("plugin") or ():
            register(path)
        return given, others


def check_output(path: Path | None) -> None:
    """Refuse what is no file as the file to write, before anything is made for it."""
    if path is None or path.is_file() or not path.exists():
        return
    what = "the folder" if path.is_dir() else "a device or a pipe,"
    raise UsageError(f"--output: expected a file, got {what} {path}; name a file")


def check_results_folder(results: Path) -> None:
    """Refuse a file as the results folder of a command that reads no submissions."""
    if results.is_file():
        raise UsageError(
            f"--results: expected a results folder, got the file {results}; `poisonbench report` "
            "and `poisonbench page` read submissions"
        )


def check_results_exist(folder: Path) -> None:
    """Refuse a results folder that somebody named and that does not exist, where it is only read.

    The one that is taken untold may be lacking: the first run makes it.
    """
    if folder != DEFAULT_RESULTS and not os.path.exists(folder):
        raise UsageError(
            f"--results: expected a folder of results, got {folder}, which does not exist; check "
            "the path, or make some with `poisonbench defend`"
        )


def say(text: str, *, quiet: bool = False) -> None:
    """A remark for the person at the terminal: stderr, so that stdout stays the result."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """The result as one JSON object on stdout."""
    answer(json.dumps(value, sort_keys=True, allow_nan=False))


def show(value: Any, lines: Iterable[str], as_json: bool) -> None:
    """The result: one JSON object, or lines."""
    if as_json:
        print_json(value)
    else:
        for line in lines:
            answer(line)


def print_items(name: str, items: Sequence[dict[str, Any]], is_single: bool) -> None:
    """The one item as a JSON object, or all of them as a list under a name."""
    print_json(items[0] if is_single else {name: items})


def plugin_options(paths: Iterable[str]) -> list[str]:
    """The options that name a command's plug-ins."""
    return [word for path in paths for word in ("--plugin", path)]


def say_left_out(error: Exception) -> None:
    """Name what cannot be read. Also with --quiet: what lacks runs must not look whole."""
    say(f"warning: left out: {error}")


def names_in(text: str | None) -> list[str]:
    """The names in a list with commas."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]
