"""``poisonbench sweep``: many runs, planned, run side by side or on SLURM, watched, resumed."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from poisonbench.cli.common import (
    Command,
    DataRootOption,
    JsonOption,
    PluginOption,
    QuietOption,
    ResultsOption,
    command_app,
    folder_options,
    plugin_options,
    print_json,
    say,
)
from poisonbench.cli.session import takes
from poisonbench.cli.sweep_status import print_status
from poisonbench.cli.worker import worker
from poisonbench.core.errors import InterruptedRunError, JobsFailedError, UsageError
from poisonbench.core.folders import DEFAULT_DATA_ROOT, DEFAULT_RESULTS
from poisonbench.core.settings import did_you_mean
from poisonbench.core.signals import Stopping, stop_on_signals
from poisonbench.plugins import check_file
from poisonbench.registry import plugin_files
from poisonbench.requests import Request, command_of
from poisonbench.results.store import Store
from poisonbench.sweep import slurm
from poisonbench.sweep.execute import Sweep
from poisonbench.sweep.garbage import STALE, delete, find_garbage, unfinished_checkpoints
from poisonbench.sweep.job_states import JobStates
from poisonbench.sweep.plan import Plan, read_plan, write_plan
from poisonbench.sweep.progress_view import JobBars, View

if TYPE_CHECKING:
    from collections.abc import Sequence

app = command_app("Plan, run and watch many runs, on one machine or on SLURM.")

app.command("worker", cls=Command, hidden=True)(worker)

#: ``--only``'s words.
JOB_KINDS = {"poisons": "craft", "runs": "defend"}

#: Prints what is wrong with the first device that cannot be used.
_DEVICE_QUESTION = """
import sys
from poisonbench.core.errors import UsageError
from poisonbench.runs.workspace import find_device
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
    str | None, typer.Option("--only", help="poisons or runs; by default both, poisons first.")
]


@app.command(cls=Command)
def plan(
    table: Annotated[str, typer.Option("--table", help="The runs of which table.")] = "2",
    dataset: Annotated[str | None, typer.Option("--dataset", help="Only this data set.")] = None,
    methods: Annotated[
        str, typer.Option("--methods", help="Only these defenses, separated by commas.")
    ] = "",
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="Trials of each cell; 5 by default.")
    ] = None,
    lines: Annotated[
        Path | None,
        typer.Option(
            "--lines", help="Plan the defend and craft commands in this file instead; - is stdin."
        ),
    ] = None,
    only: OnlyOption = None,
    json: Annotated[
        bool, typer.Option("--json", help="An immutable plan, for the other sweep commands.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", help="Write the plan to this file, not to stdout.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show states and costs instead.")
    ] = False,
    results: ResultsOption = DEFAULT_RESULTS,
    data_root: DataRootOption = DEFAULT_DATA_ROOT,
    quiet: QuietOption = False,
    plugin: PluginOption = None,
) -> None:
    r"""Print a command for each run of a table that is not done; or write a plan of all its runs.

    poisonbench sweep plan --table 2 | xargs -d '\n' -P 4 -I LINE sh -c LINE

    poisonbench sweep plan --table 2 --json --output plan.json
    """
    kind = read_kind(only)
    names = [name.strip() for name in methods.split(",") if name.strip()]
    if output is not None and not json:
        raise UsageError("expected --output with --json, got it alone; add --json or use `> FILE`")
    board = _board(results)
    folders = folder_options(results, data_root)
    if lines is None:
        from poisonbench.tables.catalogue import missing_runs

        is_plain = not (json or dry_run or kind == "craft")
        if is_plain:
            # Without reading data: the report's own test of what is done.
            board.refresh()
        records = list(board.records.values()) if is_plain else []
        requests = missing_runs(table, records, dataset, methods=names, trials=trials)
        if is_plain:
            _print_lines(requests, [*folders, *plugin_options(plugin_files())], quiet)
            return
    from poisonbench.cli.plan_jobs import plan_lines, plan_requests

    if lines is None:
        made = plan_requests(requests, data_root)
    else:
        made = plan_lines(_read_lines(lines), data_root)
    if dry_run:
        print_status(made, board, as_json=json)
    elif json and output is not None:
        write_plan(made, output)
        say(f"{len(made.jobs)} jobs, plan {made.digest}, {output}", quiet=quiet)
    elif json:
        sys.stdout.write(made.to_json())
    else:
        board.refresh()
        left = [job for job in made.only(kind or "defend") if not board.is_done(job)]
        options = [*folders, *plugin_options(made.plugins)]
        _print_lines([job.request for job in left], options, quiet)


@app.command(cls=Command)
def run(
    plan: PlanArgument,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Runs side by side; 1 a device by default.")
    ] = None,
    shard: Annotated[
        str, typer.Option("--shard", help="i/n: only the i-th of n parts, from 0.")
    ] = "0/1",
    devices: Annotated[
        str, typer.Option("--devices", help="Shared out over the runs: cuda:0,cuda:1.")
    ] = "auto",
    only: OnlyOption = None,
    requeue: Annotated[
        bool,
        typer.Option("--requeue", help="Before a SLURM time limit, ask SLURM to start it again."),
    ] = False,
    results: ResultsOption = DEFAULT_RESULTS,
    data_root: DataRootOption = DEFAULT_DATA_ROOT,
    quiet: QuietOption = False,
) -> None:
    """Run what is not done of a plan; run the same command again after any interruption."""
    made = read_plan(plan)
    for path, digest in made.plugins.items():
        check_file(path, digest)
    kind = read_kind(only)
    index, count = _read_shard(shard)
    names = [name.strip() for name in devices.split(",") if name.strip()] or ["auto"]
    mine = made.shard(index, count, kind)
    _check_devices(names)
    stopping = Stopping()
    with ExitStack() as stack:
        stack.enter_context(stop_on_signals(stopping))
        has_bars = sys.stderr.isatty() and not quiet
        view = stack.enter_context(JobBars()) if has_bars else View(quiet=quiet)
        sweep = Sweep(
            made, mine, _board(results), data_root, names, jobs or len(names), view, stopping
        )
        try:
            sweep.run()
        except JobsFailedError:
            for job in mine:
                if job.id in sweep.failed:
                    say(f"failed: {job.title}: {sweep.failed[job.id]}")
            raise
        except InterruptedRunError:
            if requeue and stopping.number == signal.SIGUSR1:
                slurm.requeue()
            raise
    say(f"{len(mine)} jobs are done", quiet=quiet)


@app.command(cls=Command)
def status(
    plan: PlanArgument, results: ResultsOption = DEFAULT_RESULTS, as_json: JsonOption = False
) -> None:
    """Show what has become of the jobs of a plan, from records and leases alone."""
    print_status(read_plan(plan), _board(results), as_json=as_json)


@app.command(cls=Command)
def retry(
    plan: PlanArgument,
    failed: Annotated[
        bool, typer.Option("--failed", help="Forget which jobs failed, so that they run again.")
    ] = False,
    results: ResultsOption = DEFAULT_RESULTS,
    quiet: QuietOption = False,
) -> None:
    """Let failed jobs be run again by the next `sweep run`."""
    if not failed:
        raise UsageError("expected `sweep retry PLAN --failed`, got no --failed; add it")
    board = _board(results)
    cleared = [job for job in read_plan(plan).jobs if board.clear_failure(job)]
    for job in cleared:
        print(job.title)
    say(f"{len(cleared)} job(s) to run again with `poisonbench sweep run {plan}`", quiet=quiet)


@app.command(cls=Command)
def gc(
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only print.")] = False,
    older_than: Annotated[
        float, typer.Option("--older-than", min=0, help="Minutes since a temporary file changed.")
    ] = STALE / 60,
    results: ResultsOption = DEFAULT_RESULTS,
    as_json: JsonOption = False,
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
        rows = {"garbage": garbage, "kept": kept}
        print_json(
            {
                name: [{"path": str(i.path), "why": i.why, "bytes": i.size} for i in items]
                for name, items in rows.items()
            }
            | {"deleted": yes}
        )
        return
    for item in (*garbage, *kept):
        print(f"{item.path}  {item.size:,} bytes  {item.why}")
    verb = "deleted" if yes else "to delete with --yes"
    say(f"{len(garbage)} item(s), {sum(item.size for item in garbage):,} bytes {verb}")


@dataclass(frozen=True, kw_only=True)
class ArrayOptions:
    """The options of an array job, in the order of its help."""

    shards: Annotated[
        int | None,
        typer.Option("--shards", min=1, help="Tasks of the array; one a run by default."),
    ] = None
    at_once: Annotated[
        int | None, typer.Option("--at-once", min=1, help="Tasks that run at a time (%K).")
    ] = None
    time: Annotated[str | None, typer.Option("--time", help="Time limit of a task.")] = None
    cpus: Annotated[int, typer.Option("--cpus", min=1, help="Processors of a task.")] = 1
    gpus: Annotated[int, typer.Option("--gpus", min=0, help="GPUs of a task.")] = 0
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Runs at once in a task.")] = 1
    notice: Annotated[
        int,
        typer.Option("--notice", min=1, help="Seconds before the limit to save checkpoints at."),
    ] = 180
    partition: Annotated[str | None, typer.Option("--partition", help="SLURM's partition.")] = None
    only: OnlyOption = None
    sbatch: Annotated[
        str,
        typer.Option("--sbatch", help="Further options of sbatch, e.g. '--mem=8G --account=a'."),
    ] = ""
    program: Annotated[
        str, typer.Option("--program", help="How poisonbench is called on the nodes.")
    ] = ""
    results: ResultsOption = DEFAULT_RESULTS
    data_root: DataRootOption = DEFAULT_DATA_ROOT


@app.command(cls=Command)
@takes(ArrayOptions)
def script(plan: PlanArgument, *, options: ArrayOptions) -> None:
    """Print a SLURM array job that runs a plan.

    poisonbench sweep script plan.json --at-once 20 --time 4:00:00 > job.sbatch
    """
    made = read_plan(plan)
    array = _array_job(plan, made, read_kind(options.only), options)
    slurm.prepare(Store(options.results), made.digest)
    sys.stdout.write(slurm.script(array, made.digest))


@app.command(cls=Command)
@takes(ArrayOptions)
def submit(plan: PlanArgument, as_json: JsonOption = False, *, options: ArrayOptions) -> None:
    """Submit a plan to SLURM: an array that crafts its poisons, then an array of its runs."""
    kind, made, store = read_kind(options.only), read_plan(plan), Store(options.results)
    submitted: dict[str, str] = {}
    last = None
    for stage in ("craft", "defend"):
        if kind in (None, stage) and made.only(stage):
            array = _array_job(plan, made, stage, options)
            last = slurm.submit(array, store, made.digest, after=last)
            submitted[slurm.ONLY[stage]] = last
    if as_json:
        print_json({"plan": made.digest, "jobs": submitted})
        return
    for stage, job in submitted.items():
        print(f"{job}  {stage}")


def _array_job(path: Path, plan: Plan, kind: str | None, options: ArrayOptions) -> slurm.ArrayJob:
    """The array job of these options, with no more shards than jobs."""
    count = len(plan.only(kind or "defend")) or len(plan.jobs)
    return slurm.ArrayJob(
        plan=path,
        results=options.results,
        data_root=options.data_root,
        shards=min(options.shards or slurm.MOST_SHARDS, max(count, 1)),
        at_once=options.at_once,
        time=options.time,
        cpus=options.cpus,
        gpus=options.gpus,
        jobs=options.jobs,
        notice=options.notice,
        partition=options.partition,
        only=kind,
        options=tuple(shlex.split(options.sbatch)),
        program=tuple(shlex.split(options.program)) or (sys.executable, "-m", "poisonbench"),
    )


def read_kind(only: str | None) -> str | None:
    """``--only``'s word as a kind of job.

    Raises:
        UsageError: neither poisons nor runs.
    """
    if only is not None and only not in JOB_KINDS:
        raise UsageError(
            f"--only: expected {' or '.join(JOB_KINDS)}, got {only!r}"
            f"{did_you_mean(only, JOB_KINDS)}"
        )
    return JOB_KINDS.get(only or "")


def _check_devices(names: Sequence[str]) -> None:
    """Refuse devices that are not there, before a job fails for the lack of one.

    Another process asks, so that torch stays out of this one.
    """
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


def _board(results: Path) -> JobStates:
    return JobStates(Store(results), on_error=lambda error: say(f"warning: left out: {error}"))


def _read_lines(path: Path) -> list[str]:
    if str(path) == "-":
        return sys.stdin.read().splitlines()
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--lines: expected a file of commands, got {error}") from None


def _print_lines(requests: Sequence[Request], options: Sequence[str], quiet: bool) -> None:
    """One shell line a request, with options of where and how."""
    for request in requests:
        print(command_of(request, *options))
    say(f"{len(requests)} job(s)", quiet=quiet)
