"""``poisonbench craft``: make poisons."""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, Any

import typer
from msgspec import to_builtins

from poisonbench.cli import common
from poisonbench.cli.answers import answer
from poisonbench.cli.long_work import remark_on_long_work
from poisonbench.cli.method_options import CONTEXT, MethodCommand, method_settings, named_mix
from poisonbench.cli.planned_job import check_job
from poisonbench.cli.session import RunOptions, choose_dataset, open_context
from poisonbench.core.settings import parse_value
from poisonbench.registry import Mix
from poisonbench.requests import CraftRequest, Sampling, Values, poison_request

if TYPE_CHECKING:
    from poisonbench.runs.poison import Crafted


app = common.command_app()


@dataclass(frozen=True, kw_only=True)
class CraftOptions(RunOptions):
    """The options of ``craft``."""

    attack: str = common.option(MISSING, common.ATTACK_HELP)
    dataset: common.DatasetOption = None
    rho: float | None = common.option(
        None,
        "Share of training images to poison; by default all, 0.01 when targeted, its paper's "
        "of a trigger.",
    )
    trial: int = common.option(0, "Which draw of everything.", min=0)
    trials: int | None = common.option(
        None, "Craft this many, from --trial on; targeted: at once.", min=1
    )


@app.command("craft", cls=MethodCommand, context_settings=CONTEXT)
@common.takes(CraftOptions)
def craft(ctx: typer.Context, options: CraftOptions) -> None:
    """Make poisons: an artefact in the results folder, found again the next time.

    poisonbench craft --attack pgd --dataset mnist-sample
    """
    poisons = run(read_requests(options, method_settings(ctx), named_mix(ctx)), options)
    if options.json:
        common.print_items(
            "poisons", [summary(crafted) for crafted in poisons], options.trials is None
        )


def read_requests(options: CraftOptions, values: Values, mix: Mix | None) -> list[CraftRequest]:
    """The poisons that a line asks for, one a trial; raises UsageError for a bad value."""
    _, poison = poison_request(
        mix,
        values,
        to_craft=True,
        rho=options.rho,
        selection=parse_value(options.selection, Sampling, "--selection"),
        trial=options.trial,
        profile=options.profile,
        surrogate=options.model,
    )
    dataset = choose_dataset(options.dataset, options.preset, options.quiet, options.attack)
    request = CraftRequest(dataset=dataset, poison=poison, seed=options.seed)
    return [request.at(options.trial + number) for number in range(options.trials or 1)]


def run(
    requests: Sequence[CraftRequest], options: RunOptions, job: str | None = None
) -> "list[Crafted]":
    """Craft poisons that differ in their trial alone, or find them; print paths unless JSON.

    ``job`` is the id of each in a sweep's plan.
    """
    from poisonbench.runs.craft import craft
    from poisonbench.runs.poison import resolve_crafting

    trials = [request.poison.trial for request in requests]
    with open_context(options) as context:
        own = context.seeded(requests[0].seed)
        dataset = own.dataset(requests[0].dataset)
        resolved = [resolve_crafting(own, dataset, request.poison) for request in requests]
        pools = [pool for poison in resolved for pool in poison.pools.values()]
        for pool in pools:
            check_job(job, pool.id)
        epochs = max(pool.settings.recipe.epochs for pool in pools)
        remark_on_long_work(own, requests, resolved, epochs)
        poisons = craft(context, requests[0], trials)
    for crafted in () if options.json else poisons:
        show_crafted(crafted, options.quiet)
    return poisons


def show_crafted(crafted: "Crafted", quiet: bool) -> None:
    """A poison's path on stdout, and remarks on it."""
    card = crafted.poison.card
    if not crafted.is_new:
        common.say("made before; delete the folder to make it again", quiet=quiet)
    common.say(
        f"{card.num_poisons:,} poisons, {card.change_text}",
        quiet=quiet,
    )
    answer(str(crafted.poison.path))


def summary(crafted: "Crafted") -> dict[str, Any]:
    """A poison as ``--json`` shows it."""
    card = crafted.poison.card
    return {
        "id": crafted.poison.id,
        "path": str(crafted.poison.path),
        "attack": "+".join(card.attacks),
        "dataset": card.dataset.name,
        "goal": to_builtins(card.goal),
        "num_poisons": card.num_poisons,
        "norm": card.norm,
        "epsilon": card.epsilon,
        "max_abs_delta": card.measured.max_abs_levels / 255,
        "digest": card.digest,
        "is_new": crafted.is_new,
    }
