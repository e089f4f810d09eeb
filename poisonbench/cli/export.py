"""``poisonbench export``: a poison or a kept model in a form that other programs read."""

from collections.abc import Iterator
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from poisonbench.cli import common
from poisonbench.cli.inspect import find_target
from poisonbench.core.errors import UsageError
from poisonbench.core.files import write_bytes, write_folder
from poisonbench.core.folders import DEFAULT_DATA_ROOT, DEFAULT_RESULTS
from poisonbench.core.settings import parse_value
from poisonbench.page.repeat import command_of_run
from poisonbench.results.records import read_record
from poisonbench.results.store import Store

_OfPoison = Literal["imagefolder", "npz", "croissant"]
_OfRun = Literal["torch", "safetensors"]

app = common.command_app()


@dataclass(frozen=True, kw_only=True)
class _ExportOptions:
    target: Annotated[
        str,
        typer.Argument(
            metavar="PATH|ID", help="A poison or a run; the beginning of an id will do."
        ),
    ]
    to: str = common.option(
        MISSING, "Of a poison imagefolder, npz or croissant; of a run torch or safetensors."
    )
    output: Path | None = common.option(
        None, "The folder to make, of npz the file; ID-FORM here if not said.", metavar="PATH"
    )
    dataset: common.DatasetOption = None
    results: common.ResultsOption = DEFAULT_RESULTS
    data_root: common.DataRootOption = DEFAULT_DATA_ROOT
    seed: common.SeedOption = 0
    plugin: common.PluginOption = None
    json: common.JsonOption = False
    quiet: common.QuietOption = False


@app.command("export", cls=common.Command)
@common.takes(_ExportOptions)
def export(options: _ExportOptions) -> None:
    """Write a poison or a kept model in a form that other programs read.

    `poisonbench import --format FORM` reads a poison again, the same artefact. A run's weights are
    those of `defend --save-model`.

    poisonbench export POISON --to imagefolder
    """
    path = find_target(options.target, Store(options.results))
    is_run = path.suffix == ".json"
    form = parse_value(options.to, Literal[_OfPoison, _OfRun], "--to")
    fitting = get_args(_OfRun if is_run else _OfPoison)
    if form not in fitting:
        raise UsageError(
            f"--to: expected {', '.join(fitting)} for a {'run' if is_run else 'poison'}, got {form}"
        )
    if is_run and options.seed:
        raise UsageError(
            "--seed: expected it with a poison, got it with a run, whose record says it; leave it "
            "out"
        )
    suffix = ".npz" if form == "npz" else ""
    output = options.output or Path(f"{path.stem}-{form}{suffix}".replace("-npz.", "."))
    if output.exists():
        raise UsageError(f"--output: expected a new path, got {output}, which exists; name another")
    files = _run_files(path, form, options) if is_run else _poison_files(path, form, options)
    if form == "npz":
        ((_, data),) = files
        write_bytes(output, data)
    else:
        write_folder(output, files)
    common.show({"path": str(output), "form": form, "id": path.stem}, [str(output)], options.json)


def _poison_files(path: Path, form: Any, options: _ExportOptions) -> Iterator[tuple[str, bytes]]:
    from poisonbench.data.artefacts import check_dataset, read_poison
    from poisonbench.data.exchange import exchange_files
    from poisonbench.data.sources import load_dataset

    poison = read_poison(path)
    name = options.dataset or poison.card.dataset.name
    dataset = load_dataset(name, options.data_root, options.seed)
    check_dataset(poison, dataset)
    common.say(
        f"{len(poison):,} poisons by {'+'.join(poison.card.attacks)}, {poison.card.change_text}",
        quiet=options.quiet,
    )
    return exchange_files(poison, dataset, form)


def _run_files(path: Path, form: Any, options: _ExportOptions) -> Iterator[tuple[str, bytes]]:
    from poisonbench.data.sources import load_dataset
    from poisonbench.runs.exported_model import model_files

    record = read_record(path)
    name = options.dataset or record.labels.dataset
    dataset = load_dataset(name, options.data_root, record.spec.seed)
    if dataset.digest != record.spec.dataset.digest:
        raise UsageError(
            f"--dataset: expected the data of the run, with digest "
            f"{record.spec.dataset.digest[:16]}, got {name} with {dataset.digest[:16]}"
        )
    # A kept model lies beside its record's folder, wherever that is.
    store = Store(path.parent.parent)
    return model_files(store, record, dataset, form, command_of_run(record))
