"""``poisonbench defend``: train under a defense."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poisonbench.cli.common import (
    DEFAULT_DATA_ROOT,
    DEFAULT_RESULTS,
    DataRootOption,
    DeviceOption,
    JsonOption,
    QuietOption,
    ResultsOption,
    SeedOption,
    print_json,
    say,
)
from poisonbench.cli.craft import (
    DatasetOption,
    ModelOption,
    PresetOption,
    ProfileOption,
    SelectionOption,
    flags_of,
)
from poisonbench.cli.method_options import method_values
from poisonbench.cli.session import choose_dataset, open_bench
from poisonbench.errors import UsageError
from poisonbench.registry import defenses, find

if TYPE_CHECKING:
    from poisonbench.runs.defend import Defended, PoisonChoice

#: The ratio of the paper's sensitivity study (its Table IV).
DEFAULT_RHO = 0.6


def defend(
    ctx: typer.Context,
    method: Annotated[str, typer.Option("--method", help="none or hint.")],
    dataset: DatasetOption = None,
    attack: Annotated[
        str | None,
        typer.Option(
            "--attack", help="pgd, dap, durp, dc, names joined by +, or mix (the default)."
        ),
    ] = None,
    poison: Annotated[
        Path | None, typer.Option("--poison", help="A poison artefact to train on, as it is.")
    ] = None,
    clean: Annotated[bool, typer.Option("--clean", help="Train on clean data.")] = False,
    rho: Annotated[
        float | None,
        typer.Option("--rho", help=f"Share of poisoned images; {DEFAULT_RHO} by default."),
    ] = None,
    trial: Annotated[int, typer.Option("--trial", min=0, help="Which trial, from 0.")] = 0,
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="Run this many trials, from --trial on.")
    ] = None,
    poison_trial: Annotated[
        int, typer.Option("--poison-trial", min=0, help="Which draw of the poison.")
    ] = 0,
    selection: SelectionOption = "stratified",
    model: ModelOption = None,
    save_model: Annotated[
        bool, typer.Option("--save-model", help="Keep the trained weights, as safetensors.")
    ] = False,
    profile: ProfileOption = "paper",
    preset: PresetOption = None,
    results: ResultsOption = DEFAULT_RESULTS,
    data_root: DataRootOption = DEFAULT_DATA_ROOT,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    plan: Annotated[
        str | None, typer.Option("--plan", hidden=True, help="The sweep's plan, for the record.")
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a classifier on poisoned data under a defense; a record in the results folder.

    Poisons that are missing are crafted first and kept. A run that is done is not done again.

    poisonbench defend --method hint --ratio 0.5
    """
    entry = find("a defense", defenses(), method)
    values = method_values(ctx.args, flags_of(ctx), [entry])
    choice = read_choice(attack, poison, clean, rho, selection, poison_trial)
    from poisonbench.runs import defend as run

    done = []
    with open_bench(results, data_root, device, seed, quiet, plan) as bench:
        data = bench.dataset(choose_dataset(dataset, preset, quiet))
        for number in range(trial, trial + (trials or 1)):
            done.append(
                run.defend(
                    bench,
                    method,
                    data,
                    choice,
                    trial=number,
                    profile=profile,
                    values=values,
                    model=model,
                    save_model=save_model,
                )
            )
            if not json:
                _print_line(done[-1], quiet)
    if json:
        runs = [_summary(item) for item in done]
        print_json(runs[0] if trials is None else {"runs": runs})


def read_choice(
    attack: str | None,
    poison: Path | None,
    clean: bool,
    rho: float | None,
    selection: str,
    poison_trial: int,
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
    from poisonbench.runs.defend import PoisonChoice
    from poisonbench.runs.settings import read_selection

    return PoisonChoice(
        attacks=() if poison or clean else attack_names(attack or "mix"),
        path=poison,
        rho=0.0 if clean else DEFAULT_RHO if rho is None else rho,
        selection=read_selection(selection),
        trial=poison_trial,
    )


def _print_line(item: Defended, quiet: bool) -> None:
    from poisonbench.runs.defend import describe_poison

    record = item.record
    if not item.is_new:
        say("done before; here is its record", quiet=quiet)
    accuracy = 100 * record.metrics["test_accuracy"]
    print(
        f"{record.spec['method']} on {record.spec['dataset']['name']}, "
        f"{describe_poison(record.spec['poison'])}, trial {record.spec['trial']}: "
        f"test accuracy {accuracy:.2f} %, {record.cost['seconds']['total']:.0f} s, {item.path}"
    )
    for sentence in record.warnings:
        say(f"warning: {sentence}", quiet=quiet)


def _summary(item: Defended) -> dict[str, Any]:
    record = item.record
    return {
        "id": record.id,
        "path": str(item.path),
        "method": record.spec["method"],
        "dataset": record.spec["dataset"]["name"],
        "rho": record.spec["poison"]["rho"] if record.spec["poison"] else 0.0,
        "trial": record.spec["trial"],
        "test_accuracy": record.metrics["test_accuracy"],
        "attack_success": record.metrics["attack_success"],
        "seconds": record.cost["seconds"]["total"],
        "is_new": item.is_new,
    }
