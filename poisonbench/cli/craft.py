"""``poisonbench craft``: make poisons."""

from __future__ import annotations

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
from poisonbench.cli.method_options import method_values
from poisonbench.cli.session import choose_dataset, open_bench
from poisonbench.registry import attacks

if TYPE_CHECKING:
    from poisonbench.runs.craft import Crafted

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
        str,
        typer.Option(
            "--attack",
            help="gm, bp, fc, mp, pgd, dap, durp, dc, untargeted names joined by +, or mix.",
        ),
    ],
    dataset: DatasetOption = None,
    rho: Annotated[
        float | None,
        typer.Option(
            "--rho",
            help="Share of training images to poison; by default all, and 0.01 when targeted.",
        ),
    ] = None,
    trial: Annotated[int, typer.Option("--trial", min=0, help="Which draw of everything.")] = 0,
    trials: Annotated[
        int | None,
        typer.Option(
            "--trials", min=1, help="Craft this many, from --trial on; targeted: at once."
        ),
    ] = None,
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
    from poisonbench.runs.craft import attack_names
    from poisonbench.runs.settings import read_selection
    from poisonbench.runs.targeted import craft_trials

    names = attack_names(attack)
    values = method_values(ctx.args, flags_of(ctx), [attacks()[name] for name in names])
    with open_bench(results, data_root, device, seed, quiet) as bench:
        made = craft_trials(
            bench,
            names,
            bench.dataset(choose_dataset(dataset, preset, quiet)),
            range(trial, trial + (trials or 1)),
            rho=rho,
            selection=read_selection(selection),
            profile=profile,
            values=values,
            model=model,
        )
    if json:
        poisons = [_summary(crafted) for crafted in made]
        print_json(poisons[0] if trials is None else {"poisons": poisons})
        return
    for crafted in made:
        card = crafted.poison.card
        if not crafted.is_new:
            say("made before; delete the folder to make it again", quiet=quiet)
        say(
            f"{card['num_poisons']:,} poisons, largest change "
            f"{card['measured']['max_abs_levels']}/255 of {card['levels']}/255 allowed",
            quiet=quiet,
        )
        print(crafted.path)


def _summary(crafted: Crafted) -> dict[str, Any]:
    card = crafted.poison.card
    return {
        "id": crafted.id,
        "path": str(crafted.path),
        "attack": "+".join(card["attacks"]),
        "dataset": card["dataset"]["name"],
        "goal": card["goal"],
        "num_poisons": card["num_poisons"],
        "epsilon": card["epsilon"],
        "max_abs_delta": card["measured"]["max_abs_levels"] / 255,
        "digest": card["digest"],
        "is_new": crafted.is_new,
    }


def flags_of(ctx: typer.Context) -> list[str]:
    """A command's own flags."""
    return [flag for parameter in ctx.command.params for flag in parameter.opts]
