"""``poisonbench assess``: how vulnerable a data set is, and what helps, in one command."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace as replaced

from poisonbench.cli import common
from poisonbench.cli.session import ContextOptions, open_context
from poisonbench.core.canonical import spec_id
from poisonbench.core.errors import ArtefactError, JobsFailedError, PoisonbenchError, UsageError
from poisonbench.core.files import read_shared, write_text
from poisonbench.core.folders import DEFAULT_DATA_ROOT, DEFAULT_RESULTS
from poisonbench.core.progress import clock
from poisonbench.core.quick_names import quick_name, same_place, split_quick
from poisonbench.entries import shown_name
from poisonbench.requests import PoisonRequest, Request, RunRequest
from poisonbench.results.records import RunRecord
from poisonbench.results.run_keys import record_key
from poisonbench.results.store import Store
from poisonbench.sweep.job_states import JobStates, State
from poisonbench.sweep.plan import Plan, write_plan
from poisonbench.tables.assessment import assess
from poisonbench.tables.assessment_plan import (
    ATTACKS,
    GREY_ATTACKS,
    GREY_METHODS,
    METHODS,
    Matrix,
    room_for_targets,
)

if TYPE_CHECKING:
    from poisonbench.data.splits import Dataset
    from poisonbench.runs.context import RunContext

#: Seconds of a processor that a job takes besides its networks: its process, files and pictures.
_JOB_SECONDS = 2.0

#: An assessment of more seconds than this names shorter ones.
_LONG = 600

app = common.command_app()


@dataclass(frozen=True, kw_only=True)
class _AssessOptions:
    dataset: str = common.option(
        MISSING, "Your images: folder:PATH, npz:PATH, or any of `poisonbench list datasets`."
    )
    trials: int = common.option(3, "Trials of each cell, each with its own poison.", min=1)
    attacks: str | None = common.option(
        None,
        "Attacks, untargeted and targeted, separated by commas; by default "
        f"{','.join(ATTACKS)}, on grey images {','.join(GREY_ATTACKS)}.",
    )
    methods: str = common.option(
        "",
        f"Defenses, separated by commas; by default {','.join(METHODS)}, on grey images "
        f"{','.join(GREY_METHODS)}.",
    )
    minutes: float | None = common.option(
        None, "At most so long, by the estimate: fewer trials, then fewer attacks and defenses."
    )
    dry_run: bool = common.option(False, "Show the plan and what it costs; run nothing.")
    jobs: int | None = common.option(
        None, "Runs side by side; by default one a processor, on a GPU one.", min=1
    )
    output: Path = common.option(Path("page.html"), "The page to write.")
    results: common.ResultsOption = DEFAULT_RESULTS
    data_root: common.DataRootOption = DEFAULT_DATA_ROOT
    plugin: common.PluginOption = None
    json: common.JsonOption = False
    quiet: common.QuietOption = False


class _Cut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What of a matrix fits into a time limit, kept so that the same command goes on with it."""

    trials: int
    attacks: tuple[str, ...]
    methods: tuple[str, ...]


@app.command("assess", cls=common.Command)
@common.takes(_AssessOptions)
def assess_data(options: _AssessOptions) -> None:
    """Assess a data set: plan a small matrix, say what it costs, run it, and say what it shows.

    How long to train and how large a network is chosen by validation accuracy on your clean
    images. Run the same command again after any interruption: what is done is not done again.

    poisonbench assess --dataset folder:photos
    """
    common.check_output(options.output)
    # Not a number is over nothing.
    if options.minutes is not None and not options.minutes > 0:
        raise UsageError(f"--minutes: expected over 0, got {options.minutes:g}")
    base = same_place(split_quick(options.dataset)[0])
    store = Store(options.results)
    states = JobStates(store, on_error=common.say_left_out)
    shared = ContextOptions(
        results=options.results, data_root=options.data_root, json=options.json, quiet=options.quiet
    )
    with open_context(shared) as context:
        planner = _Planner(options, context, states, base)
        if (planned := planner.plan()) is None:
            return
    matrix, plan, facts = planned
    slots = planner.slots
    if options.dry_run:
        return
    failure = _run(options, plan, store, slots)
    states.refresh()
    from poisonbench.page.document import build_page

    built = build_page([options.results], options.data_root)
    write_text(options.output, built.text)
    records = _named(store.records(common.say_left_out), plan, matrix.dataset)
    sentences = assess(matrix, records)
    result = {**facts, "sentences": sentences, "page": str(options.output)}
    common.show(result, [*sentences, str(options.output)], options.json)
    if failure is not None:
        raise failure


def _run(options: _AssessOptions, plan: Plan, store: Store, slots: int) -> PoisonbenchError | None:
    """Run a plan as `sweep run` does; returns the error of jobs that failed, to raise it later."""
    from poisonbench.cli.main import load_command

    path = store.plans / f"{plan.digest[:16]}.json"
    store.check_writable()
    write_plan(plan, path)
    words = ["run", str(path), "--jobs", str(slots)]
    words += ["--results", str(options.results), "--data-root", str(options.data_root)]
    words += ["--quiet"] if options.quiet else []
    try:
        load_command("sweep").main(args=words, prog_name="poisonbench sweep", standalone_mode=False)
    except JobsFailedError as error:
        return JobsFailedError(
            f"{error}; the sentences are of the runs that are done; to try again: "
            f"poisonbench sweep retry {path} --failed --results {options.results}, then the same "
            "command"
        )
    return None


def _named(records: Sequence[RunRecord], plan: Plan, dataset: str) -> list[RunRecord]:
    """The records, those of the plan by the data's name now: it may have lain elsewhere."""
    jobs = {job.id for job in plan.jobs}
    return [
        replaced(record, labels=replaced(record.labels, dataset=dataset))
        if record_key(record) in jobs
        else record
        for record in records
    ]


class _Planner:
    """From options to a plan, with remarks on what it is and costs."""

    def __init__(
        self, options: _AssessOptions, context: "RunContext", states: JobStates, base: str
    ) -> None:
        from poisonbench.core.devices import is_accelerator
        from poisonbench.runs.estimates import Estimator

        self.options, self.context, self.states, self.base = options, context, states, base
        self.estimator: Estimator = Estimator(context, times=True)
        self.is_on_cpu = not is_accelerator(context.device)
        processors = len(os.sched_getaffinity(0)) if self.is_on_cpu else 1
        #: Runs side by side.
        self.slots: int = options.jobs or processors

    def plan(self) -> tuple[Matrix, Plan, dict[str, Any]] | None:
        """The matrix, its plan, and facts for JSON; null of a dry run before there is a choice."""
        from poisonbench.runs.training_choice import choose_training, read_choice

        dataset = self.context.dataset(self.base)
        matrix = self._matrix(dataset)
        self._say(
            f"{shown_name(self.base)}: {len(dataset.train):,} training, "
            f"{len(dataset.validation):,} validation and {len(dataset.test):,} test images in "
            f"{dataset.num_classes} classes"
        )
        choice = read_choice(self.context, dataset)
        if choice is None:
            self._estimate_before_choice(dataset, matrix)
            if self.options.dry_run:
                return None
            choice = choose_training(self.context, self.base)
        self._say(choice.in_words())
        taken = choice.taken
        matrix = replace(matrix, dataset=quick_name(self.base, taken.network, taken.epochs))
        matrix = self._within_minutes(dataset, matrix)
        plan = self._planned(matrix)
        seconds, left = self._seconds(plan)
        text = self._cost_in_words(matrix, len(plan.jobs), left, seconds)
        self._say(text)
        facts = {
            "dataset": self.base,
            "network": taken.network,
            "epochs": taken.epochs,
            "validation_accuracy": taken.accuracy,
            "attacks": list(matrix.attacks),
            "methods": list(matrix.methods),
            "trials": matrix.trials,
            "plan": plan.digest,
            "jobs": len(plan.jobs),
        }
        if self.options.dry_run:
            estimate = {"jobs_left": left, "estimated_seconds": round(seconds)}
            common.show({**facts, **estimate}, [text] if self.options.quiet else [], self.json)
        return matrix, plan, facts

    @property
    def json(self) -> bool:
        """Whether the result is JSON."""
        return self.options.json

    def _say(self, text: str) -> None:
        common.say(text, quiet=self.options.quiet)

    def _matrix(self, dataset: "Dataset") -> Matrix:
        """What was asked for, without what does not fit the images, which is said."""
        import torch

        is_grey = dataset.image_shape[0] == 1
        methods = common.names_in(self.options.methods) or (GREY_METHODS if is_grey else METHODS)
        attacks: tuple[str, ...] = GREY_ATTACKS if is_grey else ATTACKS
        if self.options.attacks is not None:
            attacks = tuple(common.names_in(self.options.attacks))
        has_plain = "none" in methods
        matrix = Matrix(
            dataset=quick_name(self.base),
            attacks=tuple(dict.fromkeys(attacks)),
            methods=tuple(dict.fromkeys(methods if has_plain else ["none", *methods])),
            trials=self.options.trials,
        )
        if not matrix.attacks:
            raise UsageError(f"--attacks: expected names such as {','.join(ATTACKS)}, got none")
        if not has_plain:
            self._say("plain training (none) goes along: it is what defenses are held to")
        counts = torch.bincount(dataset.train.labels, minlength=dataset.num_classes).tolist()
        for attack in matrix.targeted:
            if reason := room_for_targets(matrix.dataset, attack, counts):
                self._say(f"note: {reason}")
                left = tuple(name for name in matrix.attacks if name != attack)
                matrix = replace(matrix, attacks=left)
        if not matrix.attacks:
            raise UsageError(
                "--attacks: expected one that fits the images, got targeted ones alone, which lack "
                "images; add an untargeted one such as pgd"
            )
        return matrix

    def _planned(self, matrix: Matrix) -> Plan:
        from poisonbench.cli.plan_jobs import plan_requests

        return plan_requests(matrix.requests, self.options.data_root)

    def _seconds(self, plan: Plan) -> tuple[float, int]:
        """Estimated seconds of what is left of a plan, side by side, and how many jobs that is."""
        states = self.states.states(plan.jobs)
        left = [job.request for job in plan.jobs if states[job.id] is not State.DONE]
        return self._of_requests(left) / self.slots, len(left)

    def _of_requests(self, requests: list[Request]) -> float:
        """Seconds of one processor."""
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        self.estimator.start_plan()
        try:
            estimates = [self.estimator.of(request) for request in requests]
        finally:
            torch.set_num_threads(threads)
        return sum((estimate.seconds or 0.0) + _JOB_SECONDS for estimate in estimates)

    def _estimate_before_choice(self, dataset: "Dataset", matrix: Matrix) -> None:
        """Say what the choice of the training costs, and the matrix at most."""
        from poisonbench.runs.training_choice import candidates_for, trainings_for

        candidates, trainings = candidates_for(dataset), trainings_for(dataset)
        names = [quick_name(self.base, one.network, one.epochs) for one in candidates]
        clean = PoisonRequest(attacks=(), rho=None)
        runs: list[Request] = [
            RunRequest(method="none", dataset=name, poison=clean) for name in names
        ]
        choosing = self._of_requests(runs) * trainings
        plan = self._planned(replace(matrix, dataset=names[-1]))
        seconds, left = self._seconds(plan)
        text = (
            f"first a network and epochs are chosen on the validation images: {len(candidates)} "
            f"candidates, about {clock(choosing)} on one processor; "
            + self._cost_in_words(matrix, len(plan.jobs), left, seconds, " at most")
        )
        if self.options.dry_run:
            facts = {
                "dataset": self.base,
                "attacks": list(matrix.attacks),
                "methods": list(matrix.methods),
                "trials": matrix.trials,
                "jobs": len(plan.jobs),
                "jobs_left": left,
                "estimated_seconds": round(choosing + seconds),
            }
            common.show(facts, [text], self.json)
        else:
            self._say(text)

    def _cost_in_words(
        self, matrix: Matrix, jobs: int, left: int, seconds: float, bound: str = ""
    ) -> str:
        text = (
            f"attacks {', '.join(matrix.attacks)} and controls, defenses "
            f"{', '.join(matrix.methods)}, trials {matrix.trials}: {jobs} jobs, {left} left, about "
            f"{clock(seconds)}{bound} with {self.slots} side by side"
            + ("" if self.is_on_cpu else ", were it on this processor")
        )
        if seconds > _LONG and self.options.minutes is None:
            text += (
                "; shorter: --minutes 10, --trials 1, fewer --attacks or --methods, or fewer images"
            )
        return text

    def _within_minutes(self, dataset: "Dataset", matrix: Matrix) -> Matrix:
        """What fits into --minutes, as it was cut the first time."""
        limit = self.options.minutes
        if limit is None:
            return matrix
        facts = [matrix.dataset, *matrix.attacks, *matrix.methods, matrix.trials, limit]
        name = spec_id({"kind": "cut", "dataset": dataset.digest, "of": facts})
        path = self.context.store.root / "assessments" / f"{name}.json"
        if path.exists():
            try:
                cut = msgspec.json.decode(read_shared(path), type=_Cut)
            except (OSError, ValueError) as error:
                raise ArtefactError(
                    f"{path}: expected what fits into --minutes, got {error}; delete it"
                ) from None
        else:
            cut = self._cut(matrix, 60 * limit)
            if not self.options.dry_run:
                write_text(path, msgspec.json.encode(cut).decode() + "\n")
        kept = replace(matrix, **msgspec.structs.asdict(cut))
        if kept != matrix:
            self._say(f"cut to what fits into {limit:g} minutes")
        return kept

    def _cut(self, matrix: Matrix, limit: float) -> _Cut:
        seconds = 0.0
        for smaller in _smaller(matrix):
            seconds, _ = self._seconds(self._planned(smaller))
            if seconds <= limit:
                return _Cut(smaller.trials, smaller.attacks, smaller.methods)
        raise UsageError(
            f"--minutes: expected {seconds / 60:.0f} or more, which the smallest matrix takes by "
            f"the estimate, got {limit / 60:g}; or take fewer images"
        )


def _smaller(matrix: Matrix) -> Iterator[Matrix]:
    """A matrix and ever smaller ones: fewer trials, then defenses and attacks from the last on."""
    for trials in range(matrix.trials, 0, -1):
        yield replace(matrix, trials=trials)
    matrix = replace(matrix, trials=1)
    while len(matrix.methods) > 2 or len(matrix.attacks) > 1:
        if len(matrix.attacks) >= len(matrix.methods):
            matrix = replace(matrix, attacks=matrix.attacks[:-1])
        else:
            kept = tuple(name for name in matrix.methods if name != "none")[:-1]
            matrix = replace(matrix, methods=("none", *kept))
        yield matrix
