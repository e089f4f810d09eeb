"""A Sphinx extension: pages of the reference that are made from the code when the site is built.

What can be chosen by name is read out of the registry, a method's options out of its Config, and
the commands' help out of the program, so that no page repeats by hand what the code says.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
from sphinx.application import Sphinx

from poisonbench import registry
from poisonbench.attacks import base as attack_contract
from poisonbench.cli.main import COMMANDS, load_command
from poisonbench.core.settings import Option, options_of, value_text
from poisonbench.defenses import base as defense_contract
from poisonbench.entries import MethodEntry, profiles_of
from poisonbench.training.recipe import RECIPE_PRESETS, Recipe

#: Where the pages go; git ignores it.
FOLDER = "reference"


def setup(app: Sphinx) -> dict[str, Any]:
    """Have the pages written before Sphinx looks for pages."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write_pages(app: Sphinx) -> None:
    """Write each page that is not there already as it should be."""
    folder = Path(app.srcdir, FOLDER)
    folder.mkdir(exist_ok=True)
    pages = {
        "attacks": _methods("Attacks", registry.attacks().values()),
        "defenses": _methods("Defenses", registry.defenses().values()),
        "training": _training(),
        "networks": _entries("Networks", registry.networks()),
        "datasets": _entries("Data sets", registry.datasets()),
        "commands": _commands(),
        "contracts": _contracts(),
    }
    for name, lines in pages.items():
        text, path = "\n".join(lines) + "\n", folder / f"{name}.md"
        # An unchanged page is not built again.
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _methods(title: str, entries: Iterable[MethodEntry]) -> Iterator[str]:
    """Each method: what it is for, its source and steps, its options, other data's values."""
    yield f"# {title}\n"
    yield (
        "Defaults are those for CIFAR-10, the paper's where it has any. Each method's text is that "
        "of its file.\n"
    )
    for entry in entries:
        module = entry.load()
        yield f"## `{entry.name}`\n"
        yield f"{entry.about[:1].upper()}{entry.about[1:]}.\n"
        yield from _literal(module.__doc__ or "")
        yield from _options(options_of(module.Config))
        yield from _presets(profiles_of(module))


def _training() -> Iterator[str]:
    """The options that all methods which train share."""
    yield "# The training recipe\n"
    yield "Every method trains by these options, unless a page says that it has its own.\n"
    yield from _options(options_of(Recipe))
    yield from _presets(RECIPE_PRESETS)


def _options(options: Iterable[Option]) -> Iterator[str]:
    """A table of options, if there are any."""
    rows = [
        f"| `{option.flag}` | {_cell(_default(option))} | {_cell(option.help)} |"
        for option in options
    ]
    if rows:
        yield from ("| option | default | |", "| --- | --- | --- |", *rows, "")


def _default(option: Option) -> str:
    value = f"`{value_text(option.default)}`"
    return f"{value} of `{'`, `'.join(option.choices)}`" if option.choices else value


def _presets(profiles: Any) -> Iterator[str]:
    """What other data and other profiles change, a line each."""
    for profile, presets in profiles.items():
        for preset, values in presets.items():
            if values:
                where = "all data" if preset == "*" else f"`{preset}`"
                where += "" if profile == "paper" else f" with `--profile {profile}`"
                changed = ", ".join(
                    f"`--{name.replace('_', '-')} {value_text(value)}`"
                    for name, value in values.items()
                )
                yield f"- {where}: {changed}"
    yield ""


def _entries(title: str, table: Any) -> Iterator[str]:
    yield from (f"# {title}\n", "| name | what it is |", "| --- | --- |")
    for name, entry in table.items():
        yield f"| `{name}` | {_cell(entry.summary)} |"


def _commands() -> Iterator[str]:
    """The help of each command and subcommand."""
    yield "# Commands\n"
    yield "What `--help` prints. The options of methods have pages of their own.\n"
    for name in COMMANDS:
        yield from _help(f"poisonbench {name}", load_command(name), 2)


def _help(name: str, command: Any, level: int) -> Iterator[str]:
    yield f"{'#' * level} `{name}`\n"
    with click.Context(command, info_name=name, terminal_width=88, max_content_width=88) as context:
        yield from _literal(command.get_help(context))
    for word, inner in getattr(command, "commands", {}).items():
        yield from _help(f"{name} {word}", inner, level + 1)


def _contracts() -> Iterator[str]:
    """The contracts of methods: the texts of their modules, and their types."""
    yield "# Contracts of methods\n"
    yield (
        "What a method of one's own holds and sees. [Your own methods](../own-methods.md) shows "
        "one being written, [the kit](../conformance.md) checks it.\n"
    )
    for title, module in (("An attack", attack_contract), ("A defense", defense_contract)):
        yield f"## {title}\n"
        yield from _literal(module.__doc__ or "")
        yield "```{eval-rst}"
        for name, value in vars(module).items():
            if isinstance(value, type) and value.__module__ == module.__name__:
                yield f".. autoclass:: {module.__name__}.{name}"
        yield "```\n"


def _literal(text: str) -> Iterator[str]:
    yield from ("```text", text.strip(), "```", "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
