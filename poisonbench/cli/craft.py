"""``poisonbench craft``: make poisons."""

from __future__ import annotations

from typing import Annotated

import typer

from poisonbench.cli.common import DatasetOption, print_json, say
from poisonbench.cli.method_options import flags_of, method_values
from poisonbench.cli.session import (
    RunOptions,
    choose_dataset,
    open_bench,
    takes_run_options,
)
from poisonbench.registry import attacks


@takes_run_options
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
    *,
    options: RunOptions,
) -> None:
    """Make poisons: an artefact in the results folder, found again the next time.

    poisonbench craft --attack pgd --dataset mnist-sample
    """
    from poisonbench.runs import craft as run
    from poisonbench.runs.settings import read_selection

    names = run.attack_names(attack)
    values = method_values(ctx.args, flags_of(ctx), [attacks()[name] for name in names])
    with open_bench(options) as bench:
        crafted = run.craft(
            bench,
            names,
            bench.dataset(choose_dataset(dataset, options.preset, options.quiet)),
            rho=rho,
            selection=read_selection(options.selection),
            trial=trial,
            profile=options.profile,
            values=values,
            model=options.model,
        )
    card = crafted.poison.card
    if options.json:
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
        say("made before; delete the folder to make it again", quiet=options.quiet)
    say(
        f"{card['num_poisons']:,} poisons, largest change {card['measured']['max_abs_levels']}/255 "
        f"of {card['levels']}/255 allowed",
        quiet=options.quiet,
    )
    print(crafted.path)
