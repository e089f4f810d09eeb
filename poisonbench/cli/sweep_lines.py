"""From lines such as ``poisonbench defend --method hint --trial 3`` to the jobs of a plan."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from poisonbench.cli import defend
from poisonbench.cli.method_options import CONTEXT, MethodCommand, flags_of, method_values
from poisonbench.cli.session import choose_dataset
from poisonbench.core.canonical import spec_id
from poisonbench.core.errors import UsageError
from poisonbench.registry import attacks, defenses, find
from poisonbench.results.run_spec import RunSpec
from poisonbench.results.store import Store
from poisonbench.sweep.plan import Job, Plan, make_plan, run_key

if TYPE_CHECKING:
    from poisonbench.runs.poisoned_data import PoisonChoice

#: Options of where and how a line runs: the sweep sets them, and they are no part of a job.
_PLACES = {"--results": 1, "--data-root": 1, "--device": 1, "--plan": 1, "--json": 0, "--quiet": 0}


def plan_lines(lines: Iterable[str], data_root: Path) -> Plan:
    """A plan of the runs that these lines ask for, with the poisons that they need.

    Args:
        lines: commands of ``poisonbench defend``; empty ones and comments are passed over.
        data_root: where the data sets are, of whose contents job ids depend.

    Raises:
        PoisonbenchError: a line that ``defend`` would refuse; names it.
    """
    resolver = _Resolver(data_root)
    jobs: list[Job] = []
    for number, line in enumerate(lines, 1):
        words = _words(line, number)
        if words:
            try:
                jobs += resolver.jobs(words)
            except UsageError as error:
                raise UsageError(f"line {number}: {error}") from None
    return make_plan(jobs)


def _words(line: str, number: int) -> list[str]:
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        raise UsageError(f"line {number}: expected a shell command, got {error}") from None
    if words and (words[0].rpartition("/")[2] != "poisonbench" or words[1:2] != ["defend"]):
        raise UsageError(
            f"line {number}: expected poisonbench defend ..., got {' '.join(words[:2])!r}"
        )
    return words[2:]


class _Resolver:
    """Reads lines as ``defend`` does, each data set once."""

    def __init__(self, data_root: Path) -> None:
        app = typer.Typer()
        app.command("defend", cls=MethodCommand, context_settings=CONTEXT)(defend.defend)
        self.command: Any = typer.main.get_command(app)
        self.data_root = data_root
        self.benches: dict[int, Any] = {}
        self.makers: dict[str, str] = {}

    def jobs(self, words: Sequence[str]) -> list[Job]:
        """The poisons and runs of one line."""
        import torch

        from poisonbench.runs import defend as run
        from poisonbench.runs.workspace import Bench

        words = _without_places(words)
        context = self.command.make_context("defend", list(words))
        given = context.params
        entry = find("a defense", defenses(), given["method"])
        chosen = [attacks()[given["attack"]]] if given["attack"] in attacks() else []
        values = method_values(context.args, flags_of(context), [entry, *chosen])
        choice = defend.read_choice(
            given["attack"],
            given["poison"],
            given["clean"],
            given["rho"],
            given["selection"],
            given["poison_trial"],
            given["attack_profile"],
        )
        seed = given["seed"]
        if seed not in self.benches:
            # The store is never touched: nothing is run here.
            self.benches[seed] = Bench(
                Store(Path("results")), self.data_root, torch.device("cpu"), seed
            )
        bench = self.benches[seed]
        name = choose_dataset(given["dataset"], given["preset"], True, given["attack"])
        dataset = bench.dataset(name)
        first = given["trial"]
        poisons: dict[str, tuple[Job, dict[str, Any]]] = {}
        runs = []
        for trial in range(first, first + (given["trials"] or 1)):
            asked = run.request(
                bench,
                entry.name,
                dataset,
                choice,
                trial=trial,
                profile=given["profile"],
                values=values,
                model=given["model"],
            )
            targeted = asked.targeted
            pools = run.needed_pools(bench, dataset, choice, targeted, trial, given["model"])
            ids = {attack: spec_id(pool) for attack, pool in pools.items()}
            texts = {} if targeted is None else targeted.texts
            for attack, pool in pools.items():
                job = _poison_job(name, attack, pool, seed, texts, given["model"], choice.profile)
                poisons[job.id] = (job, pool)
            runs.append(
                Job(
                    id=run_key(asked.spec, ids),
                    kind="defend",
                    words=("defend", *_with_trial(words, trial)),
                    title=f"{entry.name} {name} {_mix(choice, asked.spec)} trial {trial}",
                    dataset=name,
                    method=entry.name,
                    needs=tuple(ids.values()),
                )
            )
        return [*self._after_their_surrogate(list(poisons.values())), *runs]

    def _after_their_surrogate(self, poisons: Sequence[tuple[Job, dict[str, Any]]]) -> list[Job]:
        """Attacks on one surrogate, of all lines: the first trains it, the others wait for it."""
        ordered = []
        for job, spec in poisons:
            if spec["surrogate"] is not None:
                maker = self.makers.setdefault(spec_id(spec["surrogate"]), job.id)
                job = job if maker == job.id else replace(job, after=(maker,))
            ordered.append(job)
        return ordered


def _mix(choice: PoisonChoice, spec: RunSpec) -> str:
    if choice.path is not None:
        return str(choice.path)
    return f"{'+'.join(choice.attacks)} at rho {spec.rho:g}" if spec.poison else "clean"


def _poison_job(
    dataset: str,
    attack: str,
    spec: dict[str, Any],
    seed: int,
    texts: Mapping[str, str],
    model: str | None,
    profile: str,
) -> Job:
    words = ("craft", "--attack", attack, "--dataset", dataset)
    draw = ["--trial", str(spec["trial"]), "--seed", str(seed)]
    for option, text in texts.items():
        draw += ["--" + option.replace("_", "-"), text]
    # An untargeted poison is the table's, whatever network is trained on it.
    draw += ["--model", model] if model is not None and "targeting" in spec else []
    draw += ["--profile", profile] if profile != "paper" else []
    title = f"poison {attack} {dataset}" + (f" trial {spec['trial']}" if spec["trial"] else "")
    return Job(
        id=spec_id(spec),
        kind="craft",
        words=(*words, *draw),
        title=title,
        dataset=dataset,
        method=attack,
    )


def _without_places(words: Sequence[str]) -> list[str]:
    kept, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        flag, has_value, _ = word.partition("=")
        if flag not in _PLACES:
            kept.append(word)
        elif _PLACES[flag] and not has_value:
            rest = rest[1:]
    return kept


def _with_trial(words: Sequence[str], trial: int) -> list[str]:
    """The words for one trial alone."""
    kept, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        flag, has_value, _ = word.partition("=")
        if flag not in ("--trial", "--trials"):
            kept.append(word)
        elif not has_value:
            rest = rest[1:]
    return [*kept, "--trial", str(trial)]
