"""A results folder for the commands that hand it on."""

import shutil

import pytest

from helpers.command_line import done, make_data
from helpers.handed_on import ATTACKS


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A results folder with a poison of each kind and two runs, and the data set's name."""
    folder = tmp_path_factory.mktemp("hand-on")
    data, results = make_data(folder), folder / "results"
    for attack in ATTACKS:
        rho = ("--rho", "0.2") if attack == "durp+ops" else ()
        words = ("--target", "3", "--rho", "0.02") if attack == "noise" else rho
        done("craft", "--attack", attack, "--dataset", data, "--results", results, *words)
    line = ("defend", "--method", "none", "--dataset", data, "--results", results, "--epochs", "2")
    done(*line, "--attack", "badnets", "--rho", "0.1", "--save-model")
    done(*line, "--clean")
    return results, data


@pytest.fixture
def results(place, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(place[0], tmp_path / "results")
    return tmp_path / "results"
