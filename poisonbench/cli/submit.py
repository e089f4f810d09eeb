"""``poisonbench submit``: a results folder's records in one file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from poisonbench.cli import common
from poisonbench.core.errors import UsageError
from poisonbench.core.files import write_bytes
from poisonbench.results.store import Store
from poisonbench.results.submissions import SUFFIX, pack

app = common.command_app()


@dataclass(frozen=True, kw_only=True)
class _SubmitOptions:
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The results folder.")]
    name: str = common.option("anonymous", "Who submits, as a leaderboard shows it.")
    note: str = common.option("", "A sentence on what it is.")
    output: Path | None = common.option(
        None, f"The file to write; the folder's name and {SUFFIX} here if not said."
    )
    json: common.JsonOption = False
    quiet: common.QuietOption = False


@app.command("submit", cls=common.Command)
@common.takes(_SubmitOptions)
def submit(options: _SubmitOptions) -> None:
    """Pack a results folder's records and its poisons' cards into one file.

    `page --results` and `report --results` read it, alone or in a folder of others: a leaderboard.
    `poisonbench verify` runs some of it again. The same folder gives the same bytes.

    poisonbench submit results --name "A. Turing" --output turing.submission.zip
    """
    if not options.folder.is_dir():
        raise UsageError(
            f"expected a results folder, got {options.folder}, which is none; make one with "
            "`poisonbench defend`"
        )
    for flag, text, most in (("--name", options.name, 100), ("--note", options.note, 1000)):
        if len(text) > most or not text.isprintable() or (flag == "--name" and not text.strip()):
            raise UsageError(
                f"{flag}: expected one line of at most {most} characters, got {text!r:.60}"
            )
    output = options.output or Path(options.folder.resolve().name + SUFFIX)
    common.check_output(output)
    if not output.name.endswith(SUFFIX):
        raise UsageError(
            f"--output: expected a name that ends with {SUFFIX}, by which a leaderboard knows its "
            f"files, got {output.name}"
        )
    data, manifest = pack(Store(options.folder), options.name, options.note)
    write_bytes(output, data)
    runs = sum(name.startswith("runs/") for name in manifest.files)
    cards = len(manifest.files) - runs
    common.say(
        f"{runs} run(s) and {cards} card(s) of {manifest.submitter}, {len(data):,} bytes; data "
        "sets' paths in the records are handed on too",
        quiet=options.quiet,
    )
    result = {"path": str(output), "runs": runs, "cards": cards, "bytes": len(data)}
    common.show(result, [str(output)], options.json)
