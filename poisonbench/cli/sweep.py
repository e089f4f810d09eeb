"""``poisonbench sweep``: many runs, planned, run side by side or on SLURM, watched, resumed."""

import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from poisonbench.cli import common
from poisonbench.cli.session import choose_dataset
from poisonbench.cli.sweep_estimates import DEVICES, check_estimate, print_estimates
from poisonbench.cli.sweep_status import print_status
from poisonbench.cli.worker import worker
from poisonbench.core.errors import InterruptedRunError, JobsFailedError, UsageError
from poisonbench.core.folders import DEFAULT_DATA_ROOT, DEFAULT_RESULTS
from poisonbench.core.settings import did_you_mean
from poisonbench.core.signals import Stopping, stop_on_signals
from poisonbench.plugins import check_file
from poisonbench.registry import DEFAULT_READING, READINGS, plugin_files
from poisonbench.requests import Request, command_of
from poisonbench.results.records import ClaimLabel
from poisonbench.results.store import Store
from poisonbench.sweep import slurm
from poisonbench.sweep.costs import Costs
from poisonbench.sweep.dask_cluster import Cluster
from poisonbench.sweep.execute import Sweep
from poisonbench.sweep.garbage import STALE, delete, find_garbage, unfinished_checkpoints
from poisonbench.sweep.job_states import JobStates
from poisonbench.sweep.plan import Plan, keep_plan, read_plan, write_plan
from poisonbench.sweep.progress_view import JobBars, View

if TYPE_CHECKING:
    from poisonbench.tables.claim_plan import PlannedClaim

app = common.command_app("Plan, run and watch many runs, on one machine, SLURM or a dask cluster.")

app.command("worker", cls=common.Command, hidden=True)(worker)

#: ``--only``'s words.
JOB_KINDS = {"poisons": "craft", "runs": "defend"}

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

PlanArgument = Annotated[
    Path, typer.Argument(metavar="PLAN", help="A file of `sweep plan --json --output`.")
]
OnlyOption = Annotated[
    str | None, typer.Option(help="poisons or runs; by default both, poisons first.")
]


EstimateOption = Annotated[
    bool,
    typer.Option(
        "--estimate", help="FLOPs, peak memory and hours of the jobs that are left; runs nothing."
    ),
]
OnOption = Annotated[
    str | None,
    typer.Option(help=f"Estimate hours on {', '.join(DEVICES)}; cpu times short passes here."),
]


@dataclass(frozen=True, kw_only=True)
class _PlanOptions:
    table: str = common.option("2", "The runs of which table.")
    dataset: str | None = common.option(None, "Only this data set.")
    methods: str = common.option("", "Only these defenses, separated by commas.")
    attacks: str = common.option("", "Only clean runs and these attacks, separated by commas.")
    rho: float | None = common.option(
        None, "Only clean runs and this poison ratio.", min=0.0, max=1.0
    )
    preset: str | None = common.option(
        None,
        "quick or colour: only the part of MNIST or CIFAR-10 that a CPU trains on; quick with "
        "--dataset: your own images with settings for a CPU.",
    )
    trials: int | None = common.option(None, "Trials of each cell; 5 by default.", min=1)
    reading: str | None = common.option(
        None, f"In this reading of the mix: {', '.join(READINGS)}; {DEFAULT_READING} if not said."
    )
    for_claims: bool = common.option(
        False, "As many trials as the table's declared claims need, and what they cost."
    )
    lines: Path | None = common.option(
        None, "Plan the defend and craft commands in this file instead; - is stdin."
    )
    only: OnlyOption = None
    json: bool = common.option(False, "An immutable plan, for the other sweep commands.")
    output: Path | None = common.option(None, "Write the plan to this file, not to stdout.")
    dry_run: bool = common.option(False, "Show states and costs instead.")
    estimate: EstimateOption = False
    on: OnOption = None
    results: common.ResultsOption = DEFAULT_RESULTS
    data_root: common.DataRootOption = DEFAULT_DATA_ROOT
    quiet: common.QuietOption = False
    plugin: common.PluginOption = None


@app.command(cls=common.Command)
@common.takes(_PlanOptions)
def plan(options: _PlanOptions) -> None:
    r"""Print a command for each run of a table that is not done; or write a plan of all its runs.

    poisonbench sweep plan --table 2 | xargs -d '\n' -P 4 -I LINE sh -c LINE

    poisonbench sweep plan --table 2 --json --output plan.json

    poisonbench sweep plan --table 2 --dataset mnist --for-claims

    poisonbench sweep plan --table 2 --dataset cifar10 --estimate --on h100

    poisonbench sweep plan --table matrix --preset quick --attacks pgd,lsp --methods none,jpeg
    """
    kind = _read_kind(options.only)
    check_estimate(options.estimate, options.on)
    if options.output is not None and not options.json:
        raise UsageError("expected --output with --json, got it alone; add --json or use `> FILE`")
    if options.reading is not None and (options.lines is not None or options.for_claims):
        other = "--lines" if options.for_claims is False else "--for-claims"
        raise UsageError(f"expected --reading without {other}; leave one of them out")
    job_states = _job_states(options.results)
    claims: dict[str, ClaimLabel] = {}
    warnings: tuple[str, ...] = ()
    if options.for_claims:
        for_claims = _plan_claims(job_states, options)
        claims = {own.declaration.id: own.label for own in for_claims}
        requests = list(dict.fromkeys(run for own in for_claims for run in own.requests()))
        warnings = tuple(text for own in for_claims if (text := own.warning))
        words = _claims_in_words(for_claims, job_states, warnings)
        if not (options.json or options.dry_run or options.estimate):
            print(words)
            common.say("to run them: add --json --output PLAN", quiet=options.quiet)
            return
        common.say(words, quiet=options.quiet)
    elif options.lines is None:
        from poisonbench.tables.catalogue import find_reading, missing_runs

        is_plain = not (options.json or options.dry_run or options.estimate or kind == "craft")
        if is_plain:
            # Without reading data: the report's own test of what is done.
            job_states.refresh()
        records = list(job_states.records.values()) if is_plain else []
        methods = common.names_in(options.methods)
        requests = missing_runs(
            options.table,
            records,
            _dataset_of(options),
            methods=methods,
            trials=options.trials,
            rhos=None if options.rho is None else (0.0, options.rho),
            reading=find_reading(options.table, options.reading),
            attacks=common.names_in(options.attacks),
        )
        if is_plain:
            _print_lines(requests, plugin_files(), options)
            return
    from poisonbench.cli.plan_jobs import plan_lines, plan_requests

    if options.lines is None:
        left_out = _LeftOut() if _is_of_any_data(options.table) else None
        planned = plan_requests(requests, options.data_root, claims, left_out)
        planned = replace(planned, warnings=warnings)
        if left_out is not None:
            left_out.say(bool(planned.jobs), quiet=options.quiet)
    else:
        planned = plan_lines(_read_lines(options.lines), options.data_root)
    if options.estimate:
        print_estimates(
            planned.only(kind), job_states, options.data_root, options.on, as_json=options.json
        )
    elif options.dry_run:
        print_status(planned, job_states, as_json=options.json)
    elif options.output is not None:
        write_plan(planned, options.output)
        remark = f"{len(planned.jobs)} jobs, plan {planned.digest}, {options.output}"
        common.say(remark, quiet=options.quiet)
    elif options.json:
        sys.stdout.write(planned.to_json())
    else:
        job_states.refresh()
        left = [job for job in planned.only(kind or "defend") if not job_states.is_done(job)]
        _print_lines([job.request for job in left], planned.plugins, options)


class _LeftOut:
    """Runs of the matrix that do not fit the data, by the first words on why."""

    def __init__(self) -> None:
        self.errors: dict[str, list[UsageError]] = {}

    def __call__(self, request: Request, error: UsageError) -> None:
        """Take note of one."""
        self.errors.setdefault(str(error), []).append(error)

    def say(self, has_others: bool, *, quiet: bool) -> None:
        """Name them; raise the first where nothing is left."""
        for reason, errors in self.errors.items():
            if not has_others:
                raise errors[0]
            common.say(f"left out, {len(errors)} run(s): {reason}", quiet=quiet)


def _is_of_any_data(table: str) -> bool:
    """Whether a table has every attack and defense, of which some do not fit some data."""
    from poisonbench.tables.catalogue import find_table

    return find_table(table).takes_any


def _dataset_of(options: _PlanOptions) -> str | None:
    """The data set that was asked for, or a preset's."""
    if options.preset is None:
        return options.dataset
    from poisonbench.tables.catalogue import find_table

    is_targeted = find_table(options.table).is_targeted is True
    return choose_dataset(options.dataset, options.preset, options.quiet, is_targeted=is_targeted)


@dataclass(frozen=True, kw_only=True)
class _SweepOptions:
    jobs: int | None = common.option(None, "Runs side by side; 1 a device by default.", min=1)
    shard: str = common.option("0/1", "i/n: only the i-th of n parts, from 0.")
    devices: str = common.option("auto", "Shared out over the runs: cuda:0,cuda:1.")
    only: OnlyOption = None
    on: str | None = common.option(
        None, "dask://HOST:PORT: on the workers of a dask.distributed cluster, not here."
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
    kind = _read_kind(options.only)
    devices = common.names_in(options.devices) or ["auto"]
    jobs = planned.shard(*_read_shard(options.shard), kind)
    if options.on is None:
        _check_devices(devices)
    stopping = Stopping()
    with ExitStack() as stack:
        stack.enter_context(stop_on_signals(stopping))
        has_bars = sys.stderr.isatty() and not options.quiet
        view = stack.enter_context(JobBars()) if has_bars else View(quiet=options.quiet)
        states, slots = _job_states(options.results), options.jobs or len(devices)
        new_worker = None
        if options.on is not None:
            cluster = stack.enter_context(closing(Cluster(options.on, states.store)))
            cluster.wait_for_workers(stopping, partial(common.say, quiet=options.quiet))
            cluster.check_workers(devices)
            slots = options.jobs or cluster.num_slots(devices)
            new_worker = cluster.worker
        keep_plan(planned, states.store.plans)
        sweep = Sweep(
            planned, jobs, states, options.data_root, devices, slots, view, stopping, new_worker
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
    if estimate:
        planned, job_states = read_plan(plan), _job_states(results)
        print_estimates(planned.jobs, job_states, data_root, on, as_json=as_json)
        return
    print_status(read_plan(plan), _job_states(results), as_json=as_json)


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
    job_states = _job_states(results)
    cleared = [job for job in read_plan(plan).jobs if job_states.clear_failure(job)]
    for job in cleared:
        print(job.title)
    command = f"poisonbench sweep run {plan}"
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
        print(f"{item.path}  {item.size:,} bytes  {item.why}")
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
    array = _array_job(plan, planned, _read_kind(options.only), options)
    slurm.prepare(Store(options.results), planned.digest)
    sys.stdout.write(slurm.script(array, planned.digest))


@app.command(cls=common.Command)
@common.takes(_ArrayOptions)
def submit(options: _ArrayOptions, plan: PlanArgument, as_json: common.JsonOption = False) -> None:
    """Submit a plan to SLURM: an array that crafts its poisons, then an array of its runs."""
    kind, planned, store = _read_kind(options.only), read_plan(plan), Store(options.results)
    submitted: dict[str, str] = {}
    last = None
    for stage in ("craft", "defend"):
        if kind in (None, stage) and planned.only(stage):
            array = _array_job(plan, planned, stage, options)
            last = slurm.submit(array, store, planned.digest, after=last)
            submitted[slurm.ONLY[stage]] = last
    lines = [f"{job}  {stage}" for stage, job in submitted.items()]
    common.show({"plan": planned.digest, "jobs": submitted}, lines, as_json)


def _plan_claims(job_states: JobStates, options: _PlanOptions) -> "list[PlannedClaim]":
    """A table's declared claims, with as many trials as the records so far call for."""
    from poisonbench.tables.claim_plan import plan_claims
    from poisonbench.tables.declared import shipped

    if options.lines is not None or options.methods:
        raise UsageError(
            "expected --for-claims without --lines and --methods, got one of them; a claim "
            "needs all the runs that it compares"
        )
    job_states.refresh()
    records = list(job_states.records.values())
    planned = plan_claims(options.table, records, options.dataset, options.trials)
    if not planned:
        others = sorted({f"{own.table} ({own.dataset})" for own in shipped()})
        raise UsageError(
            f"expected a table with declared claims, got {options.table}"
            + (f" on {options.dataset}" if options.dataset else "")
            + f"; there are some of {', '.join(others)}"
        )
    return planned


def _claims_in_words(
    planned: "Sequence[PlannedClaim]", job_states: JobStates, warnings: Iterable[str]
) -> str:
    """A line on each claim, the warnings, and a line on what all their runs cost."""
    records = list(job_states.records.values())
    every = {run for own in planned for run in own.requests()}
    left = {run for own in planned for run in own.requests(records)}
    lines = [own.in_words() for own in planned]
    lines += [f"warning: {text}" for text in warnings]
    cost = Costs(records, job_states.store.crafting()).in_words(left, every - left)
    done = f"{len(every)} run(s), of which {len(every) - len(left)} are done; {cost}"
    return "\n".join([*lines, done])


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


def _read_kind(only: str | None) -> str | None:
    """``--only``'s word as a kind of job."""
    if only is not None and only not in JOB_KINDS:
        raise UsageError(
            f"--only: expected {' or '.join(JOB_KINDS)}, got {only!r}"
            f"{did_you_mean(only, JOB_KINDS)}"
        )
    return JOB_KINDS.get(only or "")


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


def _job_states(results: Path) -> JobStates:
    return JobStates(Store(results), on_error=common.say_left_out)


def _read_lines(path: Path) -> list[str]:
    if str(path) == "-":
        return sys.stdin.read().splitlines()
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--lines: expected a file of commands, got {error}") from None


def _print_lines(
    requests: Sequence[Request], plugins: Iterable[str], options: _PlanOptions
) -> None:
    words = common.folder_options(options.results, options.data_root)
    words += common.plugin_options(plugins)
    for request in requests:
        print(command_of(request, *words))
    common.say(f"{len(requests)} job(s)", quiet=options.quiet)
