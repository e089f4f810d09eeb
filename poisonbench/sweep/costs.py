"""What jobs will cost, from what finished runs and poisons have cost."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import fmean

from poisonbench.core.quick_names import split_quick
from poisonbench.requests import CraftRequest, PoisonRequest, Request, RunRequest
from poisonbench.results.records import RunRecord
from poisonbench.results.store import CraftingCost
from poisonbench.sweep.plan import Job


class Costs:
    """Mean seconds of a run by data set, method and scenario, of a poison by data set and attack.

    In transfer a last layer is trained, in seconds, from scratch a network, in minutes.
    ``estimates`` are the seconds of jobs by id, which stand for those that are like none.
    """

    def __init__(
        self,
        records: Iterable[RunRecord],
        crafting: Iterable[CraftingCost] = (),
        estimates: Mapping[str, float] = {},
    ) -> None:
        self.estimates = estimates
        seconds: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for record in records:
            targeting = record.spec.targeting
            scenario = "scratch" if targeting is None else targeting.scenario
            key = (record.labels.dataset, record.spec.method, scenario)
            seconds[key].append(record.cost.seconds.total)
        for cost in crafting:
            seconds[cost.dataset, cost.attack].append(cost.seconds / max(1, cost.poisons))
        self.means = {key: fmean(values) for key, values in seconds.items()}

    def of(self, job: Job) -> float | None:
        """Seconds of a run or poison like this one; None when there is none and no estimate."""
        mean = self.means.get(_like(job.request))
        return self.estimates.get(job.id) if mean is None else mean

    def in_words(self, requests: Collection[RunRequest], done: Collection[RunRequest] = ()) -> str:
        """What it takes to do some runs one after another, as far as like ones are known.

        Poisons that runs which are done trained on are not crafted again.
        """
        needed = _pools(requests)
        words = f"{len(requests)} to do, on {len(needed)} poison(s)"
        if not requests:
            return words
        runs = [self.means.get(_like(run)) for run in requests]
        pools = needed - _pools(done)
        poisons = [self.means.get((name, pool.attacks[0])) for name, _, pool in pools]
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


def _like(request: Request) -> tuple[str, ...]:
    """What jobs that take equally long have in common."""
    if isinstance(request, CraftRequest):
        return request.dataset, request.poison.text
    return request.dataset, request.method, _scenario(request)


def _scenario(run: RunRequest) -> str:
    """As asked for or the attack's own; that of an artefact is not known and taken as scratch."""
    entry, own = run.poison.targeted, "scratch"
    if entry is not None:
        preset = "quick" if split_quick(run.dataset)[1] else run.dataset
        own = entry.scenario_by_preset.get(preset, entry.scenario)
    return str(run.poison.targeting.get("scenario", own))


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
