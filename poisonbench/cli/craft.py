"""``poisonbench craft``: make poisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from poisonbench.core.settings import parse_value
from poisonbench.requests import (
    CraftRequest,
    PoisonRequest,
    Selection,
    Values,
    attack_names,
    mix_settings,
    split_values,
)

if TYPE_CHECKING:
    from poisonbench.runs.poison import Crafted


app = command_app()


@dataclass(frozen=True, kw_only=True)
class CraftOptions:
    """The options of ``craft`` alone, in the order of its help."""

    attack: Annotated[
        str,
        typer.Option(
            "--attack",
            help="One of `poisonbench list attacks`, untargeted ones joined by +, or a mix.",
        ),
    ]
    dataset: DatasetOption = None
    rho: Annotated[
        float | None,
        typer.Option(
            "--rho",
            help="Share of training images to poison; by default all, and 0.01 when targeted.",
        ),
    ] = None
    trial: Annotated[int, typer.Option("--trial", min=0, help="Which draw of everything.")] = 0
    trials: Annotated[
        int | None,
        typer.Option(
            "--trials", min=1, help="Craft this many, from --trial on; targeted: at once."
        ),
    ] = None


@app.command("craft", cls=MethodCommand, context_settings=CONTEXT)
@takes(CraftOptions, "asked")
@takes(RunOptions)
def craft(ctx: typer.Context, *, asked: CraftOptions, options: RunOptions) -> None:
    """Make poisons: an artefact in the results folder, found again the next time.

    poisonbench craft --attack pgd --dataset mnist-sample
    """
    requests = read_requests(asked, options, method_settings(ctx))
    poisons = run(requests, options)
    if options.json:
        shown = [summary(crafted) for crafted in poisons]
        print_json(shown[0] if asked.trials is None else {"poisons": shown})


def read_requests(asked: CraftOptions, options: RunOptions, values: Values) -> list[CraftRequest]:
    """The poisons that a line asks for, one a trial.

    Raises:
        UsageError: a bad value.
    """
    poison = PoisonRequest(
        attacks=attack_names(asked.attack),
        rho=asked.rho,
        selection=parse_value(options.selection, Selection, "--selection"),
        trial=asked.trial,
        profile=options.profile,
        surrogate=options.model,
        settings=mix_settings(asked.attack),
    )
    _, poison = split_values(values, poison, to_craft=True)
    dataset = choose_dataset(asked.dataset, options.preset, options.quiet, asked.attack)
    request = CraftRequest(dataset=dataset, poison=poison, seed=options.seed)
    return [request.at(asked.trial + number) for number in range(asked.trials or 1)]


def run(requests: Sequence[CraftRequest], options: RunOptions) -> list[Crafted]:
    """Craft what is asked for, or find it, and print its path unless it shall be JSON.

    Args:
        requests: that differ in their trial alone.
        options: where, and how it is shown.
    """
    from poisonbench.runs.craft import craft

    trials = [request.poison.trial for request in requests]
    with open_bench(options) as bench:
        poisons = craft(bench, requests[0], trials)
    for crafted in () if options.json else poisons:
        show_crafted(crafted, options.quiet)
    return poisons


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
    print(crafted.poison.path)


def summary(crafted: Crafted) -> dict[str, Any]:
    """A poison as ``--json`` shows it."""
    card = crafted.poison.card
    return {
        "id": crafted.poison.id,
        "path": str(crafted.poison.path),
        "attack": "+".join(card["attacks"]),
        "dataset": card["dataset"]["name"],
        "goal": card["goal"],
        "num_poisons": card["num_poisons"],
        "epsilon": card["epsilon"],
        "max_abs_delta": card["measured"]["max_abs_levels"] / 255,
        "digest": card["digest"],
        "is_new": crafted.is_new,
    }
