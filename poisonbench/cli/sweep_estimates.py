"""What ``poisonbench sweep plan --estimate`` and ``sweep status --estimate`` print."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poisonbench.cli import common
from poisonbench.cli.answers import answer
from poisonbench.cli.sweep_status import job_groups
from poisonbench.core.errors import PoisonbenchError, UsageError
from poisonbench.core.settings import did_you_mean
from poisonbench.sweep.execute import threads
from poisonbench.sweep.job_states import JobStates, State
from poisonbench.sweep.plan import Job

if TYPE_CHECKING:
    from poisonbench.runs.estimates import Estimate
    from poisonbench.runs.hardware import Accelerator

#: ``--on``'s words: the table of ``runs/hardware.py``, which is not imported for help.
DEVICES = ("h100", "h200", "a100", "v100", "cpu")


def check_estimate(estimate: bool, device: str | None) -> None:
    """Raise UsageError for ``--on`` without ``--estimate``, or a device that is unknown."""
    if device is None:
        return
    if not estimate:
        raise UsageError("expected --on with --estimate, got it alone; add --estimate")
    if device not in DEVICES:
        raise UsageError(
            f"--on: expected {', '.join(DEVICES)}, got {device!r}{did_you_mean(device, DEVICES)}"
        )


def print_estimates(
    jobs: Sequence[Job],
    job_states: JobStates,
    data_root: Path,
    device: str | None,
    *,
    as_json: bool,
) -> None:
    """FLOPs, peak memory and hours of the jobs that are not done, by method; what does not fit."""
    import torch

    from poisonbench.runs.context import RunContext
    from poisonbench.runs.estimates import Estimator
    from poisonbench.runs.hardware import ACCELERATORS, THIS_CPU

    states = job_states.states(jobs)
    left = [job for job in jobs if states[job.id] is not State.DONE]
    context = RunContext(job_states.store, data_root, torch.device("cpu"))
    accelerator = ACCELERATORS.get(device or "")
    estimator = Estimator(context, accelerator, times=device == THIS_CPU)
    estimates = {job.id: estimator.of(job.request) for job in left}
    too_large = [
        job for job in left if accelerator and not accelerator.fits(estimates[job.id].memory)
    ]
    if as_json:
        rows = [_row(job, estimates[job.id], accelerator) for job in left]
        facts = {"on": device, "basis": _basis(device), **_sums(list(estimates.values()))}
        common.print_json(facts | {"jobs": rows})
        return
    answer(f"{'':<28}{'jobs':>6}{'PFLOP':>12}{'peak GiB':>12}{'hours':>10}")
    for name, group in [*job_groups(left).items(), ("all", left)]:
        sums = _sums([estimates[job.id] for job in group])
        hours = "" if sums["hours"] is None else f"{sums['hours']:.3g}"
        answer(
            f"{name:<28}{len(group):>6}{sums['flops'] / 1e15:>12.4g}"
            f"{sums['memory_bytes'] / 2**30:>12.1f}{hours:>10}"
        )
    answer(_basis(device))
    for remark, titles in _by_remark(left, estimates).items():
        answer(f"note: {remark} ({', '.join(titles)})")
    for job in too_large:
        assert accelerator is not None
        answer(
            f"does not fit: {job.title}: about {estimates[job.id].memory / 1e9:.0f} GB, "
            f"{device} has {accelerator.memory / 1e9:.0f}"
        )


def seconds_here(
    jobs: Sequence[Job],
    job_states: JobStates,
    data_root: Path,
    devices: Sequence[str],
    num_processes: int,
    say: Callable[[str], None],
) -> dict[str, float]:
    """Seconds on this CPU of the jobs that are not done, by id, from passes that are timed now.

    Args:
        jobs: of a plan, whose plug-ins are registered; what cannot be estimated, as its data are
            not here, is said and left out.
        job_states: of the results folder.
        data_root: folder of the data sets.
        devices: those of the sweep; where one is an accelerator nothing is timed.
        num_processes: how many will share the processors.
        say: is told what is left out.
    """
    import torch

    from poisonbench.core.devices import is_accelerator
    from poisonbench.runs.context import RunContext, find_device
    from poisonbench.runs.estimates import Estimator

    if other := next((name for name in devices if is_accelerator(find_device(name))), None):
        say(
            f"--estimate: passes are timed on a CPU alone, not on {other}; for hours by FLOPs see "
            "`poisonbench sweep status PLAN --estimate --on h100`"
        )
        return {}
    states = job_states.states(jobs)
    estimator = Estimator(RunContext(job_states.store, data_root, torch.device("cpu")), times=True)
    seconds: dict[str, float] = {}
    unknown: dict[str, None] = {}
    before = torch.get_num_threads()
    torch.set_num_threads(threads(num_processes))
    try:
        for job in jobs:
            if states[job.id] is not State.DONE:
                try:
                    seconds[job.id] = estimator.of(job.request).seconds or 0.0
                except PoisonbenchError as error:
                    unknown[str(error)] = None
    finally:
        torch.set_num_threads(before)
    for reason in unknown:
        say(f"--estimate: what is left is not known: {reason}")
    return seconds


def _row(job: Job, estimate: "Estimate", device: "Accelerator | None") -> dict[str, Any]:
    return {
        "id": job.id,
        "title": job.title,
        **_sums([estimate]),
        "fits": None if device is None else device.fits(estimate.memory),
        "remarks": list(estimate.remarks),
    }


def _sums(estimates: "Sequence[Estimate]") -> dict[str, Any]:
    """FLOPs and hours together, and the most memory."""
    seconds = [estimate.seconds for estimate in estimates if estimate.seconds is not None]
    return {
        "flops": sum(estimate.flops for estimate in estimates),
        "memory_bytes": round(max((estimate.memory for estimate in estimates), default=0)),
        "hours": sum(seconds) / 3600 if len(seconds) == len(estimates) else None,
    }


def _by_remark(jobs: Sequence[Job], estimates: "dict[str, Estimate]") -> dict[str, list[str]]:
    """By remark the methods that it is on."""
    methods: dict[str, list[str]] = {}
    for job in jobs:
        for remark in estimates[job.id].remarks:
            names = methods.setdefault(remark, [])
            names += [] if job.method in names else [job.method]
    return methods


def _basis(device: str | None) -> str:
    """What the hours rest on."""
    from poisonbench.runs import hardware

    if device is None:
        return "hours: add --on with a device"
    if device == hardware.THIS_CPU:
        return "hours: by passes timed here, one job after the other"
    return (
        f"hours: {hardware.FLOPS_UTILISATION:.0%} of the peak arithmetic and "
        f"{hardware.BANDWIDTH_UTILISATION:.0%} of the bandwidth of "
        f"{hardware.ACCELERATORS[device].source}, {hardware.SECONDS_AN_OPERATOR * 1e6:.0f} us an "
        "operator at least; by trainings on one H100 but for the bandwidth, which is assumed"
    )
