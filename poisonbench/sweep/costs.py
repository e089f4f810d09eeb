"""What jobs will cost, from what finished runs have cost."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from statistics import fmean

from poisonbench.requests import RunRequest
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

    def in_words(self, requests: Collection[RunRequest]) -> str:
        """What it takes to do some runs one after another, as far as like ones are known."""
        pools = {
            (request.dataset, request.seed, pool)
            for request in requests
            if request.poison.rho != 0
            for pool in request.crafted.pools().values()
        }
        known = [self.means.get((request.dataset, request.method)) for request in requests]
        seconds = [value for value in known if value is not None]
        words = f"{len(requests)} to do, on {len(pools)} poison(s)"
        if not requests:
            return words
        if not seconds:
            return f"{words}; no run like them says how long they take"
        words += f", {sum(seconds) / 3600:.1f} hours by the times of like runs"
        lacking = len(known) - len(seconds)
        words += f", without {lacking} that are like none" if lacking else ""
        return words + "; crafting not counted"

    def left(self, jobs: Iterable[Job]) -> float | None:
        """Seconds of these runs one after another; None while one of them is not known."""
        seconds = [self.of(job) for job in jobs if job.kind == "defend"]
        known = [value for value in seconds if value is not None]
        return sum(known) if len(known) == len(seconds) else None
