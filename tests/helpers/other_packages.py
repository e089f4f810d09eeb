"""Methods of other people: the contracts' examples, and packages as pip installs them."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType


def install(
    site: Path,
    name: str,
    version: str,
    files: Mapping[str, str],
    points: Mapping[str, Mapping[str, str]],
) -> None:
    """Put a distribution into a folder as ``pip install --target`` does.

    Args:
        site: the folder.
        name: the distribution's.
        version: its.
        files: texts by path.
        points: entry points by group: what each name is.
    """
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    groups = [
        "\n".join([f"[{group}]", *(f"{point} = {value}" for point, value in named.items()), ""])
        for group, named in points.items()
    ]
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    for path, text in {
        **files,
        f"{info.name}/METADATA": metadata,
        f"{info.name}/entry_points.txt": "\n".join(groups),
    }.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)


def example_of(contract: ModuleType) -> ModuleType:
    """The whole method in a base module's docstring, as a module."""
    text = contract.__doc__.partition("::\n\n")[2]
    module = ModuleType("example")
    exec(compile(textwrap.dedent(text), "example", "exec", dont_inherit=True), vars(module))
    return module
