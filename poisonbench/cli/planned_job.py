"""That the job of a plan is still the one that was planned."""

from poisonbench.core.errors import ArtefactError


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
