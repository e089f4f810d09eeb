"""Which job of a plan a run is, and that it is still the one that was planned."""

from typing import TYPE_CHECKING

from poisonbench.core.errors import ArtefactError
from poisonbench.sweep.plan import run_key

if TYPE_CHECKING:
    from poisonbench.runs.defend import ResolvedRun


def job_id(run: "ResolvedRun") -> str:
    """The id of the job that a run is in a plan."""
    pools = run.poison.pools if run.poison.rho else {}
    return run_key(run.spec, {attack: pool.id for attack, pool in pools.items()})


def check_job(planned: str | None, own: str) -> None:
    """Refuse to do another job than the planned one, if any, before its hours rather than after.

    Raises:
        ArtefactError: it is another.
    """
    if planned is not None and planned != own:
        raise ArtefactError(
            f"expected the plan's job {planned}, got {own}: the data, a given poison or a file of "
            "a network or a method was changed since it was planned; put it back, or plan again"
        )
