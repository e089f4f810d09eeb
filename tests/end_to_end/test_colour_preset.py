"""``--preset colour`` without CIFAR-10's files."""

import pytest

from helpers.command_line import refused
from helpers.synthetic_runs import data_of, make_record, missing_commands
from poisonbench import registry
from poisonbench.data import standard
from poisonbench.entries import profiles_of
from poisonbench.runs.method_settings import read_settings
from poisonbench.tables import catalogue
from poisonbench.tables.cells import COLOUR_PART

DATA = data_of(("cifar10", COLOUR_PART))
PROFILES = [
    (entry, profile)
    for entry in (*registry.ATTACKS, *registry.DEFENSES)
    for profile in profiles_of(entry.load())
]


@pytest.mark.parametrize(
    "line",
    [
        "craft --attack pgd",
        "craft --attack gm",
        "defend --attack pgd --method hint",
        "figure 1 --attack durp",
    ],
)
def test_it_asks_for_cifar10(line, results, tmp_path):
    words = (*line.split(), "--preset", "colour", "--data-root", tmp_path / "data")
    message = refused(65, results, *words)
    assert f"poisonbench data fetch cifar10 --data-root {tmp_path / 'data'}" in message
    assert str(tmp_path / "data" / standard.CIFAR_NPZ) in message


@pytest.mark.parametrize(("entry", "profile"), PROFILES, ids=lambda value: str(value)[:40])
def test_every_method_has_settings_that_fit_its_epochs(entry, profile):
    settings = read_settings(entry, DATA, profile, {})
    if entry.trains:
        assert (settings.recipe.rate_schedule, settings.recipe.milestones) == ("one-cycle", ())
        assert settings.recipe.epochs < 80
    if isinstance(entry, registry.DefenseEntry):
        # A schedule that lies behind the last epoch is refused here.
        settings.module.build(settings.config, settings.recipe)
        schedule = getattr(settings.config, "schedule", ())
        assert all(epoch < settings.recipe.epochs for epoch in schedule)


def test_the_rest_of_cifar10_keeps_the_papers_recipe():
    none = registry.defenses()["none"]
    for presets in (("cifar10",), ("cifar10", "cifar10@5000")):
        recipe = read_settings(none, data_of(presets), "paper", {}).recipe
        assert (recipe.epochs, recipe.rate_schedule, recipe.milestones) == (
            80,
            "steps",
            (30, 50, 70),
        )


@pytest.mark.parametrize("table", ["2", "5"])
def test_its_runs_stand_apart_from_the_papers(table):
    records = [make_record(0.8, dataset=COLOUR_PART, trial=trial) for trial in range(5)]
    built = catalogue.build(table, records)
    measured = {cell.keys["dataset"] for cell in built.cells if cell.measured is not None}
    assert measured <= {COLOUR_PART}
    titles = [block.title for block in built.blocks]
    assert any(title.startswith("CIFAR-10, small network: not the paper's: ") for title in titles)
    commands = missing_commands("2", records, COLOUR_PART)
    assert f"poisonbench defend --method hint --dataset {COLOUR_PART} --rho 0 --trial 0" in commands
    assert not any("--method none" in line and "--rho 0 " in line for line in commands)


def test_trials_have_poisons_of_their_own():
    commands = missing_commands("2", [], COLOUR_PART)
    drawn = [line for line in commands if "--method none" in line and "--rho 1 " in line]
    assert ["--poison-trial" in line for line in drawn] == [False, True, True, True, True]
