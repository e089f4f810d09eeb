"""What ``poisonbench sweep status`` prints."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from poisonbench.cli.answers import answer
from poisonbench.cli.common import print_json
from poisonbench.core.progress import clock
from poisonbench.requests import command_of
from poisonbench.sweep import slurm
from poisonbench.sweep.costs import Costs
from poisonbench.sweep.job_states import JobStates, State
from poisonbench.sweep.plan import Job, Plan


def print_status(plan: Plan, job_states: JobStates, *, as_json: bool) -> None:
    """What has become of a plan's jobs: counts by method and state, then what runs or failed."""
    states = job_states.states(plan.jobs)
    costs = Costs(job_states.records.values(), job_states.store.crafting())
    queue = slurm.queue(job_states.store, plan.digest)
    left = [job for job in plan.jobs if states[job.id] is not State.DONE]
    if as_json:
        print_json(
            {
                "plan": plan.digest,
                "states": dict(Counter(states.values())),
                "seconds_left": costs.left(left),
                "slurm": queue,
                "warnings": list(plan.warnings),
                "jobs": [_job_status(job, states[job.id], job_states) for job in plan.jobs],
            }
        )
        return
    answer(f"plan {plan.digest}, {len(plan.jobs)} jobs")
    for text in plan.warnings:
        answer(f"warning: {text}")
    answer(f"{'':<28}" + "".join(f"{state:>13}" for state in State) + f"{'hours left':>13}")
    for name, jobs in [*job_groups(plan.jobs).items(), ("all", list(plan.jobs))]:
        counts = Counter(states[job.id] for job in jobs)
        hours = _hours([job for job in jobs if states[job.id] is not State.DONE], costs)
        answer(f"{name:<28}" + "".join(f"{counts[state]:>13}" for state in State) + f"{hours:>13}")
    for job in plan.jobs:
        if states[job.id] in (State.RUNNING, State.FAILED):
            detail = _job_status(job, states[job.id], job_states)["detail"]
            answer(f"{states[job.id]}: {job.title}: {detail}")
    if queue is not None:
        shown = ", ".join(f"{count} {state}" for state, count in sorted(queue.items()))
        answer(f"SLURM: {shown or 'nothing in the queue'}")


def _hours(left: Sequence[Job], costs: Costs) -> str:
    """What is left of some jobs, as far as it is known: "0.25+?" when there are others."""
    known = [seconds for job in left if (seconds := costs.of(job)) is not None]
    if left and not known:
        return "?"
    hours = sum(known) / 3600
    shown = "<0.01" if 0 < hours < 0.01 else f"{hours:.2f}"
    return shown + ("+?" if len(known) < len(left) else "")


def job_groups(jobs: Sequence[Job]) -> dict[str, list[Job]]:
    """Jobs by kind, method and data set, in few words."""
    groups = defaultdict(list)
    for job in jobs:
        kind = "poison " if job.kind == "craft" else ""
        groups[f"{kind}{job.method} {job.dataset.rpartition('/')[2]}"[:27]].append(job)
    return groups


def _job_status(job: Job, state: State, job_states: JobStates) -> dict[str, Any]:
    detail = ""
    lease = job_states.leases.read(job.id) if state in (State.RUNNING, State.INTERRUPTED) else None
    if lease is not None and lease.owner is not None:
        host, process = lease.owner.host.split(" ")[0], lease.owner.process.partition(":")[0]
        detail = f"{host} process {process}"
        if lease.owner.slurm:
            detail += f", SLURM job {lease.owner.slurm}, start {lease.owner.restarts + 1}"
        detail += f", seen {clock(max(lease.age, 0))} ago"
    elif state is State.FAILED and (failure := job_states.failure(job)) is not None:
        detail = f"{failure.reason} (log: {failure.log})"
    record = job_states.records.get(job.id)
    return {
        "id": job.id,
        "state": state,
        "command": command_of(job.request),
        "title": job.title,
        "record": record.id if record else None,
        "detail": detail,
    }
