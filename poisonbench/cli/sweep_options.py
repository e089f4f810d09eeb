"""What the sweep commands share: arguments, options and how their words are read."""

from pathlib import Path
from typing import Annotated

import typer

from poisonbench.cli import common
from poisonbench.cli.sweep_estimates import DEVICES
from poisonbench.core.errors import UsageError
from poisonbench.core.settings import did_you_mean
from poisonbench.results.store import Store
from poisonbench.sweep.job_states import JobStates

#: ``--only``'s words.
JOB_KINDS = {"poisons": "craft", "runs": "defend"}

PlanArgument = Annotated[
    Path, typer.Argument(metavar="PLAN", help="A file of `sweep plan --json --output`.")
]
OnlyOption = Annotated[
    str | None, typer.Option(help="poisons or runs; by default both, poisons first.")
]
EstimateOption = Annotated[
    bool,
    typer.Option(
        "--estimate", help="FLOPs, peak memory and hours of the jobs that are left; runs nothing."
    ),
]
OnOption = Annotated[
    str | None,
    typer.Option(help=f"Estimate hours on {', '.join(DEVICES)}; cpu times short passes here."),
]


def read_kind(only: str | None) -> str | None:
    """``--only``'s word as a kind of job."""
    if only is not None and only not in JOB_KINDS:
        raise UsageError(
            f"--only: expected {' or '.join(JOB_KINDS)}, got {only!r}"
            f"{did_you_mean(only, JOB_KINDS)}"
        )
    return JOB_KINDS.get(only or "")


def job_states_of(results: Path) -> JobStates:
    """The states of jobs by the records in a folder; what cannot be read is said."""
    return JobStates(Store(results), on_error=common.say_left_out)
