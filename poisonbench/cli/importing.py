"""``poisonbench import``: published poison sets as artefacts."""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from poisonbench.cli import common
from poisonbench.cli.craft import show_crafted, summary
from poisonbench.cli.session import SharedOptions, open_context
from poisonbench.core.errors import UsageError
from poisonbench.core.settings import options_of, parse_value
from poisonbench.targeting import Targeting

if TYPE_CHECKING:
    from poisonbench.runs.poison import Crafted

#: What the published sets were made for.
PUBLISHED_DATASET = "cifar10"


app = common.command_app()


@dataclass(frozen=True, kw_only=True)
class _ImportOptions(SharedOptions):
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="Sets: folders for benchmark, else files."),
    ]
    format: str = common.option(
        MISSING,
        "benchmark, gradient-matching, metapoison, tensors or dc-generator; of `poisonbench "
        "export` npz, imagefolder or croissant.",
    )
    dataset: common.DatasetOption = None
    std: str | None = common.option(
        None, "gradient-matching: whose units deltas are in, hint or pgm."
    )
    ids: str = common.option(
        "hint", "gradient-matching: what its ids count, hint's split or original images."
    )
    attack: str | None = common.option(None, "What made it, as a label; the format's name.")
    scenario: str = common.option("scratch", "How its victims train: scratch, transfer, finetune.")
    epsilon: str | None = common.option(
        None, "Budget to hold it to, such as 8/255; as measured, of a generator DC's."
    )


@app.command("import", cls=common.Command)
@common.takes(_ImportOptions)
def import_(options: _ImportOptions) -> None:
    """Read published poison sets into the results folder, for defend --poison.

    They are pickles; what they hold is read as data, and nothing in them is run. dc-generator takes
    the weights of DeepConfuse's generator, and has it perturb every training image. What `export`
    wrote becomes the artefact that it was.
    """
    from poisonbench.data.exchange import Exchange
    from poisonbench.data.poison_sets import Format, Ids, Std, files_of
    from poisonbench.runs.importing import import_poison

    kind_of = {setting.name: setting.kind for setting in options_of(Targeting)}
    kinds = {"std": Std, "ids": Ids, "scenario": kind_of["scenario"], "epsilon": float}
    given = {name: getattr(options, name) for name in kinds}
    settings: dict[str, Any] = {
        name: None if text is None else parse_value(text, kinds[name], f"--{name}")
        for name, text in given.items()
    }
    form = parse_value(options.format, Literal[Format, Exchange], "--format")
    if form in get_args(Exchange):
        own = ("std", "attack", "epsilon", "ids", "scenario")
        defaults = {"ids": "hint", "scenario": "scratch"}
        for name in own:
            if getattr(options, name) != defaults.get(name):
                raise UsageError(
                    f"--{name}: expected it with a published set, got it with --format {form}, "
                    "whose card says it; leave it out"
                )
        _show(_import_exchange(options, form), options)
        return
    kind: Format = form
    for path in options.paths:
        if not path.exists():
            files_of(path, kind)
    with open_context(options) as context:
        data = context.dataset(options.dataset or PUBLISHED_DATASET)
        poisons = [
            import_poison(context, path, kind, data, attack=options.attack, **settings)
            for path in options.paths
        ]
    _show(poisons, options)


def _import_exchange(options: _ImportOptions, form: Any) -> "list[Crafted]":
    """What `export` wrote, as the artefact that it was."""
    from poisonbench.runs.importing import import_exchange

    with open_context(options) as context:
        return [import_exchange(context, path, form, options.dataset) for path in options.paths]


def _show(poisons: "Sequence[Crafted]", options: _ImportOptions) -> None:
    if options.json:
        common.print_items("poisons", [summary(poison) for poison in poisons], len(poisons) == 1)
        return
    for poison in poisons:
        show_crafted(poison, options.quiet)
