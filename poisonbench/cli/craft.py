"""``poisonbench craft``: make poisons."""

from __future__ import annotations

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
from poisonbench.registry import attacks

if TYPE_CHECKING:
    from poisonbench.runs.craft import Crafted


app = command_app()


@app.command("craft", cls=MethodCommand, context_settings=CONTEXT)
@takes(RunOptions)
def craft(
    ctx: typer.Context,
    attack: Annotated[
        str,
        typer.Option(
            "--attack",
            help="One of `poisonbench list attacks`, untargeted ones joined by +, or mix.",
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
    *,
    options: RunOptions,
) -> None:
    """Make poisons: an artefact in the results folder, found again the next time.

    poisonbench craft --attack pgd --dataset mnist-sample
    """
    from poisonbench.runs.craft import attack_names
    from poisonbench.runs.craft_targeted import craft_trials
    from poisonbench.runs.method_settings import read_selection

    names = attack_names(attack)
    values = method_values(ctx.args, flags_of(ctx), [attacks()[name] for name in names])
    with open_bench(options) as bench:
        made = craft_trials(
            bench,
            names,
            bench.dataset(choose_dataset(dataset, options.preset, options.quiet, attack)),
            range(trial, trial + (trials or 1)),
            rho=rho,
            selection=read_selection(options.selection),
            profile=options.profile,
            values=values,
            model=options.model,
        )
    if options.json:
        poisons = [summary(crafted) for crafted in made]
        print_json(poisons[0] if trials is None else {"poisons": poisons})
        return
    for crafted in made:
        show_crafted(crafted, options.quiet)


def show_crafted(crafted: Crafted, quiet: bool) -> None:
    """A poison's path on stdout, and remarks on it."""
    card = crafted.poison.card
    if not crafted.is_new:
        say("made before; delete the folder to make it again", quiet=quiet)
    say(
        f"{card['num_poisons']:,} poisons, largest change "
        f"{card['measured']['max_abs_levels']}/255 of {card['levels']}/255 allowed",
        quiet=quiet,
    )
    print(crafted.path)


def summary(crafted: Crafted) -> dict[str, Any]:
    """A poison as ``--json`` shows it."""
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
