"""The command lines of the README and the pages name commands and options that there are."""

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from poisonbench import registry
from poisonbench.cli.main import COMMANDS, load_command
from poisonbench.targeting import Targeting
from poisonbench.training.recipe import Recipe

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])


def lines_of(page):
    text = page.read_text().replace("\\\n", " ")
    blocks = re.findall(r"^    poisonbench (.+)$", text, re.MULTILINE)
    return [*blocks, *re.findall(r"`poisonbench ([a-z][^`]*)`", text)]


def options_of_methods():
    tables = (registry.attacks(), registry.defenses())
    configs = [entry.load().Config for table in tables for entry in table.values()]
    return {field.name for config in (Recipe, Targeting, *configs) for field in fields(config)}


def unknown_words(line, of_methods):
    """The command, if there is none such, and the options that it lacks."""
    words = shlex.split(line.replace("\n", " ").split(" | ")[0], comments=True)
    if words[0] not in COMMANDS:
        return words[:1]
    command, rest = load_command(words[0]), words[1:]
    while getattr(command, "commands", None) and rest and rest[0][0] not in "-[":
        if rest[0].isupper() or "|" in rest[0]:
            # NAME and one|other stand for names.
            return []
        if rest[0] not in command.commands:
            return rest[:1]
        command, rest = command.commands[rest[0]], rest[1:]
    known = {text for parameter in command.params for text in parameter.opts} | {"--help"}
    takes_settings = words[0] in ("craft", "defend")
    if "--plugin" in rest:
        known |= {word for word in rest if takes_settings}
    return [
        word
        for word in rest
        if word.startswith("--")
        and (option := word.split("=")[0]) not in known
        and not (takes_settings and option[2:].split(".")[-1].replace("-", "_") in of_methods)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_commands_and_options_exist(page):
    of_methods = options_of_methods()
    unknown = {line: words for line in lines_of(page) if (words := unknown_words(line, of_methods))}
    assert unknown == {}


def test_the_page_of_commands_names_them_all():
    text = (ROOT / "docs/commands.md").read_text()
    named = {line.split()[0] for line in lines_of(ROOT / "docs/commands.md")}
    assert COMMANDS.keys() <= named
    assert all(f"`{name}`" in text for name in COMMANDS)


def test_the_page_of_methods_names_all_that_there_is():
    text = (ROOT / "docs/methods.md").read_text()
    tables = (registry.ATTACKS, registry.DEFENSES, registry.DATASETS)
    names = [getattr(entry, "pattern", entry.name) for table in tables for entry in table]
    assert [name for name in names if f"`{name}`" not in text and f"`{name} " not in text] == []
