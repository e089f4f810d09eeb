"""The program: its commands, and how an error becomes one line and an exit code."""

import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from poisonbench import __version__
from poisonbench.cli.answers import stdout
from poisonbench.core.errors import PoisonbenchError

#: Exit code after SIGINT; Typer turns the exception into it.
INTERRUPTED = 130

#: The commands, and the beginning of each one's own help.
COMMANDS = {
    "quickstart": "Poison the embedded sample, train with six defenses, say what came out and "
    "make a page.",
    "craft": "Make poisons: an artefact in the results folder, found again the next time.",
    "defend": "Train a classifier on poisoned data under a defense; a record in the results "
    "folder.",
    "assess": "Assess a data set: plan a small matrix, say what it costs, run it, and say what it "
    "shows.",
    "import": "Read published poison sets into the results folder, for defend --poison.",
    "report": "Show the run records as a paper's table, beside the published figures.",
    "figure": "Draw a figure as PNG and SVG, and write its numbers as JSON beside them.",
    "page": "Write all results as one page that works offline: tables, runs, poisons, figures.",
    "inspect": "Check a poison against its data set (budget, labels, rows), or show a run and its "
    "command.",
    "selftest": "Check the installation in under a minute, offline: data, a tiny craft and defend, "
    "bytes.",
    "verify": "Do recorded runs again, and say whether the same comes out, and what differs.",
    "export": "Write a poison or a kept model in a form that other programs read.",
    "submit": "Pack a results folder's records and its poisons' cards into one file.",
    "doctor": "Check versions, devices, data, and whether the results folder is safe for many "
    "processes.",
    "list": "List attacks, defenses, data sets, models, tables.",
    "data": "List, show and fetch data sets.",
    "new": "Begin a package with a method, a network or a data set of your own.",
    "check": "Hold a method, a network or a data set to its contract, and say what breaks it.",
    "sweep": "Plan, run and watch many runs, on one machine, SLURM or a dask cluster.",
}
#: Modules of ``poisonbench.cli`` that are not named like their command, a word of Python.
MODULES = {"import": "importing", "list": "listing"}


def load_command(name: str) -> Any:
    """Import a command's module and return the command as Typer builds it."""
    module = import_module(f"poisonbench.cli.{MODULES.get(name, name)}")
    return typer.main.get_command(module.app)


class CommandTable(TyperGroup):
    """The commands of :data:`COMMANDS`; help and completion of their names import none of them."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name, help=text) for name, text in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command that a line names, imported."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else load_command(name), rest


app = typer.Typer(
    cls=CommandTable,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Benchmark of data-poisoning attacks against defenses: craft, defend, report.",
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(__version__)
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # Where a terminal cannot show a letter, its code says more than no table at all.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if arguments is None else list(arguments)
    return exit_code(lambda: app(args=words, prog_name="poisonbench", standalone_mode=False), words)


def exit_code(command: Callable[[], Any], words: Sequence[str] = ()) -> int:
    """Run a command; its exit code, after one line on stderr for a known error.

    Usage errors quote the words of the line.
    """
    try:
        result = command()
        code = result if isinstance(result, int) else 0
        stdout().flush()
    except PoisonbenchError as error:
        _print_error(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        return _end_of_pipe()
    except SystemExit as end:
        # Typer makes one of a broken pipe.
        if isinstance(end.__context__, BrokenPipeError):
            return _end_of_pipe()
        code = end.code if isinstance(end.code, int) else 1 if end.code else 0
    except Exception as error:
        # Typer's usage errors; their base class differs between its versions.
        if not hasattr(error, "format_message"):
            raise
        text = usage_text(error, words)
        if "\n" in text:
            # A group without a command shows its help, which is what Typer's message then is.
            print(text, file=sys.stderr)
        else:
            _print_error(text)
        return int(getattr(error, "exit_code", 2))
    if code == INTERRUPTED:
        _print_error("interrupted")
    return code


def usage_text(error: Any, words: Sequence[str]) -> str:
    """Typer's error in the form of our own: what was expected, what came, what to do."""
    text: str = error.format_message().rstrip(".")
    if "\n" in text:
        return text
    flags = getattr(getattr(error, "param", None), "opts", [])
    if flags and error.message:
        text = f"{flags[0]}: {error.message.replace('Input should be', 'expected').rstrip('.')}"
        if given := value_of(flags[0], words):
            text += f", got {given!r}"
    where = error.ctx.command_path if error.ctx else "poisonbench"
    return f"{text}; see `{where} --help`"


def value_of(flag: str, arguments: Sequence[str]) -> str:
    """The text after a flag, or nothing."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == flag:
            return following
        if argument.startswith(flag + "="):
            return argument.partition("=")[2]
    return ""


def _print_error(text: str) -> None:
    print(f"error: {' '.join(text.split())}", file=sys.stderr)


def _end_of_pipe() -> int:
    """The reader (head, say) has what it wants; Python must not complain at exit either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stdout().fileno())
    return 0
