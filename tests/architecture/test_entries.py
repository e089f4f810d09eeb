"""Every algorithm in the registry has what the commands and tables need of it."""

import pytest

import poisonbench
from helpers.source import PACKAGE
from poisonbench import registry
from poisonbench.attacks.base import BudgetConfig
from poisonbench.cli.main import load_command
from poisonbench.core.settings import BaseConfig, flag_of, options_of
from poisonbench.entries import profiles_of
from poisonbench.entry_needs import CRAFT_OPTIONS, DEFEND_OPTIONS
from poisonbench.training.recipe import Recipe
from poisonbench.training.state import Defense

ENTRIES = [("craft", entry) for entry in registry.ATTACKS] + [
    ("defend", entry) for entry in registry.DEFENSES
]
EVERY_ENTRY = pytest.mark.parametrize(
    ("command", "entry"), ENTRIES, ids=[entry.name for _, entry in ENTRIES]
)


@EVERY_ENTRY
def test_every_entry_has_what_an_algorithm_needs(command, entry):
    module = entry.load()
    assert module.__name__.startswith(f"poisonbench.{'attacks' if command == 'craft' else 'defen'}")
    assert isinstance(module.VERSION, int)
    assert module.VERSION >= 1
    config = module.Config()
    assert isinstance(config, BudgetConfig if command == "craft" else BaseConfig)
    assert type(config).__dataclass_params__.frozen
    assert all(option.help for option in options_of(module.Config))
    names = {option.name for option in options_of(module.Config)}
    for presets in profiles_of(module).values():
        for values in presets.values():
            assert set(values) <= names
    if command == "craft":
        assert callable(module.craft)
        assert isinstance(entry.trains, bool)
    else:
        assert isinstance(module.build(config, Recipe()), Defense)
    assert entry.label
    assert entry.summary
    assert entry.fault() == ""
    assert entry.source.name == "poisonbench"


def test_names_are_once_and_every_algorithm_is_in_a_table():
    for table, folder in ((registry.ATTACKS, "attacks"), (registry.DEFENSES, "defenses")):
        assert len({entry.name for entry in table}) == len(table)
        files = {path.stem for path in (PACKAGE / folder).glob("*.py")} - {"__init__", "base"}
        assert {entry.module.rpartition(".")[2] for entry in table} == files
    attacks = {entry.name for entry in registry.ATTACKS}
    assert set(registry.MIX) <= attacks


@pytest.mark.parametrize(
    ("command", "names"), [("craft", CRAFT_OPTIONS), ("defend", DEFEND_OPTIONS)]
)
def test_names_that_a_plug_in_may_not_use_are_the_commands(command, names):
    flags = {flag for parameter in load_command(command).params for flag in parameter.opts}
    assert {flag_of(name) for name in names} == {*flags, "--help"}
    assert set(getattr(poisonbench, command).__annotations__) <= {*names, "options", "return"}


@EVERY_ENTRY
def test_no_setting_hides_behind_a_flag_of_the_command(command, entry):
    """A setting of the same name could not be reached: the command would take its flag."""
    parameters = load_command(command).params
    flags = {flag for parameter in parameters for flag in parameter.opts}
    assert "--results" in flags
    for config in (entry.load().Config, Recipe):
        assert not flags & {option.flag for option in options_of(config)}


@EVERY_ENTRY
def test_no_setting_hides_behind_a_parameter_of_the_python_api(command, entry):
    parameters = set(getattr(poisonbench, command).__annotations__)
    for config in (entry.load().Config, Recipe):
        assert not parameters & {option.name for option in options_of(config)}
