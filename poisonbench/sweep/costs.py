"""What jobs will cost, from what finished runs have cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import fmean

from poisonbench.results.records import RunRecord
from poisonbench.sweep.plan import Job


class Costs:
    """Mean seconds of a run by data set and method."""

    def __init__(self, records: Iterable[RunRecord]) -> None:
        seconds = defaultdict(list)
        for record in records:
            key = (record.labels.dataset, record.spec.method)
            seconds[key].append(record.cost.seconds.total)
        self.means = {key: fmean(values) for key, values in seconds.items()}

    def of(self, job: Job) -> float | None:
        """Seconds of a run like this one; None for a poison or when there is none yet."""
        return self.means.get((job.dataset, job.method)) if job.kind == "defend" else None

    def left(self, jobs: Iterable[Job]) -> float | None:
        """Seconds of these runs one after another; None while one of them is not known."""
        seconds = [self.of(job) for job in jobs if job.kind == "defend"]
        known = [value for value in seconds if value is not None]
        return sum(known) if len(known) == len(seconds) else None
