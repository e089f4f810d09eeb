"""What a command that computes needs: its shared options, device, store, progress, signals."""

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from poisonbench.cli import common
from poisonbench.core.errors import UsageError
from poisonbench.core.folders import DEFAULT_DATA_ROOT, DEFAULT_RESULTS
from poisonbench.core.progress import BarReporter, LogReporter, relay, silent
from poisonbench.core.quick_names import quick_name, split_quick
from poisonbench.core.settings import parse_value
from poisonbench.core.signals import stop_on_signals
from poisonbench.registry import attacks
from poisonbench.requests import DEFAULT_DATASET
from poisonbench.results.records import ClaimLabel
from poisonbench.results.store import Store
from poisonbench.tables.cells import COLOUR_PART, SAMPLE_DATASET, TARGETED_SAMPLE

if TYPE_CHECKING:
    from poisonbench.runs.context import RunContext


@dataclass(frozen=True, kw_only=True)
class SharedOptions:
    """The options of every command that crafts or trains, on the CPU if it asks for no more."""

    results: common.ResultsOption = DEFAULT_RESULTS
    data_root: common.DataRootOption = DEFAULT_DATA_ROOT
    seed: common.SeedOption = 0
    json: common.JsonOption = False
    quiet: common.QuietOption = False


@dataclass(frozen=True, kw_only=True)
class ContextOptions(SharedOptions):
    """The options of every command whose context may lie on a GPU."""

    device: common.DeviceOption = "auto"


@dataclass(frozen=True, kw_only=True)
class RunOptions(ContextOptions):
    """The options of every command that runs a method."""

    selection: str = common.option(
        "stratified", "How poisoned images are drawn: stratified or uniform."
    )
    model: str | None = common.option(
        None,
        "Network; by default the paper's for the data. Also torchvision:NAME, timm:NAME, "
        "FILE.py:FUNCTION.",
    )
    profile: str = common.option("paper", "paper, or code where the reference code differs.")
    preset: common.PresetOption = None
    plugin: common.PluginOption = None


@contextmanager
def open_context(
    options: SharedOptions,
    plan: str | None = None,
    claims: Mapping[str, ClaimLabel] | None = None,
) -> "Iterator[RunContext]":
    """A context whose runs stop cleanly on signals and show progress on stderr.

    Raises:
        UsageError: no such device.
    """
    from poisonbench.runs.context import RunContext, find_device

    stopping = threading.Event()
    with ExitStack() as stack:
        stack.enter_context(stop_on_signals(stopping))
        report = relay.get() or silent
        if not options.quiet and report is silent:
            bar = sys.stderr.isatty()
            report = stack.enter_context(BarReporter()) if bar else LogReporter()
        yield RunContext(
            store=Store(options.results),
            data_root=options.data_root,
            device=find_device(options.device if isinstance(options, ContextOptions) else "cpu"),
            seed=options.seed,
            report=report,
            say=lambda text: common.say(text, quiet=options.quiet),
            stopping=stopping,
            plan=plan,
            claims=claims or {},
        )


def choose_dataset(
    dataset: str | None,
    preset: str | None,
    quiet: bool,
    attack: str | None = None,
    *,
    is_targeted: bool = False,
) -> str:
    """The data set that was asked for, or a preset's; ``attack`` as the user wrote it.

    A preset's is one for targeted attacks where the attack is, or where that is said. With
    ``quick`` any data may be named: it is taken with a small network and few epochs, under a name
    that no paper's table has a cell of, or as it is where its own settings are for a CPU.

    Raises:
        UsageError: an unknown preset, or one beside another data set.
    """
    chosen = dataset
    if preset is not None:
        parse_value(preset, Literal["quick", "colour"], "--preset")
        entry = attacks().get((attack or "").partition(":")[0])
        is_targeted = is_targeted or (entry is not None and bool(entry.scenario))
        quick = TARGETED_SAMPLE if is_targeted else DEFAULT_DATASET
        chosen = COLOUR_PART if preset == "colour" else quick
        if preset == "quick" and dataset is not None:
            return dataset if _is_for_cpu(dataset) else quick_name(dataset)
    if dataset is not None and dataset != chosen:
        raise UsageError(
            f"expected --preset {preset} to choose the data set, got --dataset {dataset} as well; "
            "with data that you name, take --preset quick"
        )
    if chosen is None:
        text = f"data set: {DEFAULT_DATASET}, embedded; the paper's are --dataset mnist and cifar10"
        common.say(text, quiet=quiet)
    return chosen or DEFAULT_DATASET


def _is_for_cpu(dataset: str) -> bool:
    """Whether data has settings for a CPU of its own: the sample and its parts, colour's part."""
    base = split_quick(dataset)[0]
    return base.partition("@")[0] == SAMPLE_DATASET or base == COLOUR_PART
