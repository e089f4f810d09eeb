"""``poisonbench new``: begin a package with a method, a network or a data set of one's own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from poisonbench.cli import common
from poisonbench.core.errors import StoreError

app = common.command_app()


@dataclass(frozen=True, kw_only=True)
class _NewOptions:
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND", help="defense, attack, targeted-attack, network or dataset."
        ),
    ]
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Small letters, digits and -, as in gray-scale.")
    ]
    output: Path = common.option(Path("."), "The folder that the package's folder is put into.")
    json: common.JsonOption = False


@app.command("new", cls=common.Command)
@common.takes(_NewOptions)
def new(options: _NewOptions) -> None:
    """Begin a package with a method, a network or a data set of your own.

    It installs, passes its tests and runs as it is.
    """
    from poisonbench.scaffold import KINDS, write_package

    try:
        paths = write_package(options.kind, options.name, options.output)
    except OSError as error:
        raise StoreError(
            f"expected a folder that can be written, got {options.output}: {error}"
        ) from None
    folder = paths[0].parent
    lines = [
        *map(str, paths),
        "",
        "Next:",
        f"  pip install -e '{folder}[dev]'     (offline: --no-build-isolation --no-deps)",
        f"  poisonbench check {options.name}",
        f"  {KINDS[options.kind].example.format(name=options.name)}",
        "  poisonbench report --runs",
    ]
    common.show({"path": str(folder), "files": list(map(str, paths))}, lines, options.json)
