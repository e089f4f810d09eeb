"""Setting up what a command that computes needs: device, store, progress, signals."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from poisonbench.cli.common import say
from poisonbench.config import did_you_mean
from poisonbench.errors import UsageError
from poisonbench.progress import BarReporter, LogReporter, relay, silent
from poisonbench.results.store import Store
from poisonbench.signals import stop_on_signals

if TYPE_CHECKING:
    from poisonbench.runs.bench import Bench

#: What ``--preset`` stands for.
PRESETS = {"quick": "mnist-sample"}
DEFAULT_DATASET = "mnist-sample"


@contextmanager
def open_bench(
    results: Path,
    data_root: Path,
    device: str,
    seed: int,
    quiet: bool,
    plan: str | None = None,
) -> Iterator[Bench]:
    """A bench whose runs stop cleanly on signals and show progress on stderr.

    Raises:
        UsageError: no such device.
    """
    from poisonbench.runs.bench import Bench, find_device

    stopping = threading.Event()
    with ExitStack() as stack:
        stack.enter_context(stop_on_signals(stopping))
        report = relay.get() or silent
        if not quiet and report is silent:
            bar = sys.stderr.isatty()
            report = stack.enter_context(BarReporter()) if bar else LogReporter()
        yield Bench(
            store=Store(results),
            data_root=data_root,
            device=find_device(device),
            seed=seed,
            report=report,
            say=lambda text: say(text, quiet=quiet),
            stopping=stopping,
            plan=plan,
        )


def choose_dataset(dataset: str | None, preset: str | None, quiet: bool) -> str:
    """The data set that was asked for, or the embedded sample.

    Raises:
        UsageError: an unknown preset, or one beside another data set.
    """
    if preset is not None and preset not in PRESETS:
        raise UsageError(
            f"--preset: expected one of {', '.join(PRESETS)}, got {preset!r}"
            f"{did_you_mean(preset, PRESETS)}"
        )
    wanted = PRESETS.get(preset or "", dataset)
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
