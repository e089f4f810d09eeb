"""``poisonbench figure``: a paper's figures as PNG and SVG, with their numbers as JSON.

Typer shows the command's own docstring to the user, so what it raises stands here: a UsageError for
options that the figure lacks, an ArtefactError for runs or models that are missing, a StoreError
for a folder that cannot be written.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poisonbench.cli.common import (
    DataRootOption,
    DatasetOption,
    DeviceOption,
    JsonOption,
    QuietOption,
    ResultsOption,
    SeedOption,
    places,
    print_json,
    say,
)
from poisonbench.cli.method_options import flags_of, method_values
from poisonbench.cli.session import RunOptions, choose_dataset, open_bench
from poisonbench.core.errors import ArtefactError, UsageError
from poisonbench.core.folders import DEFAULT_DATA_ROOT, DEFAULT_RESULTS
from poisonbench.core.settings import did_you_mean
from poisonbench.figures.drawing import Figure, write_figure
from poisonbench.registry import defenses
from poisonbench.results.store import Store
from poisonbench.tables.cells import TARGETED_SAMPLE, is_run_on

if TYPE_CHECKING:
    from poisonbench.runs.workspace import Bench

#: The figures, and which of the options that not all of them have each one has.
FIGURES = {
    "1": ("attack", "rho", "trial", "images", "wrong_label", "profile"),
    "2": ("attack", "rho", "trial", "images", "pick", "methods", "runs", "make"),
    "3": ("attack", "images", "methods"),
    "4": ("attack", "images", "methods"),
    "features": ("attack", "trial", "methods", "runs"),
    "sensitivity": (),
    "filter-k": (),
}

#: Those drawn from records alone.
CURVES = ("sensitivity", "filter-k")

#: The figures of targeted attacks, and the attack that each is of by default.
TARGETS = {"3": "mp", "4": "bp", "features": "bp", "filter-k": "fc"}


def figure(
    ctx: typer.Context,
    figure: Annotated[
        str,
        typer.Option(
            "--figure",
            help="1: HINT's noise; 2: each defense's predictions; 3, 4: of the targets of MP and "
            "BP; features: where poisons lie and what was removed; sensitivity: Table IV as "
            "curves; filter-k: deep k-NN against k.",
        ),
    ],
    dataset: DatasetOption = None,
    attack: Annotated[
        str | None,
        typer.Option(
            "--attack", help="As for defend; mix by default, of 3 mp, of 4 and features bp."
        ),
    ] = None,
    rho: Annotated[
        float | None,
        typer.Option("--rho", help="Poisoned share; 0.6 by default. Figures 1, 2."),
    ] = None,
    trial: Annotated[
        int | None,
        typer.Option("--trial", min=0, help="Which trial; 0 by default. Figures 1, 2, features."),
    ] = None,
    images: Annotated[
        int | None, typer.Option("--images", min=1, max=20, help="How many images. Figures 1 to 4.")
    ] = None,
    wrong_label: Annotated[
        bool, typer.Option("--wrong-label", help="Show the noise of a wrong label too. Figure 1.")
    ] = False,
    profile: Annotated[
        str | None, typer.Option("--profile", help="HINT's profile; paper by default. Figure 1.")
    ] = None,
    pick: Annotated[
        str | None,
        typer.Option("--pick", help="disagree (default) or random: from which images. Figure 2."),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            help="Names joined by commas; all that have models, or runs, if not said. Figures 2 "
            "to 4, features.",
        ),
    ] = None,
    runs: Annotated[
        str | None,
        typer.Option(
            "--runs", help="Instead: ids of runs, of any settings and poison. Figures 2, features."
        ),
    ] = None,
    make: Annotated[
        bool, typer.Option("--make", help="Train the models that are missing. Figure 2.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the files; RESULTS/figures by default.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="quick: the embedded sample, for a CPU.")
    ] = None,
    results: ResultsOption = DEFAULT_RESULTS,
    data_root: DataRootOption = DEFAULT_DATA_ROOT,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw a figure as PNG and SVG, and write its numbers as JSON beside them.

    Figure 1 takes HINT's options too: see `poisonbench list defenses hint`.

    poisonbench figure --figure 1 --wrong-label
    """
    given = {
        "attack": attack,
        "rho": rho,
        "trial": trial,
        "images": images,
        "wrong_label": wrong_label or None,
        "profile": profile,
        "pick": pick,
        "methods": methods,
        "runs": runs,
        "make": make or None,
    }
    options = _own_options(
        figure, {key: value for key, value in given.items() if value is not None}
    )
    values = method_values(ctx.args, flags_of(ctx), [defenses()["hint"]] if figure == "1" else [])
    if values and figure != "1":
        raise UsageError(f"figure {figure} has no option --{next(iter(values)).replace('_', '-')}")
    if figure in TARGETS and dataset is None and preset is None:
        dataset = TARGETED_SAMPLE
        say(f"data set: {dataset}, embedded; the paper's is --dataset cifar10", quiet=quiet)
    name = choose_dataset(dataset, preset, quiet, attack or TARGETS.get(figure))
    folder = results / "figures" if out is None else out
    if figure in CURVES:
        made = _curve(figure, name, results, quiet)
    else:
        surroundings = RunOptions(
            results=results, data_root=data_root, device=device, seed=seed, quiet=quiet
        )
        with open_bench(surroundings) as bench:
            if figure in TARGETS:
                made = _of_targets(figure, bench, name, options, folder)
            else:
                made = _of_images(figure, bench, name, options, values, folder)
    stem = figure if figure in CURVES else f"figure-{figure}"
    paths = [str(path) for path in write_figure(folder, stem, made)]
    if json:
        print_json({"figure": figure, "paths": paths, "numbers": made.numbers})
    else:
        print("\n".join(paths))


def _own_options(figure: str, given: dict[str, Any]) -> dict[str, Any]:
    """What was given, checked against what the figure has."""
    if figure not in FIGURES:
        raise UsageError(
            f"--figure: expected one of {', '.join(FIGURES)}, got {figure!r}"
            f"{did_you_mean(figure, FIGURES)}"
        )
    for option in given:
        if option not in FIGURES[figure]:
            own = ", ".join(_flag(name) for name in FIGURES[figure]) or "none of its own"
            raise UsageError(f"figure {figure} has no option {_flag(option)}; it has {own}")
    if "runs" in given and len(given) > 1:
        clash = [name for name in given if name not in ("runs", "images", "pick")]
        if clash:
            raise UsageError(f"expected --runs without {_flag(clash[0])}: runs say that themselves")
    return given


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _of_images(
    figure: str,
    bench: Bench,
    name: str,
    options: dict[str, Any],
    values: dict[str, str],
    folder: Path,
) -> Figure:
    """Figure 1 or 2."""
    from poisonbench.core.settings import parse_value
    from poisonbench.figures import healthy_noise, predictions
    from poisonbench.figures.images import PoisonMix
    from poisonbench.runs.craft import attack_names
    from poisonbench.runs.poisoned_data import DEFAULT_RHO

    mix = PoisonMix(attack_names(options.pop("attack", "mix")), options.pop("rho", DEFAULT_RHO))
    if "pick" in options:
        options["pick"] = parse_value(options["pick"], predictions.Pick, "--pick")
    data = bench.dataset(name)
    # Before the work, not after it.
    Store(folder).check_writable()
    if figure == "1":
        return healthy_noise.healthy_noise(bench, data, mix, values=values, **options)
    wanted = predictions.Wanted(
        mix=mix,
        trial=options.pop("trial", 0),
        methods=_words(options.pop("methods", "")),
        runs=_words(options.pop("runs", "")),
        make=options.pop("make", False),
        where=tuple(places(bench.store.root, bench.data_root)),
    )
    return predictions.predictions(bench, data, wanted, **options)


def _of_targets(
    figure: str, bench: Bench, name: str, options: dict[str, Any], folder: Path
) -> Figure:
    """Figure 3 or 4, or the features."""
    from poisonbench.figures.feature_projection import projection
    from poisonbench.figures.predictions import named_run
    from poisonbench.figures.target_predictions import victims
    from poisonbench.tables.table3 import find_row, models_of_row, runs_of_row

    if "runs" in options:
        data = bench.dataset(name)
        named = [named_run(bench, data, run) for run in _words(options["runs"])]
        Store(folder).check_writable()
        return projection(bench, data, named)
    _check_table_dataset(name)
    row = find_row(name, options.pop("attack", TARGETS[figure]))
    methods = _words(options.pop("methods", ""))
    data = bench.dataset(name)
    records = [
        record
        for record in bench.store.records(lambda error: say(f"warning: left out: {error}"))
        if is_run_on(record, name)
        and record.spec["dataset"].get("digest") == data.digest
        and record.metrics.get("target")
    ]
    if figure == "features":
        trial = options.pop("trial", 0)
        models, missing = models_of_row(name, row, methods, records, bench.seed, trial, bench.store)
        for method, command in missing.items():
            bench.say(f"left out: {method} has no model of trial {trial}; make it with `{command}`")
        Store(folder).check_writable()
        return projection(bench, data, models)
    runs = runs_of_row(name, row, methods, records)
    Store(folder).check_writable()
    return victims(figure, data, row.attack, row.training, runs, **options)


def _check_table_dataset(name: str) -> None:
    from poisonbench.tables.paper_table import DATASET_LABELS

    if name not in DATASET_LABELS:
        raise UsageError(
            f"expected a data set among {', '.join(DATASET_LABELS)}, got {name!r}"
            f"{did_you_mean(name, DATASET_LABELS)}"
        )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _curve(figure: str, dataset: str, results: Path, quiet: bool) -> Figure:
    """Table IV as curves, or deep k-NN against its k."""
    from poisonbench.figures.filter_curve import filter_curve
    from poisonbench.figures.sensitivity_curves import sensitivity

    _check_table_dataset(dataset)
    # Said with --quiet too: a curve that lacks runs must not look whole.
    records = Store(results).records(lambda error: say(f"warning: left out: {error}"))
    made = (sensitivity if figure == "sensitivity" else filter_curve)(records, dataset)
    points = made.numbers["points"]
    if not any(point["records"] or point.get("published") for point in points):
        what, hint = (
            ("HINT at rho 0.6", "poisonbench report --table 4 --missing prints them")
            if figure == "sensitivity"
            else (
                "deep k-NN",
                "poisonbench report --table baseline-1 --missing prints those that it is compared "
                "with, add --k to knn's",
            )
        )
        raise ArtefactError(
            f"figure {figure}: expected runs of {what} on {dataset}, got none in {results}; {hint}"
        )
    if empty := sum(not point["records"] for point in points):
        say(f"{empty} of {len(points)} points have no run in {results}", quiet=quiet)
    return made
