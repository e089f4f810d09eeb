"""``poisonbench inspect``: audit a poison artefact or show a run record."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from poisonbench.cli import common
from poisonbench.core.errors import ArtefactError, UsageError
from poisonbench.core.files import write_bytes
from poisonbench.core.folders import DEFAULT_DATA_ROOT, DEFAULT_RESULTS
from poisonbench.core.settings import number_text
from poisonbench.results.records import RunRecord, read_record
from poisonbench.results.store import Store
from poisonbench.results.submissions import SUFFIX

#: Classes whose poisons are shown one by one.
MOST_CLASSES = 10

app = common.command_app()


@dataclass(frozen=True, kw_only=True)
class _InspectOptions:
    target: Annotated[
        str,
        typer.Argument(
            metavar="PATH|ID", help="An artefact or a record; an id's beginning will do."
        ),
    ]
    dataset: common.DatasetOption = None
    preview: Path | None = common.option(
        None,
        "Write a poison's picture to this file: its target if it has one, then clean images, "
        "poisoned ones and their difference.",
    )
    results: common.ResultsOption = DEFAULT_RESULTS
    data_root: common.DataRootOption = DEFAULT_DATA_ROOT
    seed: common.SeedOption = 0
    plugin: common.PluginOption = None
    json: common.JsonOption = False


@app.command("inspect", cls=common.Command)
@common.takes(_InspectOptions)
def inspect(options: _InspectOptions) -> None:
    """Check a poison against its data set (budget, labels, rows), or show a run and its command.

    The data set is the one that the artefact names, unless --dataset says where it lies.
    """
    if options.preview is not None and options.preview.suffix.lower() != ".png":
        raise UsageError(
            f"--preview: expected a name that ends with .png, as the picture is one, got "
            f"{options.preview}"
        )
    path = find_target(options.target, Store(options.results))
    if path.suffix != ".json":
        _audit(path, options)
        return
    # A record needs no data to be shown.
    of_poison = {
        "--dataset": options.dataset is not None,
        "--preview": options.preview is not None,
        "--seed": options.seed != 0,
    }
    if flag := next((flag for flag, is_given in of_poison.items() if is_given), None):
        raise UsageError(f"{flag}: expected a poison, got the run record {path}; leave it out")
    _show_record(read_record(path), options.json)


def find_target(target: str, store: Store) -> Path:
    """The file or folder of a path, or of an id or the beginning of one.

    Raises:
        UsageError: several ids that begin so, or a submission, whose records are no files here.
        ArtefactError: there is none.
    """
    if target and (path := Path(target)).exists():
        if path.name.endswith(SUFFIX):
            raise UsageError(
                f"expected a poison or a record, got the submission {path}; `poisonbench report "
                f"--runs --results {path}` shows its runs"
            )
        return path
    common.check_results_folder(store.root)
    known = (*store.poison_paths(), *store.record_paths())
    paths = [path for path in known if path.stem.startswith(target)]
    if len(paths) == 1:
        return paths[0]
    if paths:
        ids = ", ".join(f"{path.parent.name.removesuffix('s')} {path.stem}" for path in paths[:5])
        ids += f" and {len(paths) - 5} more" if paths[5:] else ""
        raise UsageError(
            f"expected the beginning of one id in {store.root}, got {target!r} of {ids}; write more"
        )
    raise ArtefactError(
        f"expected a path, or the id of a poison or run in {store.root}, got {target!r}; "
        f"see {store.root / 'poisons'} and {store.root / 'runs'}"
    )


def _audit(path: Path, options: _InspectOptions) -> None:
    from poisonbench.data.artefacts import PREVIEW_NAME, check_dataset, read_poison
    from poisonbench.data.preview import preview_of
    from poisonbench.data.sources import load_dataset

    poison = read_poison(path)
    card = poison.card
    name = options.dataset or card.dataset.name
    data = load_dataset(name, options.data_root, options.seed)
    measured = msgspec.to_builtins(check_dataset(poison, data))
    shares = {
        attack: int((poison.sources == position).sum())
        for position, attack in enumerate(card.attacks)
    }
    by_class = data.train.labels[poison.indices].bincount(minlength=data.num_classes).tolist()
    folder = path if path.is_dir() else path.parent
    picture = options.preview or folder / PREVIEW_NAME
    if options.preview is not None:
        write_bytes(picture, preview_of(poison, data))
    figures: dict[str, Any] = {
        "path": str(path),
        "attacks": shares,
        "goal": msgspec.to_builtins(card.goal, order="sorted"),
        "dataset": name,
        "num_poisons": len(poison),
        "share_of_training_set": len(poison) / len(data.train),
        "norm": card.norm,
        "epsilon": card.epsilon,
        "levels": card.levels,
        **measured,
        "poisons_by_class": dict(zip(data.class_names, by_class, strict=True)),
        "labels": "unchanged (an artefact holds no labels)"
        if poison.labels is None
        else f"dirty label: {card.changed_labels} of the poisons have another than their image's",
        "digest": card.digest,
        "preview": str(picture) if picture.is_file() else None,
        "made_by": msgspec.to_builtins(card.spec, order="sorted"),
    }
    shown = dict(figures)
    if data.num_classes > MOST_CLASSES:
        counts = [count for count in by_class if count] or [0]
        shown["poisons_by_class"] = (
            f"{min(counts)} to {max(counts)} in {sum(map(bool, by_class))} of {data.num_classes} "
            "classes (--json has each)"
        )
    if poison.goal is not None:
        goal, names = poison.goal, data.class_names
        shown["goal"] = (
            f"test image {goal.target} of class {names[goal.target_class]} shall be called "
            f"{names[goal.intended_class]}; poisons of class {names[goal.poison_class]}; scenario "
            f"{goal.scenario}; target {goal.targets}"
        )
    if (trigger := poison.trigger) is not None:
        shown["goal"] = (
            f"{trigger.images_text} test images with the trigger shall be called "
            f"{data.class_names[trigger.target_class]}; {trigger.text}"
        )
    shown["verdict"] = "sound: seal, rows, data set and budget agree"
    lines = [f"{name.replace('_', ' '):24}{_in_levels(value)}" for name, value in shown.items()]
    common.show(figures, lines, options.json)


def _show_record(record: RunRecord, json: bool) -> None:
    from poisonbench.page.repeat import GIVEN, command_of_run

    fields = msgspec.to_builtins(record, order="sorted")
    command = command_of_run(record)
    lines = [f"command: {command or 'none can mean what the record says'}"]
    if command and GIVEN in command.split():
        lines.append(f"  {GIVEN}: the folder of the poison that the run was given")
    for section in ("spec", "labels", "metrics", "digests", "cost", "environment"):
        lines.append(f"{section}:")
        for name, value in fields[section].items():
            lines.append(
                f"  {name:26}{_in_levels(value) if section in ('spec', 'labels') else value}"
            )
    for title in ("curve", "notes"):
        lines.append(f"{title}:")
        for row in fields[title]:
            lines.append("  " + "  ".join(f"{name} {_figure(name, v)}" for name, v in row.items()))
    lines += [f"warning: {sentence}" for sentence in record.warnings]
    common.show({**fields, "command": command}, lines, json)


def _figure(name: str, value: Any) -> Any:
    """A figure of a record's rows to five digits; noise of whole grey levels as 16/255."""
    if not isinstance(value, float):
        return value
    level = round(255 * value)
    # Noise is a difference of pixels of [0, 1] in float32.
    is_level = "noise" in name and 0 < level < 255 and abs(level / 255 - value) < 1e-7
    return number_text(level / 255) if is_level else f"{value:.5g}"


def _in_levels(value: Any) -> str:
    """Settings as text, whole grey levels among them (which are no short decimals) as 64/255."""

    def shown(match: re.Match[str]) -> str:
        level = round(255 * float(match[0]))
        return f"{level}/255" if level / 255 == float(match[0]) else match[0]

    return re.sub(r"\b0\.\d{8,}", shown, str(value))
