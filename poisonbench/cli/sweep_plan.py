"""``poisonbench sweep plan``: the runs of a table, of declared claims or of a file of commands."""

import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from poisonbench.cli import common
from poisonbench.cli.answers import answer, stdout
from poisonbench.cli.session import choose_dataset
from poisonbench.cli.sweep_estimates import check_estimate, print_estimates
from poisonbench.cli.sweep_options import (
    EstimateOption,
    OnlyOption,
    OnOption,
    job_states_of,
    read_kind,
)
from poisonbench.cli.sweep_status import print_status
from poisonbench.core.errors import UsageError
from poisonbench.core.folders import DEFAULT_DATA_ROOT, DEFAULT_RESULTS, folder_options
from poisonbench.registry import DEFAULT_READING, READINGS, plugin_files
from poisonbench.requests import Request, command_of
from poisonbench.results.records import ClaimLabel
from poisonbench.sweep.costs import Costs
from poisonbench.sweep.job_states import JobStates
from poisonbench.sweep.plan import write_plan

if TYPE_CHECKING:
    from poisonbench.tables.claim_plan import PlannedClaim


@dataclass(frozen=True, kw_only=True)
class _PlanOptions:
    table: str | None = common.option(None, "The runs of which table; 2 if not said.")
    dataset: str | None = common.option(None, "Only this data set.")
    methods: str = common.option(
        "", "Only these defenses, separated by commas; jpeg:10 is a form of one (matrix)."
    )
    attacks: str = common.option("", "Only clean runs and these attacks, separated by commas.")
    rho: float | None = common.option(
        None, "Only clean runs and this poison ratio.", min=0.0, max=1.0
    )
    preset: str | None = common.option(
        None,
        "quick or colour: only the part of MNIST or CIFAR-10 that a CPU trains on; quick with "
        "--dataset, for --table matrix: any images with settings for a CPU.",
    )
    trials: int | None = common.option(
        None, "Trials of each cell; the table's own number if not said.", min=1
    )
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

    @property
    def key(self) -> str:
        """The table's."""
        return "2" if self.table is None else self.table


@common.takes(_PlanOptions)
def plan(options: _PlanOptions) -> None:
    r"""Print a command for each run of a table that is not done; or write a plan of all its runs.

    poisonbench sweep plan --table 2 | xargs -d '\n' -P 4 -I LINE sh -c LINE

    poisonbench sweep plan --table 2 --json --output plan.json

    poisonbench sweep plan --table 2 --dataset mnist --for-claims

    poisonbench sweep plan --table 2 --dataset cifar10 --estimate --on h100

    poisonbench sweep plan --table matrix --preset quick --attacks pgd,lsp --methods none,jpeg
    """
    kind = read_kind(options.only)
    check_estimate(options.estimate, options.on)
    _check_options(options)
    job_states = job_states_of(options.results)
    claims: dict[str, ClaimLabel] = {}
    warnings: tuple[str, ...] = ()
    if options.for_claims:
        for_claims = _plan_claims(job_states, options)
        claims = {own.declaration.id: own.label for own in for_claims}
        requests = list(dict.fromkeys(run for own in for_claims for run in own.requests()))
        warnings = tuple(text for own in for_claims if (text := own.warning))
        words = _claims_in_words(for_claims, job_states, warnings)
        if not (options.json or options.dry_run or options.estimate):
            answer(words)
            common.say("to run them: add --json --output PLAN", quiet=options.quiet)
            return
        common.say(words, quiet=options.quiet)
    elif options.lines is None:
        from poisonbench.tables.catalogue import cells, find_reading, missing_runs

        is_plain = not (options.json or options.dry_run or options.estimate or kind == "craft")
        if is_plain:
            # Without reading data: the report's own test of what is done.
            job_states.refresh()
        records = list(job_states.records.values()) if is_plain else []
        methods = common.names_in(options.methods)
        dataset = _dataset_of(options)
        _check_ratio(options, {cell.rho for cell in cells(options.key, records, dataset)})
        requests = missing_runs(
            options.key,
            records,
            dataset,
            methods=methods,
            trials=options.trials,
            rhos=None if options.rho is None else (0.0, options.rho),
            reading=find_reading(options.key, options.reading),
            attacks=common.names_in(options.attacks),
        )
        if is_plain:
            _print_lines(requests, plugin_files(), options)
            return
    from poisonbench.cli.plan_jobs import plan_lines, plan_requests

    if options.lines is None:
        left_out = _LeftOut() if _is_of_any_data(options.key) else None
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
        stdout().write(planned.to_json())
    else:
        job_states.refresh()
        left = [job for job in planned.only(kind or "defend") if not job_states.is_done(job)]
        _print_lines([job.request for job in left], planned.plugins, options)


def _check_options(options: _PlanOptions) -> None:
    """Refuse options that others would leave without effect."""
    if options.output is not None and not options.json:
        raise UsageError("expected --output with --json, got it alone; add --json or use `> FILE`")
    common.check_output(options.output)
    shown = [
        flag
        for flag, is_given in (("--estimate", options.estimate), ("--dry-run", options.dry_run))
        if is_given
    ]
    if len(shown) > 1:
        raise UsageError("expected one of --estimate and --dry-run, got both; leave one out")
    if options.output is not None and shown:
        raise UsageError(
            f"expected --output with a plan, got it with {shown[0]}, which prints none; leave one "
            "of them out"
        )
    whole = "--dry-run" if options.dry_run else "--json"
    if options.only is not None and not options.estimate and (options.dry_run or options.json):
        raise UsageError(
            f"expected --only with printed commands or --estimate, got it with {whole}, which is "
            "of all jobs; leave it out, and give it to the command that takes the plan"
        )
    choosing = {
        "--methods": options.methods,
        "--attacks": options.attacks,
        "--rho": options.rho,
        "--preset": options.preset,
        "--reading": options.reading,
    }
    # A claim's runs are of its own defenses and poisons.
    clashing = choosing if options.for_claims else {}
    if options.lines is not None:
        named = {"--table": options.table, "--dataset": options.dataset, "--trials": options.trials}
        clashing = {**named, **choosing, "--for-claims": options.for_claims or None}
    given = [flag for flag, value in clashing.items() if value not in (None, "")]
    if given:
        first, reason = "--lines", "which names its runs itself"
        if options.lines is None:
            first, reason = "--for-claims", "as a claim needs all the runs that it compares"
        raise UsageError(
            f"expected {first} without {', '.join(given)}, {reason}; leave one of them out"
        )


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


def _check_ratio(options: _PlanOptions, ratios: Collection[float]) -> None:
    """Refuse a poison ratio of which a table has no cell: its clean runs alone would be planned."""
    if options.rho is not None and options.rho not in ratios:
        known = ", ".join(f"{ratio:g}" for ratio in sorted(ratios))
        raise UsageError(
            f"--rho: expected a poison ratio that table {options.key} has, got {options.rho:g}; "
            f"it has {known}"
        )


def _dataset_of(options: _PlanOptions) -> str | None:
    """The data set that was asked for, or a preset's."""
    if options.preset is None:
        return options.dataset
    from poisonbench.tables.catalogue import find_table

    is_targeted = find_table(options.key).is_targeted is True
    return choose_dataset(options.dataset, options.preset, options.quiet, is_targeted=is_targeted)


def _plan_claims(job_states: JobStates, options: _PlanOptions) -> "list[PlannedClaim]":
    """A table's declared claims, with as many trials as the records so far call for."""
    from poisonbench.tables.claim_plan import plan_claims
    from poisonbench.tables.declared import shipped

    job_states.refresh()
    records = list(job_states.records.values())
    planned = plan_claims(options.key, records, options.dataset, options.trials)
    if not planned:
        others = sorted({f"{own.table} ({own.dataset})" for own in shipped()})
        raise UsageError(
            f"expected a table with declared claims, got {options.key}"
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
    words = folder_options(options.results, options.data_root)
    words += common.plugin_options(plugins)
    for request in requests:
        answer(command_of(request, *words))
    common.say(f"{len(requests)} job(s)", quiet=options.quiet)
