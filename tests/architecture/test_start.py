"""What the command line imports before it knows what to do."""

import os
import subprocess
import sys

import pytest

from helpers.source import HEAVY, PACKAGE
from poisonbench.cli.main import COMMANDS, load_command


def python(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=PACKAGE.parent, check=True
    )
    return done.stdout


def test_the_command_line_starts_without_torch():
    code = (
        "import sys, poisonbench.cli.main, poisonbench.tables.catalogue; "
        "heavy = {'torch', 'torchvision', 'pandas', 'kornia', 'scipy', 'numpy', 'matplotlib', "
        "'sklearn'}; "
        "print(*sorted(set(sys.modules) & heavy))"
    )
    assert python("-c", code).split() == []


#: What takes time to import, or is only needed by one command.
NOT_FOR_HELP = HEAVY | {
    *("importlib.metadata", "packaging", "rich", "numpy", "scipy", "pandas", "matplotlib"),
}


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_help_imports_no_command(word):
    code = (
        "import sys; from poisonbench.cli.main import main; main(sys.argv[1:]); "
        "print(); print(*sorted(sys.modules))"
    )
    modules = set(python("-c", code, word).splitlines()[-1].split())
    own = {name for name in modules if name.partition(".")[0] == "poisonbench"}
    assert own == {
        *("poisonbench", "poisonbench.cli", "poisonbench.cli.main", "poisonbench.cli.answers"),
        *("poisonbench.core", "poisonbench.core.errors"),
    }
    assert not modules & NOT_FOR_HELP


def test_help_and_completion_name_every_command_by_its_own_help():
    text = python("-m", "poisonbench", "--help")
    for name, line in COMMANDS.items():
        assert f"\n  {name} " in text
        assert " ".join(load_command(name).help.partition("\n\n")[0].split()) == line
    variables = {"_POISONBENCH_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "poisonbench d"}
    done = subprocess.run(
        [sys.executable, "-m", "poisonbench"],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        env=os.environ | variables,
    )
    for name in COMMANDS:
        assert (f'"{name}"' in done.stdout) is name.startswith("d")
