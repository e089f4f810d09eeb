"""``poisonbench data``: which data sets there are, what is in them, and fetching them."""

import io
from contextlib import nullcontext, redirect_stderr
from functools import partial
from typing import Annotated, Any

import typer

from poisonbench.cli import common
from poisonbench.core.folders import DEFAULT_DATA_ROOT
from poisonbench.data.names import SUBSET, about

NameArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="A name of `data list`, or PREFIX:PATH of one of its prefixes."
    ),
]

app = common.command_app("List, show and fetch data sets.")


@app.command("list", cls=common.Command)
def list_(as_json: common.JsonOption = False) -> None:
    """List the data sets and the prefixes for your own."""
    texts = about()
    prefixes = {name: text for name, text in texts.items() if ":" in name}
    names = {n: text for n, text in texts.items() if n not in SUBSET and n not in prefixes}
    kinds = {"datasets": names, "parts": SUBSET, "prefixes": prefixes}
    common.show(kinds, [f"{name:<18}{text}" for name, text in texts.items()], as_json)


@app.command(cls=common.Command)
def show(
    name: NameArgument,
    data_root: common.DataRootOption = DEFAULT_DATA_ROOT,
    seed: common.SeedOption = 0,
    plugin: common.PluginOption = None,
    as_json: common.JsonOption = False,
) -> None:
    """Show the sizes, classes and digest of a data set; never downloads."""
    from poisonbench.data.sources import describe, load_dataset

    _print(describe(load_dataset(name, data_root, seed)), as_json)


@app.command(cls=common.Command)
def fetch(
    name: NameArgument,
    data_root: common.DataRootOption = DEFAULT_DATA_ROOT,
    seed: common.SeedOption = 0,
    as_json: common.JsonOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """Download a data set unless it is there, and show it; nothing else ever downloads."""
    from poisonbench.data.sources import describe, load_dataset

    # torchvision draws its progress bar on stderr and cannot be told not to.
    with redirect_stderr(io.StringIO()) if quiet else nullcontext():
        dataset = load_dataset(
            name, data_root, seed, download=True, say=partial(common.say, quiet=quiet)
        )
    _print(describe(dataset), as_json)


def _print(facts: dict[str, Any], as_json: bool) -> None:
    channels, height, width = facts["image_shape"]
    rows = {
        "name": facts["name"],
        "digest": facts["digest"],
        "images": f"{channels} x {height} x {width} (channels, height, width)",
        **{part: f"{size:,}" for part, size in facts["sizes"].items()},
        "mean": ", ".join(map(str, facts["mean"])),
        "std": ", ".join(map(str, facts["std"])),
        "paper": "yes" if facts["is_paper"] else "no",
    }
    counts = facts["class_counts"]
    column = max(12, *(len(label) + 2 for label in facts["classes"]))
    lines = [f"{name:<12}{text}" for name, text in rows.items()]
    lines += ["", f"{'class':<{column}}" + "".join(f"{part:>12}" for part in counts)]
    for label, *numbers in zip(facts["classes"], *counts.values(), strict=True):
        lines.append(f"{label:<{column}}" + "".join(f"{number:>12,}" for number in numbers))
    common.show(facts, lines, as_json)
