"""``poisonbench sweep``: many runs, planned, run side by side or on SLURM, watched, resumed."""

import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from poisonbench.cli import common, sweep_plan
from poisonbench.cli.answers import answer, stdout
from poisonbench.cli.sweep_estimates import check_estimate, print_estimates, seconds_here
from poisonbench.cli.sweep_options import (
    EstimateOption,
    OnlyOption,
    OnOption,
    PlanArgument,
    job_states_of,
    read_kind,
)
from poisonbench.cli.sweep_status import print_status
from poisonbench.cli.worker import worker
from poisonbench.core.errors import InterruptedRunError, JobsFailedError, UsageError
from poisonbench.core.folders import DEFAULT_DATA_ROOT, DEFAULT_RESULTS, folder_options
from poisonbench.core.signals import Stopping, stop_on_signals
from poisonbench.plugins import check_file
from poisonbench.registry import register
from poisonbench.results.store import Store
from poisonbench.sweep import slurm
from poisonbench.sweep.dask_cluster import Cluster
from poisonbench.sweep.execute import Sweep
from poisonbench.sweep.garbage import STALE, delete, find_garbage, unfinished_checkpoints
from poisonbench.sweep.plan import Plan, keep_plan, read_plan
from poisonbench.sweep.progress_view import JobBars, View

app = common.command_app("Plan, run and watch many runs, on one machine, SLURM or a dask cluster.")

app.command("plan", cls=common.Command)(sweep_plan.plan)
app.command("worker", cls=common.Command, hidden=True)(worker)

#: Prints what is wrong with the first device that cannot be used.
_DEVICE_QUESTION = """
import sys
from poisonbench.core.errors import UsageError
from poisonbench.runs.context import find_device
try:
    for name in sys.argv[1:]:
        find_device(name)
except UsageError as error:
    print(error)
"""


@dataclass(frozen=True, kw_only=True)
class _SweepOptions:
    jobs: int | None = common.option(None, "Runs side by side; 1 a device by default.", min=1)
    shard: str = common.option("0/1", "i/n: only the i-th of n parts, from 0.")
    devices: str = common.option("auto", "Shared out over the runs: cuda:0,cuda:1.")
    only: OnlyOption = None
    on: str | None = common.option(
        None, "dask://HOST:PORT: on the workers of a dask.distributed cluster, not here."
    )
    estimate: bool = common.option(
        False, "Time short passes first, so that what is left is known from the start (on a CPU)."
    )
    requeue: bool = common.option(False, "Before a SLURM time limit, ask SLURM to start it again.")
    results: common.ResultsOption = DEFAULT_RESULTS
    data_root: common.DataRootOption = DEFAULT_DATA_ROOT
    quiet: common.QuietOption = False


@app.command(cls=common.Command)
@common.takes(_SweepOptions)
def run(plan: PlanArgument, options: _SweepOptions) -> None:
    """Run what is not done of a plan; run the same command again after any interruption.

    poisonbench sweep run plan.json --jobs 2

    poisonbench sweep run plan.json --on dask://scheduler:8786
    """
    planned = read_plan(plan)
    for path, digest in planned.plugins.items():
        check_file(path, digest)
    kind = read_kind(options.only)
    devices = common.names_in(options.devices) or ["auto"]
    jobs = planned.shard(*_read_shard(options.shard), kind)
    if options.on is None:
        _check_devices(devices)
    stopping = Stopping()
    states, slots = job_states_of(options.results), options.jobs or len(devices)
    estimates = {}
    if options.estimate:
        if options.on is not None:
            raise UsageError("expected --estimate or --on, got both; leave one of them out")
        for path in planned.plugins:
            register(path)
        say = partial(common.say, quiet=options.quiet)
        estimates = seconds_here(jobs, states, options.data_root, devices, slots, say)
    with ExitStack() as stack:
        stack.enter_context(stop_on_signals(stopping))
        has_bars = sys.stderr.isatty() and not options.quiet
        view = stack.enter_context(JobBars()) if has_bars else View(quiet=options.quiet)
        new_worker = None
        if options.on is not None:
            cluster = stack.enter_context(closing(Cluster(options.on, states.store)))
            cluster.wait_for_workers(stopping, partial(common.say, quiet=options.quiet))
            cluster.check_workers(devices)
            slots = options.jobs or cluster.num_slots(devices)
            new_worker = cluster.worker
        keep_plan(planned, states.store.plans)
        sweep = Sweep(
            planned,
            jobs,
            states,
            options.data_root,
            devices,
            slots,
            view,
            stopping,
            new_worker,
            estimates,
        )
        try:
            sweep.run()
        except JobsFailedError:
            for job in jobs:
                if job.id in sweep.failed:
                    common.say(f"failed: {job.title}: {sweep.failed[job.id]}")
            raise
        except InterruptedRunError:
            if options.requeue and stopping.number == signal.SIGUSR1:
                slurm.requeue()
            raise
    common.say(f"{len(jobs)} jobs are done", quiet=options.quiet)


@app.command(cls=common.Command)
def status(
    plan: PlanArgument,
    results: common.ResultsOption = DEFAULT_RESULTS,
    data_root: common.DataRootOption = DEFAULT_DATA_ROOT,
    as_json: common.JsonOption = False,
    estimate: EstimateOption = False,
    on: OnOption = None,
) -> None:
    """Show what has become of the jobs of a plan, from records and leases alone.

    With --estimate, what those that are left will cost; this reads the data sets too.
    """
    check_estimate(estimate, on)
    if not results.exists():
        common.say(f"{results} does not exist yet, so that no job is done; `sweep run` makes it")
    if estimate:
        planned, job_states = read_plan(plan), job_states_of(results)
        print_estimates(planned.jobs, job_states, data_root, on, as_json=as_json)
        return
    print_status(read_plan(plan), job_states_of(results), as_json=as_json)


@app.command(cls=common.Command)
def retry(
    plan: PlanArgument,
    failed: Annotated[
        bool, typer.Option("--failed", help="Forget which jobs failed, so that they run again.")
    ] = False,
    results: common.ResultsOption = DEFAULT_RESULTS,
    quiet: common.QuietOption = False,
) -> None:
    """Let failed jobs be run again by the next `sweep run`."""
    if not failed:
        raise UsageError("expected `sweep retry PLAN --failed`, got no --failed; add it")
    common.check_results_exist(results)
    job_states = job_states_of(results)
    cleared = [job for job in read_plan(plan).jobs if job_states.clear_failure(job)]
    for job in cleared:
        answer(job.title)
    words = ("poisonbench", "sweep", "run", str(plan), *folder_options(results))
    command = shlex.join(words)
    common.say(f"{len(cleared)} job(s) to run again with `{command}`", quiet=quiet)


@app.command(cls=common.Command)
def gc(
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only print.")] = False,
    older_than: Annotated[
        float, typer.Option(min=0, help="Minutes since a temporary file changed.")
    ] = STALE / 60,
    results: common.ResultsOption = DEFAULT_RESULTS,
    as_json: common.JsonOption = False,
) -> None:
    """Print what killed processes left behind; delete it with --yes.

    Checkpoints of interrupted runs are printed and kept.
    """
    common.check_results_exist(results)
    garbage = find_garbage(Store(results), older_than * 60)
    kept = unfinished_checkpoints(Store(results))
    if yes:
        for item in garbage:
            delete(item)
    if as_json:
        rows = {
            name: [{"path": str(item.path), "why": item.why, "bytes": item.size} for item in items]
            for name, items in (("garbage", garbage), ("kept", kept))
        }
        common.print_json(rows | {"deleted": yes})
        return
    for item in (*garbage, *kept):
        answer(f"{item.path}  {item.size:,} bytes  {item.why}")
    verb = "deleted" if yes else "to delete with --yes"
    common.say(f"{len(garbage)} item(s), {sum(item.size for item in garbage):,} bytes {verb}")


@dataclass(frozen=True, kw_only=True)
class _ArrayOptions:
    shards: int | None = common.option(None, "Tasks of the array; one a run by default.", min=1)
    at_once: int | None = common.option(None, "Tasks that run at a time (%K).", min=1)
    time: str | None = common.option(None, "Time limit of a task.")
    cpus: int = common.option(1, "Processors of a task.", min=1)
    gpus: int = common.option(0, "GPUs of a task.", min=0)
    jobs: int = common.option(1, "Runs at once in a task.", min=1)
    notice: int = common.option(180, "Seconds before the limit to save checkpoints at.", min=1)
    partition: str | None = common.option(None, "SLURM's partition.")
    only: OnlyOption = None
    sbatch: str = common.option("", "Further options of sbatch, e.g. '--mem=8G --account=a'.")
    program: str = common.option("", "How poisonbench is called on the nodes.")
    results: common.ResultsOption = DEFAULT_RESULTS
    data_root: common.DataRootOption = DEFAULT_DATA_ROOT


@app.command(cls=common.Command)
@common.takes(_ArrayOptions)
def script(plan: PlanArgument, options: _ArrayOptions) -> None:
    """Print a SLURM array job that runs a plan.

    poisonbench sweep script plan.json --at-once 20 --time 4:00:00 > job.sbatch
    """
    planned = read_plan(plan)
    array = _array_job(plan, planned, read_kind(options.only), options)
    slurm.prepare(Store(options.results), planned.digest)
    stdout().write(slurm.script(array, planned.digest))


@app.command(cls=common.Command)
@common.takes(_ArrayOptions)
def submit(options: _ArrayOptions, plan: PlanArgument, as_json: common.JsonOption = False) -> None:
    """Submit a plan to SLURM: an array that crafts its poisons, then an array of its runs."""
    kind, planned, store = read_kind(options.only), read_plan(plan), Store(options.results)
    submitted: dict[str, str] = {}
    last = None
    for stage in ("craft", "defend"):
        if kind in (None, stage) and planned.only(stage):
            array = _array_job(plan, planned, stage, options)
            last = slurm.submit(array, store, planned.digest, after=last)
            submitted[slurm.ONLY[stage]] = last
    lines = [f"{job}  {stage}" for stage, job in submitted.items()]
    common.show({"plan": planned.digest, "jobs": submitted}, lines, as_json)


def _array_job(path: Path, plan: Plan, kind: str | None, options: _ArrayOptions) -> slurm.ArrayJob:
    """The array job of these options, with no more shards than jobs."""
    count = len(plan.only(kind or "defend")) or len(plan.jobs)
    given = asdict(options)
    given |= {
        "plan": path,
        "only": kind,
        "shards": min(options.shards or slurm.MOST_SHARDS, max(count, 1)),
        "options": tuple(shlex.split(given.pop("sbatch"))),
        "program": tuple(shlex.split(options.program)) or (sys.executable, "-m", "poisonbench"),
    }
    return slurm.ArrayJob(**given)


def _check_devices(names: Sequence[str]) -> None:
    """Refuse devices that are not there; another process asks, so torch stays out of this one."""
    if set(names) <= {"auto", "cpu"}:
        return
    asked = subprocess.run(
        [sys.executable, "-c", _DEVICE_QUESTION, *names], capture_output=True, text=True
    )
    # Whatever else goes wrong there, the jobs say better.
    if reason := asked.stdout.strip():
        raise UsageError(reason.replace("--device", "--devices"))


def _read_shard(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise UsageError(f"--shard: expected i/n such as 0/8, got {text!r}")
    return int(index), int(count)
