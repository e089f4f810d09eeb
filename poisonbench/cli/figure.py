"""``poisonbench figure``: a paper's figures as PNG and SVG, with their numbers as JSON."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from poisonbench.cli import common
from poisonbench.cli.method_options import CONTEXT, MethodCommand, method_settings
from poisonbench.cli.session import ContextOptions, choose_dataset, open_context
from poisonbench.core.errors import ArtefactError, UsageError
from poisonbench.core.folders import DEFAULT_RESULTS, folder_options
from poisonbench.core.settings import did_you_mean, parse_value
from poisonbench.figures.drawing import Figure, write_figure
from poisonbench.requests import RunRequest, figure_poison
from poisonbench.results.records import RunRecord
from poisonbench.results.store import Store
from poisonbench.tables.cells import TARGETED_SAMPLE
from poisonbench.tables.paper_table import dataset_labels
from poisonbench.tables.table3 import find_row


class FigureGroup(TyperGroup):
    """One command a figure; ``--figure NAME`` among its options names it as well."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the name that ``--figure`` gives in front, then read the line as usual."""
        for position, word in enumerate(args):
            flag, has_value, name = word.partition("=")
            rest = args[position + 1 :]
            if flag == "--figure" and (has_value or rest):
                args = [name if has_value else rest.pop(0), *args[:position], *rest]
                break
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The figure that a line names; an unknown one is answered with all there are."""
        if args[0] not in self.commands and not ctx.resilient_parsing:
            raise UsageError(
                f"figure: expected one of {', '.join(self.commands)}, got {args[0]!r}"
                f"{did_you_mean(args[0], self.commands)}"
            )
        return super().resolve_command(ctx, args)


app = common.command_app(
    "Draw a figure as PNG and SVG, and write its numbers as JSON beside them.", FigureGroup
)

_SAYS = "What the model of each defense says"

#: The attacks whose targets the figures are of.
TARGETED = {"3": "mp", "4": "bp", "features": "bp"}

AttackOption = Annotated[
    str | None, typer.Option(help="As for defend; mix by default, of 3 mp, of 4 and features bp.")
]
RhoOption = Annotated[float | None, typer.Option(help="Poisoned share; as for defend by default.")]
TrialOption = Annotated[int | None, typer.Option(min=0, help="Which trial; 0 by default.")]
ImagesOption = Annotated[int, typer.Option(min=1, max=20, help="How many images.")]
MethodsOption = Annotated[
    str | None,
    typer.Option(help="Names joined by commas; all that have models, or runs, if not said."),
]
RunsOption = Annotated[
    str | None, typer.Option(help="Instead: ids of runs, of any settings and poison.")
]


@dataclass(frozen=True, kw_only=True)
class FigureOptions:
    """The options of every figure."""

    dataset: common.DatasetOption = None
    preset: common.PresetOption = None
    out: Path | None = common.option(None, "Folder of the files; RESULTS/figures by default.")
    results: common.ResultsOption = DEFAULT_RESULTS
    json: common.JsonOption = False
    quiet: common.QuietOption = False

    def __post_init__(self) -> None:
        common.check_results_folder(self.results)

    @property
    def folder(self) -> Path:
        """Where the files go."""
        return self.results / "figures" if self.out is None else self.out


@dataclass(frozen=True, kw_only=True)
class DataOptions(FigureOptions, ContextOptions):
    """The options of every figure that reads images or models."""


class _NoiseCommand(MethodCommand):
    """The figure of HINT's noise takes HINT's options."""

    defense = "hint"


@app.command("1", cls=_NoiseCommand, context_settings=CONTEXT)
@common.takes(DataOptions)
def healthy_noise(
    options: DataOptions,
    ctx: typer.Context,
    attack: AttackOption = None,
    rho: RhoOption = None,
    trial: TrialOption = None,
    images: ImagesOption = 4,
    wrong_label: Annotated[
        bool, typer.Option("--wrong-label", help="Show the noise of a wrong label too.")
    ] = False,
    profile: Annotated[str, typer.Option(help="HINT's profile.")] = "paper",
) -> None:
    """HINT's noise on clean and on poisoned images, and what the model says of them.

    It takes HINT's options too: see `poisonbench list defenses hint`.

    poisonbench figure 1 --wrong-label
    """
    from poisonbench.figures.healthy_noise import healthy_noise

    request = RunRequest(
        method="hint",
        poison=figure_poison(attack, rho),
        profile=profile,
        settings=method_settings(ctx),
        trial=trial or 0,
    )
    name = _dataset(options, attack)
    with open_context(options) as context:
        data = context.dataset(name)
        Store(options.folder).check_writable()
        figure = healthy_noise(context, data, request, images=images, wrong_label=wrong_label)
    _write("1", figure, options)


@app.command("2", cls=common.Command)
@common.takes(DataOptions)
def predictions(
    options: DataOptions,
    attack: AttackOption = None,
    rho: RhoOption = None,
    trial: TrialOption = None,
    images: ImagesOption = 5,
    pick: Annotated[str, typer.Option(help="disagree or random: from which images.")] = "disagree",
    methods: MethodsOption = None,
    runs: RunsOption = None,
    make: Annotated[
        bool, typer.Option("--make", help="Train the models that are missing.")
    ] = False,
) -> None:
    """What the model of each defense says of some test images.

    poisonbench figure 2 --runs ID,ID
    """
    from poisonbench.figures.predictions import ModelChoice, Pick
    from poisonbench.figures.predictions import predictions as draw

    others = {"attack": attack, "rho": rho, "trial": trial, "methods": methods, "make": make}
    _refuse_with_runs(runs, others)
    choice = ModelChoice(
        poison=figure_poison(attack, rho),
        trial=trial or 0,
        methods=tuple(common.names_in(methods)),
        runs=tuple(common.names_in(runs)),
        make=make,
    )
    which: Pick = parse_value(pick, Pick, "--pick")
    name = _dataset(options, attack)
    with open_context(options) as context:
        data = context.dataset(name)
        Store(options.folder).check_writable()
        figure = draw(context, data, choice, images=images, pick=which)
    _write("2", figure, options)


@app.command("4", cls=common.Command, help=f"{_SAYS} of Bullseye Polytope's.")
@app.command("3", cls=common.Command, help=f"{_SAYS} of MetaPoison's targets.")
@common.takes(DataOptions)
def target_predictions(
    options: DataOptions,
    ctx: typer.Context,
    attack: AttackOption = None,
    images: ImagesOption = 5,
    methods: MethodsOption = None,
) -> None:
    """Figure 3 or 4."""
    from poisonbench.figures.runs_shown import runs_of_row
    from poisonbench.figures.target_predictions import target_predictions as draw

    number = str(ctx.info_name)
    name = _check_table_dataset(_targeted_dataset(options))
    row = find_row(name, attack or TARGETED[number])
    with open_context(options) as context:
        data = context.dataset(name)
        runs = runs_of_row(context, _records(options), data, row, common.names_in(methods))
        figure = draw(number, data, row.attack, row.training, runs, images=images)
    _write(number, figure, options)


@app.command("features", cls=common.Command)
@common.takes(DataOptions)
def feature_projection(
    options: DataOptions,
    attack: AttackOption = None,
    trial: TrialOption = None,
    methods: MethodsOption = None,
    runs: RunsOption = None,
) -> None:
    """Where targets and poisons lie in each model's features, and what its defense removed.

    poisonbench figure features --methods none,knn
    """
    from poisonbench.figures.feature_projection import feature_projection as draw
    from poisonbench.figures.runs_shown import models_of_row, named_run

    _refuse_with_runs(runs, {"attack": attack, "trial": trial, "methods": methods})
    name, ids = _targeted_dataset(options), common.names_in(runs)
    row = None if ids else find_row(_check_table_dataset(name), attack or TARGETED["features"])
    with open_context(options) as context:
        data = context.dataset(name)
        if row is None:
            records = [named_run(context, data, run) for run in ids]
        else:
            names = common.names_in(methods)
            records = models_of_row(context, _records(options), data, row, names, trial or 0)
        Store(options.folder).check_writable()
        figure = draw(context, data, records)
    _write("features", figure, options)


@app.command("sensitivity", cls=common.Command)
@common.takes(FigureOptions)
def sensitivity(options: FigureOptions) -> None:
    """Table IV as curves: HINT's accuracy against r and against beta.

    poisonbench figure sensitivity
    """
    from poisonbench.figures.sensitivity_curves import sensitivity as draw

    name = _check_table_dataset(_dataset(options))
    figure = draw(_records(options), name)
    hint = f"`{_report_of('4', options)}` prints them"
    _check_points(figure, f"runs of HINT at rho 0.6 on {name}", hint, options)
    _write("sensitivity", figure, options)


@app.command("filter-k", cls=common.Command)
@common.takes(FigureOptions)
def filter_k(options: FigureOptions) -> None:
    """Deep k-NN against its k: attack success and accuracy, as curves.

    poisonbench figure filter-k
    """
    from poisonbench.figures.filter_curve import filter_curve

    name = _check_table_dataset(_targeted_dataset(options))
    figure = filter_curve(_records(options), name)
    hint = (
        f"`{_report_of('baseline-1', options)}` prints those that it is compared with, add --k to "
        "knn's"
    )
    _check_points(figure, f"runs of deep k-NN on {name}", hint, options)
    _write("filter-k", figure, options)


def _dataset(options: FigureOptions, attack: str | None = None) -> str:
    return choose_dataset(options.dataset, options.preset, options.quiet, attack)


def _targeted_dataset(options: FigureOptions) -> str:
    """The data set that was asked for, or the sample of targeted attacks."""
    if options.dataset is not None or options.preset is not None:
        return _dataset(options, "bp")
    text = f"data set: {TARGETED_SAMPLE}, embedded; the paper's is --dataset cifar10"
    common.say(text, quiet=options.quiet)
    return TARGETED_SAMPLE


def _records(options: FigureOptions) -> list[RunRecord]:
    common.check_results_exist(options.results)
    return Store(options.results).records(common.say_left_out)


def _report_of(table: str, options: FigureOptions) -> str:
    """The command that prints those of a table's missing runs."""
    words = ("poisonbench", "report", "--table", table, "--missing")
    return shlex.join([*words, *folder_options(options.results)])


def _check_table_dataset(name: str) -> str:
    if name not in dataset_labels():
        raise UsageError(
            f"expected a data set among {', '.join(dataset_labels())}, got {name!r}"
            f"{did_you_mean(name, dataset_labels())}"
        )
    return name


def _refuse_with_runs(runs: str | None, others: dict[str, Any]) -> None:
    clash = next((name for name, value in others.items() if value not in (None, False)), None)
    if runs is not None and clash is not None:
        raise UsageError(f"expected --runs without --{clash}: runs say that themselves")


def _check_points(figure: Figure, expected: str, hint: str, options: FigureOptions) -> None:
    """Refuse curves without any point; say how many points have no run."""
    points, results = figure.numbers["points"], options.results
    if not any(point["records"] or point.get("published") for point in points):
        raise ArtefactError(f"expected {expected}, got none in {results}; {hint}")
    if empty := sum(not point["records"] for point in points):
        common.say(f"{empty} of {len(points)} points have no run in {results}", quiet=options.quiet)


def _write(name: str, figure: Figure, options: FigureOptions) -> None:
    """Write a figure's files; print their paths, or with its numbers as JSON."""
    stem = f"figure-{name}" if isinstance(options, DataOptions) else name
    paths = [str(path) for path in write_figure(options.folder, stem, figure)]
    result = {"figure": name, "paths": paths, "numbers": figure.numbers}
    common.show(result, paths, options.json)
