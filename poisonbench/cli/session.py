"""What a command that computes needs: its shared options, device, store, progress, signals."""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import MISSING, dataclass, fields
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from poisonbench.cli.common import (
    DataRootOption,
    DeviceOption,
    JsonOption,
    PluginOption,
    QuietOption,
    ResultsOption,
    SeedOption,
    say,
)
from poisonbench.core.errors import UsageError
from poisonbench.core.folders import DEFAULT_DATA_ROOT, DEFAULT_RESULTS
from poisonbench.core.progress import BarReporter, LogReporter, relay, silent
from poisonbench.core.settings import did_you_mean
from poisonbench.core.signals import stop_on_signals
from poisonbench.registry import attacks
from poisonbench.requests import DEFAULT_DATASET
from poisonbench.results.store import Store

if TYPE_CHECKING:
    from poisonbench.runs.workspace import Bench

#: What ``--preset`` stands for, and what with a targeted attack.
PRESETS = {"quick": ("mnist-sample", "mnist-sample@1000")}


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options that every command that runs a method has, in the order of its help."""

    selection: Annotated[
        str,
        typer.Option("--selection", help="How poisoned images are drawn: stratified or uniform."),
    ] = "stratified"
    model: Annotated[
        str | None, typer.Option("--model", help="Network; by default the paper's for the data.")
    ] = None
    profile: Annotated[
        str, typer.Option("--profile", help="paper, or code where the reference code differs.")
    ] = "paper"
    preset: Annotated[
        str | None, typer.Option("--preset", help="quick: the embedded sample, for a CPU.")
    ] = None
    plugin: PluginOption = None
    results: ResultsOption = DEFAULT_RESULTS
    data_root: DataRootOption = DEFAULT_DATA_ROOT
    device: DeviceOption = "auto"
    seed: SeedOption = 0
    json: JsonOption = False
    quiet: QuietOption = False


def takes(
    kind: type[Any], name: str = "options"
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """For a command of which one parameter stands for an option for each field of a dataclass.

    Typer makes options of a function's parameters; the signature that it reads has the fields in
    place of the one parameter.

    Args:
        kind: a dataclass whose fields are annotated as Typer wants parameters to be.
        name: the parameter's.
    """
    kinds = get_type_hints(kind, include_extras=True)
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=kinds[field.name],
        )
        for field in fields(kind)
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        parameters = []
        for parameter in signature.parameters.values():
            parameters += options if parameter.name == name else [parameter]

        @wraps(command)
        def with_fields(*arguments: Any, **values: Any) -> None:
            given = {field.name: values.pop(field.name) for field in fields(kind)}
            command(*arguments, **values, **{name: kind(**given)})

        with_fields.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return with_fields

    return decorate


@contextmanager
def open_bench(options: RunOptions, plan: str | None = None) -> Iterator[Bench]:
    """A bench whose runs stop cleanly on signals and show progress on stderr.

    Raises:
        UsageError: no such device.
    """
    from poisonbench.runs.workspace import Bench, find_device

    stopping = threading.Event()
    with ExitStack() as stack:
        stack.enter_context(stop_on_signals(stopping))
        report = relay.get() or silent
        if not options.quiet and report is silent:
            bar = sys.stderr.isatty()
            report = stack.enter_context(BarReporter()) if bar else LogReporter()
        yield Bench(
            store=Store(options.results),
            data_root=options.data_root,
            device=find_device(options.device),
            seed=options.seed,
            report=report,
            say=lambda text: say(text, quiet=options.quiet),
            stopping=stopping,
            plan=plan,
        )


def choose_dataset(
    dataset: str | None, preset: str | None, quiet: bool, attack: str | None = None
) -> str:
    """The data set that was asked for, or the embedded sample.

    Args:
        dataset: what was asked for.
        preset: what else was asked for.
        quiet: say nothing.
        attack: as the user wrote it.

    Raises:
        UsageError: an unknown preset, or one beside another data set.
    """
    if preset is not None and preset not in PRESETS:
        raise UsageError(
            f"--preset: expected one of {', '.join(PRESETS)}, got {preset!r}"
            f"{did_you_mean(preset, PRESETS)}"
        )
    known = attacks().get(attack or "")
    wanted = dataset
    if preset is not None:
        wanted = PRESETS[preset][known is not None and bool(known.scenario)]
    if dataset is not None and dataset != wanted:
        raise UsageError(
            f"expected --preset {preset} to choose the data set, got --dataset {dataset} as well"
        )
    if wanted is None:
        say(
            f"data set: {DEFAULT_DATASET}, embedded; the paper's are --dataset mnist and cifar10",
            quiet=quiet,
        )
    return wanted or DEFAULT_DATASET
