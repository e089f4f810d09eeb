"""``poisonbench defend``: train under a defense."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poisonbench.cli.common import (
    DatasetOption,
    command_app,
    print_json,
    say,
)
from poisonbench.cli.method_options import CONTEXT, MethodCommand, flags_of, method_values
from poisonbench.cli.session import (
    RunOptions,
    choose_dataset,
    open_bench,
    takes,
)
from poisonbench.core.errors import UsageError
from poisonbench.registry import attacks, defenses, find

if TYPE_CHECKING:
    from poisonbench.results.records import RunRecord
    from poisonbench.runs.defend import Defended
    from poisonbench.runs.poisoned_data import PoisonChoice


app = command_app()


@app.command("defend", cls=MethodCommand, context_settings=CONTEXT)
@takes(RunOptions)
def defend(
    ctx: typer.Context,
    method: Annotated[str, typer.Option("--method", help="One of `poisonbench list defenses`.")],
    dataset: DatasetOption = None,
    attack: Annotated[
        str | None,
        typer.Option(
            "--attack",
            help="One of `poisonbench list attacks`, untargeted ones joined by +, or mix.",
        ),
    ] = None,
    poison: Annotated[
        Path | None, typer.Option("--poison", help="A poison artefact to train on, as it is.")
    ] = None,
    clean: Annotated[bool, typer.Option("--clean", help="Train on clean data.")] = False,
    rho: Annotated[
        float | None,
        typer.Option(
            "--rho",
            help="Share of poisoned images; 0.6 by default, a targeted attack's own is 0.01.",
        ),
    ] = None,
    trial: Annotated[int, typer.Option("--trial", min=0, help="Which trial, from 0.")] = 0,
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="Run this many trials, from --trial on.")
    ] = None,
    poison_trial: Annotated[
        int, typer.Option("--poison-trial", min=0, help="Which draw of the poison.")
    ] = 0,
    attack_profile: Annotated[
        str, typer.Option("--attack-profile", help="A targeted attack's, e.g. fc's watermark.")
    ] = "paper",
    save_model: Annotated[
        bool, typer.Option("--save-model", help="Keep the trained weights, as safetensors.")
    ] = False,
    plan: Annotated[
        str | None, typer.Option("--plan", hidden=True, help="The sweep's plan, for the record.")
    ] = None,
    *,
    options: RunOptions,
) -> None:
    """Train a classifier on poisoned data under a defense; a record in the results folder.

    Poisons that are missing are crafted first and kept. A run that is done is not done again.

    poisonbench defend --method hint --ratio 0.5
    """
    entry = find("a defense", defenses(), method)
    chosen = [attacks()[attack]] if attack in attacks() else []
    values = method_values(ctx.args, flags_of(ctx), [entry, *chosen])
    asked: dict[str, Any] = {
        "profile": options.profile,
        "values": values,
        "model": options.model,
    }
    choice = read_choice(
        attack, poison, clean, rho, options.selection, poison_trial, attack_profile
    )
    from poisonbench.runs import defend as run

    done = []
    with open_bench(options, plan) as bench:
        name = choose_dataset(dataset, options.preset, options.quiet, attack)
        data = bench.dataset(name)
        numbers = range(trial, trial + (trials or 1))
        # All of them before the first is trained.
        for number in numbers if trials else ():
            run.request(bench, method, data, choice, trial=number, **asked)
        for number in numbers:
            made = run.defend(
                bench, method, data, choice, trial=number, save_model=save_model, **asked
            )
            done.append(made)
            if not options.json:
                _print_line(made, options.quiet)
    if options.json:
        runs = [_summary(item) for item in done]
        print_json(runs[0] if trials is None else {"runs": runs})


def read_choice(
    attack: str | None,
    poison: Path | None,
    clean: bool,
    rho: float | None,
    selection: str,
    poison_trial: int,
    attack_profile: str = "paper",
) -> PoisonChoice:
    """The poison that the options ask for.

    Raises:
        UsageError: options that exclude each other, or a bad value.
    """
    given = [
        flag
        for flag, value in (("--attack", attack), ("--poison", poison), ("--clean", clean or None))
        if value is not None
    ]
    if len(given) > 1:
        raise UsageError(f"expected one of --attack, --poison and --clean, got {', '.join(given)}")
    if rho is not None and (poison is not None or clean):
        raise UsageError(f"expected --rho with --attack, got it with {given[0]}; leave it out")
    from poisonbench.runs.craft import attack_names
    from poisonbench.runs.method_settings import read_selection
    from poisonbench.runs.poisoned_data import PoisonChoice

    return PoisonChoice(
        attacks=() if poison or clean else attack_names(attack or "mix"),
        path=poison,
        rho=0.0 if clean else rho,
        selection=read_selection(selection),
        trial=poison_trial,
        profile=attack_profile,
    )


def _print_line(item: Defended, quiet: bool) -> None:
    from poisonbench.runs.defend import describe_poison

    record = item.record
    if not item.is_new:
        say("done before; here is its record", quiet=quiet)
    accuracy = 100 * record.metrics.test_accuracy
    print(
        f"{record.spec.method} on {record.spec.dataset.name}, "
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
