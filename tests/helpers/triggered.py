"""Poisons with a trigger and runs on them, by the command line."""

from pathlib import Path

from helpers.command_line import done
from poisonbench.data.artefacts import read_poison
from poisonbench.data.sources import load_dataset
from poisonbench.results.records import read_record

SHORT = ("--epochs", "2", "--batch-size", "32")


def crafted(results, tiny, *words):
    """A poison that is crafted on the tiny data."""
    line = ("craft", "--dataset", tiny, "--results", results, "--json", *words)
    return read_poison(Path(done(*line).json["path"]), load_dataset(tiny, Path(), 0))


def ran(results, tiny, *words):
    """The record of a short training on the tiny data."""
    line = ("defend", "--dataset", tiny, "--results", results, "--json", *SHORT, *words)
    return read_record(Path(done(*line).json["path"]))
