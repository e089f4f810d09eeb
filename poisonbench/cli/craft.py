"""``poisonbench craft``: make poisons."""

from __future__ import annotations

from typing import Annotated

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
from poisonbench.cli.method_options import method_values
from poisonbench.cli.session import choose_dataset, open_bench
from poisonbench.registry import attacks

DatasetOption = Annotated[
    str | None,
    typer.Option(
        "--dataset", help="mnist-sample, mnist, cifar10, fashion-mnist, npz:PATH or folder:PATH."
    ),
]
PresetOption = Annotated[
    str | None, typer.Option("--preset", help="quick: the embedded sample, for a CPU.")
]
ProfileOption = Annotated[
    str, typer.Option("--profile", help="paper, or code where the reference code differs.")
]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="Network; by default the paper's for the data.")
]
SelectionOption = Annotated[
    str, typer.Option("--selection", help="How poisoned images are drawn: stratified or uniform.")
]


def craft(
    ctx: typer.Context,
    attack: Annotated[
        str, typer.Option("--attack", help="pgd, dap, durp, dc, names joined by +, or mix.")
    ],
    dataset: DatasetOption = None,
    rho: Annotated[
        float | None,
        typer.Option("--rho", help="Share of training images to poison; by default all."),
    ] = None,
    trial: Annotated[int, typer.Option("--trial", min=0, help="Which draw of everything.")] = 0,
    selection: SelectionOption = "stratified",
    model: ModelOption = None,
    profile: ProfileOption = "paper",
    preset: PresetOption = None,
    results: ResultsOption = DEFAULT_RESULTS,
    data_root: DataRootOption = DEFAULT_DATA_ROOT,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make poisons: an artefact in the results folder, found again the next time.

    poisonbench craft --attack pgd --dataset mnist-sample
    """
    from poisonbench.runs import craft as run
    from poisonbench.runs.settings import read_selection

    names = run.attack_names(attack)
    values = method_values(ctx.args, flags_of(ctx), [attacks()[name] for name in names])
    with open_bench(results, data_root, device, seed, quiet) as bench:
        crafted = run.craft(
            bench,
            names,
            bench.dataset(choose_dataset(dataset, preset, quiet)),
            rho=rho,
            selection=read_selection(selection),
            trial=trial,
            profile=profile,
            values=values,
            model=model,
        )
    card = crafted.poison.card
    if json:
        print_json(
            {
                "id": crafted.id,
                "path": str(crafted.path),
                "attack": "+".join(card["attacks"]),
                "dataset": card["dataset"]["name"],
                "num_poisons": card["num_poisons"],
                "epsilon": card["epsilon"],
                "max_abs_delta": card["measured"]["max_abs_levels"] / 255,
                "digest": card["digest"],
                "is_new": crafted.is_new,
            }
        )
        return
    if not crafted.is_new:
        say("made before; delete the folder to make it again", quiet=quiet)
    say(
        f"{card['num_poisons']:,} poisons, largest change {card['measured']['max_abs_levels']}/255 "
        f"of {card['levels']}/255 allowed",
        quiet=quiet,
    )
    print(crafted.path)


def flags_of(ctx: typer.Context) -> list[str]:
    """A command's own flags."""
    return [flag for parameter in ctx.command.params for flag in parameter.opts]
