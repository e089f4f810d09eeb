"""Whole runs with freed memory kept and handed back, in turns.

    python benchmarks/memory.py --dataset mnist --data-root DIR --epochs 1 --markdown

Each run is a process of its own that trains the data set's network without a defense. One keeps
what it frees (``poisonbench.core.memory``); the other is told by ``MALLOC_ARENA_MAX`` that someone
has chosen, and has the C library's defaults. All must end with one accuracy.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from common import Timing, measure, parser, show

from poisonbench.core.memory import CHOSEN_BY
from poisonbench.results.store import Store

SETTINGS: dict[str, dict[str, str]] = {"kept": {}, "handed back": {"MALLOC_ARENA_MAX": "8"}}


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    accuracies: set[float] = set()
    for _ in range(options.repeats):
        for name, setting in SETTINGS.items():
            with tempfile.TemporaryDirectory() as results:
                timing = measure(
                    lambda setting=setting, results=results: _run(options, setting, results),
                    1,
                    torch.device("cpu"),
                )
                (record,) = Store(Path(results)).records(print)
                accuracies.add(record.metrics.test_accuracy)
            seconds[name] += timing.seconds
    if len(accuracies) > 1:
        raise SystemExit(f"expected one accuracy of all runs, got {sorted(accuracies)}")
    timings = {name: Timing(tuple(values)) for name, values in seconds.items()}
    show(
        f"Freed memory: {options.epochs} epochs on {options.dataset}, {options.repeats} runs each",
        ["freed memory", "seconds (median)", "range"],
        [[name, f"{timing.median:.1f}", timing.spread] for name, timing in timings.items()],
        [f"Ratio: {timings['handed back'].median / timings['kept'].median:.2f}."],
        torch.device("cpu"),
        markdown=options.markdown,
    )


def _run(options: argparse.Namespace, setting: dict[str, str], results: str) -> None:
    command = ["defend", "--method", "none", "--rho", "0", "--dataset", options.dataset]
    command += ["--data-root", str(options.data_root), "--results", results]
    command += ["--epochs", str(options.epochs), "--device", "cpu"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith(CHOSEN_BY)}
    subprocess.run(
        [sys.executable, "-m", "poisonbench", *command],
        env=clean | setting,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = parser(__doc__, device=False)
    options.add_argument("--epochs", type=int, default=2)
    options.add_argument("--repeats", type=int, default=3)
    return options.parse_args(arguments)


if __name__ == "__main__":
    main()
