"""``poisonbench defend``: train under a defense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poisonbench.cli.common import DatasetOption, command_app, print_json, say
from poisonbench.cli.method_options import CONTEXT, MethodCommand, method_settings
from poisonbench.cli.session import (
    RunOptions,
    choose_dataset,
    open_bench,
    takes,
)
from poisonbench.core.errors import UsageError
from poisonbench.core.settings import parse_value
from poisonbench.data.names import shown_name
from poisonbench.registry import plugin_files
from poisonbench.requests import (
    PoisonRequest,
    RunRequest,
    Selection,
    Values,
    attack_names,
    mix_settings,
    split_values,
)

if TYPE_CHECKING:
    from poisonbench.results.records import RunRecord
    from poisonbench.runs.defend import Defended


app = command_app()


@dataclass(frozen=True, kw_only=True)
class DefendOptions:
    """The options of ``defend`` alone, in the order of its help."""

    method: Annotated[str, typer.Option("--method", help="One of `poisonbench list defenses`.")]
    dataset: DatasetOption = None
    attack: Annotated[
        str | None,
        typer.Option(
            "--attack",
            help="One of `poisonbench list attacks`, untargeted ones joined by +, or a mix.",
        ),
    ] = None
    poison: Annotated[
        Path | None, typer.Option("--poison", help="A poison artefact to train on, as it is.")
    ] = None
    clean: Annotated[bool, typer.Option("--clean", help="Train on clean data.")] = False
    rho: Annotated[
        float | None,
        typer.Option(
            "--rho",
            help="Share of poisoned images; 0.6 by default, a targeted attack's own is 0.01.",
        ),
    ] = None
    trial: Annotated[int, typer.Option("--trial", min=0, help="Which trial, from 0.")] = 0
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="Run this many trials, from --trial on.")
    ] = None
    poison_trial: Annotated[
        int, typer.Option("--poison-trial", min=0, help="Which draw of the poison.")
    ] = 0
    attack_profile: Annotated[
        str, typer.Option("--attack-profile", help="A targeted attack's, e.g. fc's watermark.")
    ] = "paper"
    attack_model: Annotated[
        str | None,
        typer.Option(
            "--attack-model", help="Network of the attack's surrogate; by default the run's."
        ),
    ] = None
    save_model: Annotated[
        bool, typer.Option("--save-model", help="Keep the trained weights, as safetensors.")
    ] = False
    plan: Annotated[
        str | None, typer.Option("--plan", hidden=True, help="The sweep's plan, for the record.")
    ] = None


@app.command("defend", cls=MethodCommand, context_settings=CONTEXT)
@takes(DefendOptions, "asked")
@takes(RunOptions)
def defend(ctx: typer.Context, *, asked: DefendOptions, options: RunOptions) -> None:
    """Train a classifier on poisoned data under a defense; a record in the results folder.

    Poisons that are missing are crafted first and kept. A run that is done is not done again.

    An attack's surrogate has the network of the run. Options of the training recipe are the
    run's alone, so that runs share one poison; an attack's own options, and its surrogate's
    recipe, take the attack's name: --pgd.epochs 3

    poisonbench defend --method hint --ratio 0.5
    """
    requests = read_requests(asked, options, method_settings(ctx))
    done = run(requests, options, asked.plan)
    if options.json:
        runs = [_summary(item) for item in done]
        print_json(runs[0] if asked.trials is None else {"runs": runs})


def read_requests(asked: DefendOptions, options: RunOptions, values: Values) -> list[RunRequest]:
    """The runs that a line asks for, one a trial.

    Raises:
        UsageError: options that exclude each other, or a bad value.
    """
    given = [
        flag
        for flag, value in (
            ("--attack", asked.attack),
            ("--poison", asked.poison),
            ("--clean", asked.clean or None),
        )
        if value is not None
    ]
    if len(given) > 1:
        raise UsageError(f"expected one of --attack, --poison and --clean, got {', '.join(given)}")
    attack = "" if asked.poison or asked.clean else asked.attack or "mix"
    poison = PoisonRequest(
        attacks=attack_names(attack) if attack else (),
        path=asked.poison,
        rho=asked.rho,
        selection=parse_value(options.selection, Selection, "--selection"),
        trial=asked.poison_trial,
        profile=asked.attack_profile,
        surrogate=asked.attack_model,
        settings=mix_settings(attack),
    )
    settings, poison = split_values(values, poison)
    request = RunRequest(
        method=asked.method,
        dataset=choose_dataset(asked.dataset, options.preset, options.quiet, asked.attack),
        poison=poison,
        profile=options.profile,
        settings=settings,
        model=options.model,
        seed=options.seed,
        trial=asked.trial,
        save_model=asked.save_model,
    )
    return [request.at(asked.trial + number) for number in range(asked.trials or 1)]


def run(
    requests: Sequence[RunRequest], options: RunOptions, plan: str | None = None
) -> list[Defended]:
    """Train what is asked for, or find it, and print a line on each unless it shall be JSON.

    Args:
        requests: of one seed; all of them are checked before the first is trained.
        options: where, and how it is shown.
        plan: the digest of the sweep's plan, for the records.
    """
    from poisonbench.runs.defend import defend, resolve_run

    done = []
    with open_bench(options, plan) as bench:
        for request in requests if len(requests) > 1 else ():
            resolve_run(bench, request)
        for request in requests:
            done.append(defend(bench, request))
            if not options.json:
                _print_line(done[-1], options.quiet)
    return done


def _print_line(item: Defended, quiet: bool) -> None:
    from poisonbench.runs.defend import describe_poison

    record = item.record
    if not item.is_new:
        say("done before; here is its record", quiet=quiet)
        source = repr(record.labels.source)
        for path, digest in plugin_files().items():
            if (name := Path(path).name) in source and digest not in source:
                say(f"warning: done with another {name}; raise its VERSION", quiet=quiet)
    accuracy = 100 * record.metrics.test_accuracy
    print(
        f"{record.spec.method} on {shown_name(record.labels.dataset)}, "
        f"{describe_poison(record.spec.poison)}, trial {record.spec.trial}: "
        f"test accuracy {accuracy:.2f} %, {_verdict(record)}"
        f"{record.cost.seconds.total:.0f} s, {item.path}"
    )
    for sentence in record.warnings:
        say(f"warning: {sentence}", quiet=quiet)


def _verdict(record: RunRecord) -> str:
    """``"target 17 taken for class 3: the attack succeeds, "``; empty when untargeted."""
    if record.spec.targeting is None:
        return ""
    goal, answer = record.on_target
    if record.spec.poison is None:
        outcome = "no attack"
    else:
        outcome = "the attack succeeds" if answer.success else "the attack fails"
    return (
        f"test image {goal.target} (class {goal.target_class}, intended "
        f"{goal.intended_class}) taken for class {answer.prediction}: {outcome}, "
    )


def _summary(item: Defended) -> dict[str, Any]:
    record = item.record
    return {
        "id": record.id,
        "path": str(item.path),
        "method": record.spec.method,
        "dataset": record.spec.dataset.name,
        "rho": record.spec.rho,
        "trial": record.spec.trial,
        "test_accuracy": record.metrics.test_accuracy,
        "attack_success": record.metrics.attack_success,
        "seconds": record.cost.seconds.total,
        "is_new": item.is_new,
    }
