"""What the benchmark scripts share: options, clocks, tables and what they ran on."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch

from poisonbench.core.seeds import Seeds
from poisonbench.data.sources import load_dataset
from poisonbench.data.splits import Dataset
from poisonbench.models import build_model
from poisonbench.models.classifier import Classifier
from poisonbench.registry import defenses
from poisonbench.runs.context import default_model, find_device
from poisonbench.runs.environment import environment
from poisonbench.runs.method_settings import read_settings
from poisonbench.training.recipe import Recipe


@dataclass(frozen=True)
class Timing:
    """Seconds of several repeats of one thing."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return median(self.seconds)

    @property
    def spread(self) -> str:
        """Fastest and slowest, e.g. ``"0.91-1.07"``."""
        return f"{min(self.seconds):.3g}-{max(self.seconds):.3g}"


def now(device: torch.device) -> float:
    """A monotonic clock, read after the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure(function: Callable[[], object], repeats: int, device: torch.device) -> Timing:
    """Wall seconds of each of several calls."""
    seconds = []
    for _ in range(repeats):
        start = now(device)
        function()
        seconds.append(now(device) - start)
    return Timing(tuple(seconds))


def parser(
    description: str | None, *, data: bool = True, device: bool = True
) -> argparse.ArgumentParser:
    """A parser with the options that the scripts share."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--markdown", action="store_true", help="print a table for docs/")
    if data:
        options.add_argument("--dataset", default="mnist-sample", help="mnist-sample or mnist")
        options.add_argument("--data-root", type=Path, default=Path("data"))
    if device:
        options.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
        options.add_argument("--threads", type=int, help="of torch on the CPU; torch's default")
        options.add_argument("--seed", type=int, default=0)
    return options


def prepare(options: argparse.Namespace) -> torch.device:
    """Set the threads, find the device; TF32 stays off, as in the package."""
    if options.threads:
        torch.set_num_threads(options.threads)
    return find_device(options.device)


def dataset_of(options: argparse.Namespace) -> Dataset:
    """The data set that was asked for."""
    return load_dataset(options.dataset, options.data_root, options.seed)


def grey_dataset(options: argparse.Namespace) -> Dataset:
    """The data set that was asked for, if it is one that the MNIST CNN trains on."""
    dataset = dataset_of(options)
    if dataset.presets[0] != "mnist":
        raise SystemExit(f"expected a grey data set such as mnist, got {options.dataset!r}")
    return dataset


def paper_recipe(dataset: Dataset, **overrides: object) -> Recipe:
    """The recipe of ``--profile paper`` for this data set, with some settings replaced."""
    recipe: Recipe = read_settings(defenses()["none"], dataset, "paper", {}).recipe
    return replace(recipe, **overrides)  # type: ignore[arg-type]


def fresh_model(dataset: Dataset, seeds: Seeds) -> Classifier:
    """The data set's network with the initial weights that a run of these seeds has."""
    return build_model(
        default_model(dataset),
        dataset.image_shape,
        dataset.num_classes,
        dataset.mean,
        dataset.std,
        seeds.generator("initial weights"),
    )


def surroundings(device: torch.device) -> str:
    """Hardware, versions, threads, date and commit in one line."""
    about = environment(device, "float32")
    parts = [
        f"{about['processor']}, {os.cpu_count()} CPUs",
        f"device {about['device']}",
        f"{about['threads']} torch threads",
        f"torch {about['torch']}",
        f"Python {about['python']}",
        datetime.now(UTC).strftime("%Y-%m-%d"),
        f"commit {about['commit'] or 'unknown'}",
    ]
    return "; ".join(parts)


def show(
    title: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
    device: torch.device,
    *,
    markdown: bool,
) -> None:
    """Print a table, what it ran on, and remarks: plain, or in Markdown for the documentation."""
    if markdown:
        lines = [f"**{title}**", "", _bars(headings), _bars(["---"] * len(headings))]
        lines += [_bars(row) for row in rows]
        lines += ["", f"Measured on: {surroundings(device)}."]
        lines += [line for note in notes for line in ("", note)]
    else:
        widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
        lines = [title]
        for row in (headings, *rows):
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            lines.append("  " + "  ".join(cells).rstrip())
        lines += [surroundings(device), *notes]
    print("\n".join(lines), flush=True)


def _bars(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
