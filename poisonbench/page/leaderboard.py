"""Who submitted what: the files of a leaderboard, and the runs that several of them have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from poisonbench.results.submissions import Submission
from poisonbench.results.verification import compare


@dataclass(frozen=True, kw_only=True)
class SubmissionRow:
    """One submission.

    Attributes:
        shared: the runs that others have done too, and whether their figures agree, and the records
            that others have handed in as well; empty without any.
        refused: records and cards that were edited or damaged.
        machines: processors or devices with the versions of torch.
    """

    submitter: str
    file: str
    runs: int
    shared: str
    refused: int
    machines: str
    started: str
    finished: str
    note: str


def submission_rows(submissions: Sequence[Submission]) -> list[SubmissionRow]:
    """A row for each submission, in order of submitter and file."""
    rows = [
        SubmissionRow(
            submitter=one.manifest.submitter,
            file=one.path.name,
            runs=len(one.records),
            shared=_shared(one, [other for other in submissions if other is not one]),
            refused=len(one.refused),
            machines=_machines(one),
            started=one.manifest.started,
            finished=one.manifest.finished,
            note=one.manifest.note,
        )
        for one in submissions
    ]
    return sorted(rows, key=lambda row: (row.submitter, row.file))


def submitters_of(submissions: Sequence[Submission]) -> dict[str, list[str]]:
    """By the id of a run, who submitted it."""
    names: dict[str, set[str]] = {}
    for one in submissions:
        for record in one.records:
            names.setdefault(record.id, set()).add(one.manifest.submitter)
    return {run: sorted(own) for run, own in names.items()}


def _shared(submission: Submission, others: Sequence[Submission]) -> str:
    counts = {"with the same figures": 0, "with others": 0, "as the same record": 0}
    for record in submission.records:
        twins = [twin for other in others for twin in other.records if twin.id == record.id]
        # The record itself once more is no second run.
        again = [twin for twin in twins if twin != record]
        is_same = all(compare(record, twin).is_same for twin in again)
        counts["with the same figures"] += bool(again) and is_same
        counts["with others"] += bool(again) and not is_same
        counts["as the same record"] += bool(twins) and not again
    return ", ".join(f"{count} {how}" for how, count in counts.items() if count)


def _machines(submission: Submission) -> str:
    names = {
        f"{machine['processor'] if machine['device'] == 'cpu' else machine['device']}, "
        f"torch {machine['torch']}"
        for machine in submission.manifest.machines
        if {"processor", "device", "torch"} <= machine.keys()
    }
    return "; ".join(sorted(names))
