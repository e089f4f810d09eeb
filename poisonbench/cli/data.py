"""``poisonbench data``: which data sets there are, what is in them, and fetching them."""

from __future__ import annotations

import io
from contextlib import nullcontext, redirect_stderr
from functools import partial
from typing import Annotated, Any

import typer

from poisonbench.cli.common import (
    Command,
    DataRootOption,
    JsonOption,
    PluginOption,
    QuietOption,
    SeedOption,
    command_app,
    print_json,
    say,
)
from poisonbench.core.folders import DEFAULT_DATA_ROOT
from poisonbench.data.names import SUBSET, about

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="A name of `data list`, npz:PATH or folder:PATH.")
]

app = command_app("List, show and fetch data sets.")


@app.command("list", cls=Command)
def list_(as_json: JsonOption = False) -> None:
    """List the data sets and the prefixes for your own."""
    texts = about()
    if as_json:
        prefixes = {name: text for name, text in texts.items() if ":" in name}
        names = {n: text for n, text in texts.items() if n not in SUBSET and n not in prefixes}
        print_json({"datasets": names, "parts": SUBSET, "prefixes": prefixes})
        return
    for name, text in texts.items():
        print(f"{name:<15}{text}")


@app.command(cls=Command)
def show(
    name: NameArgument,
    data_root: DataRootOption = DEFAULT_DATA_ROOT,
    seed: SeedOption = 0,
    plugin: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the sizes, classes and digest of a data set; never downloads."""
    from poisonbench.data.sources import describe, load_dataset

    _print(describe(load_dataset(name, data_root, seed)), as_json)


@app.command(cls=Command)
def fetch(
    name: NameArgument,
    data_root: DataRootOption = DEFAULT_DATA_ROOT,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Download a data set unless it is there, and show it; nothing else ever downloads."""
    from poisonbench.data.sources import describe, load_dataset

    # torchvision draws its progress bar on stderr and cannot be told not to.
    with redirect_stderr(io.StringIO()) if quiet else nullcontext():
        dataset = load_dataset(name, data_root, seed, download=True, say=partial(say, quiet=quiet))
    _print(describe(dataset), as_json)


def _print(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(facts)
        return
    counts = facts["class_counts"]
    channels, height, width = facts["image_shape"]
    print(f"{'name':<12}{facts['name']}")
    print(f"{'digest':<12}{facts['digest']}")
    print(f"{'images':<12}{channels} x {height} x {width} (channels, height, width)")
    for part, size in facts["sizes"].items():
        print(f"{part:<12}{size:,}")
    print(f"{'mean':<12}{', '.join(map(str, facts['mean']))}")
    print(f"{'std':<12}{', '.join(map(str, facts['std']))}")
    print(f"{'paper':<12}{'yes' if facts['is_paper'] else 'no'}")
    print()
    column = max(12, *(len(label) + 2 for label in facts["classes"]))
    print(f"{'class':<{column}}" + "".join(f"{part:>12}" for part in counts))
    for row, label in enumerate(facts["classes"]):
        print(f"{label:<{column}}" + "".join(f"{counts[part][row]:>12,}" for part in counts))
