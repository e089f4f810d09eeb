"""``poisonbench import``: published poison sets as artefacts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from poisonbench.cli.common import (
    Command,
    DataRootOption,
    DatasetOption,
    JsonOption,
    QuietOption,
    ResultsOption,
    SeedOption,
    command_app,
    print_json,
)
from poisonbench.cli.craft import show_crafted, summary
from poisonbench.cli.session import RunOptions, open_bench
from poisonbench.core.folders import DEFAULT_DATA_ROOT, DEFAULT_RESULTS
from poisonbench.core.settings import options_of, parse_value
from poisonbench.targeting import Targeting

#: What the published sets were made for.
PUBLISHED_DATASET = "cifar10"


app = command_app()


@app.command("import", cls=Command)
def import_(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="Sets: folders for benchmark, else files."),
    ],
    form: Annotated[
        str,
        typer.Option(
            "--format", help="benchmark, gradient-matching, metapoison, tensors or dc-generator."
        ),
    ],
    dataset: DatasetOption = None,
    std: Annotated[
        str | None,
        typer.Option("--std", help="gradient-matching: whose units deltas are in, hint or pgm."),
    ] = None,
    ids: Annotated[
        str,
        typer.Option(
            "--ids", help="gradient-matching: what its ids count, hint's split or original images."
        ),
    ] = "hint",
    attack: Annotated[
        str | None, typer.Option("--attack", help="What made it, as a label; the format's name.")
    ] = None,
    scenario: Annotated[
        str, typer.Option("--scenario", help="How its victims train: scratch, transfer, finetune.")
    ] = "scratch",
    epsilon: Annotated[
        str | None,
        typer.Option(
            "--epsilon",
            help="Budget to hold it to, such as 8/255; as measured, of a generator DC's.",
        ),
    ] = None,
    results: ResultsOption = DEFAULT_RESULTS,
    data_root: DataRootOption = DEFAULT_DATA_ROOT,
    seed: SeedOption = 0,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Read published poison sets into the results folder, for defend --poison.

    They are pickles; what they hold is read as data, and nothing in them is run. dc-generator takes
    the weights of DeepConfuse's generator, and has it perturb every training image.
    """
    from poisonbench.data.poison_sets import Format, Ids, Std, files_of
    from poisonbench.runs.importing import import_poison

    scenarios = {option.name: option.kind for option in options_of(Targeting)}["scenario"]
    settings: dict[str, Any] = {
        "std": None if std is None else parse_value(std, Std, "--std"),
        "ids": parse_value(ids, Ids, "--ids"),
        "scenario": parse_value(scenario, scenarios, "--scenario"),
        "epsilon": None if epsilon is None else parse_value(epsilon, float, "--epsilon"),
        "attack": attack,
    }
    kind: Format = parse_value(form, Format, "--format")
    for path in paths:
        if not path.exists():
            files_of(path, kind)
    options = RunOptions(
        results=results, data_root=data_root, device="cpu", seed=seed, json=json, quiet=quiet
    )
    with open_bench(options) as bench:
        data = bench.dataset(dataset or PUBLISHED_DATASET)
        made = [import_poison(bench, path, kind, data, **settings) for path in paths]
    if json:
        poisons = [summary(crafted) for crafted in made]
        print_json(poisons[0] if len(paths) == 1 else {"poisons": poisons})
        return
    for crafted in made:
        show_crafted(crafted, quiet)
