"""What every command shares: options, where text goes, how errors end."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

ResultsOption = Annotated[
    Path,
    typer.Option(
        "--results", envvar="POISONBENCH_RESULTS", help="Folder of poisons and run records."
    ),
]
DataRootOption = Annotated[
    Path,
    typer.Option("--data-root", envvar="POISONBENCH_DATA", help="Folder of the data sets."),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Root seed of everything random.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress and no remarks on stderr.")]

DEFAULT_RESULTS = Path("results")
DEFAULT_DATA_ROOT = Path("data")


def say(text: str, *, quiet: bool = False) -> None:
    """A remark for the person at the terminal: stderr, so that stdout stays the result."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """The result as one JSON object on stdout."""
    print(json.dumps(value, sort_keys=True, allow_nan=False))
