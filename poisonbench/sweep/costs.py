"""What jobs will cost, from what finished runs and poisons have cost."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import fmean

from poisonbench.requests import PoisonRequest, RunRequest
from poisonbench.results.records import RunRecord
from poisonbench.results.store import CraftingCost
from poisonbench.sweep.plan import Job


class Costs:
    """Mean seconds of a run by data set and method, and of a poison by data set and attack.

    ``estimates`` are the seconds of jobs by id, which stand for those that are like none.
    """

    def __init__(
        self,
        records: Iterable[RunRecord],
        crafting: Iterable[CraftingCost] = (),
        estimates: Mapping[str, float] = {},
    ) -> None:
        self.estimates = estimates
        seconds = defaultdict(list)
        for record in records:
            key = ("defend", record.labels.dataset, record.spec.method)
            seconds[key].append(record.cost.seconds.total)
        for cost in crafting:
            key = ("craft", cost.dataset, cost.attack)
            seconds[key].append(cost.seconds / max(1, cost.poisons))
        self.means = {key: fmean(values) for key, values in seconds.items()}

    def of(self, job: Job) -> float | None:
        """Seconds of a run or poison like this one; None when there is none and no estimate."""
        mean = self.means.get((job.kind, job.dataset, job.method))
        return self.estimates.get(job.id) if mean is None else mean

    def in_words(self, requests: Collection[RunRequest], done: Collection[RunRequest] = ()) -> str:
        """What it takes to do some runs one after another, as far as like ones are known.

        Poisons that runs which are done trained on are not crafted again.
        """
        needed = _pools(requests)
        words = f"{len(requests)} to do, on {len(needed)} poison(s)"
        if not requests:
            return words
        runs = [self.means.get(("defend", run.dataset, run.method)) for run in requests]
        pools = needed - _pools(done)
        poisons = [self.means.get(("craft", name, pool.attacks[0])) for name, _, pool in pools]
        hours, crafting = _hours(runs, "runs"), _hours(poisons, "poisons")
        words += f", {hours}" if hours else "; no run like them says how long they take"
        if not poisons:
            return words
        return (
            words + f"; crafting {crafting or 'not counted, no poison like them was crafted here'}"
        )

    def left(
        self, jobs: Iterable[Job], gone: Mapping[str, float] = {}, num_processes: int = 1
    ) -> float | None:
        """Seconds until these runs are done; None while one of them is not known.

        Args:
            jobs: those that are not done; of poisons those count that it knows about.
            gone: by the id of a job at work, the seconds that it has taken.
            num_processes: how many run side by side.
        """
        seconds = [(job, self.of(job)) for job in jobs]
        if any(value is None and job.kind == "defend" for job, value in seconds):
            return None
        known = [max(0.0, value - gone.get(job.id, 0.0)) for job, value in seconds if value]
        return max(sum(known) / num_processes, max(known, default=0.0))


def _pools(requests: Iterable[RunRequest]) -> set[tuple[str, int, PoisonRequest]]:
    return {
        (request.dataset, request.seed, pool)
        for request in requests
        if request.poison.rho != 0
        for pool in request.crafted.pools().values()
    }


def _hours(seconds: Sequence[float | None], what: str) -> str:
    known = [value for value in seconds if value is not None]
    lacking = len(seconds) - len(known)
    text = f"{sum(known) / 3600:.1f} hours by the times of like {what}" if known else ""
    return text + (f", without {lacking} that are like none" if known and lacking else "")
