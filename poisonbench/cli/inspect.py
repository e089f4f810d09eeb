"""``poisonbench inspect``: audit a poison artefact or show a run record."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from poisonbench.cli.common import (
    Command,
    DataRootOption,
    DatasetOption,
    JsonOption,
    PluginOption,
    ResultsOption,
    SeedOption,
    command_app,
    print_json,
)
from poisonbench.core.errors import ArtefactError, UsageError
from poisonbench.core.files import write_bytes
from poisonbench.core.folders import DEFAULT_DATA_ROOT, DEFAULT_RESULTS
from poisonbench.results.records import RunRecord, read_record
from poisonbench.results.store import Store
from poisonbench.targeting import Goal

app = command_app()


@app.command("inspect", cls=Command)
def inspect(
    target: Annotated[
        str,
        typer.Argument(
            metavar="PATH|ID", help="An artefact or a record; an id's beginning will do."
        ),
    ],
    dataset: DatasetOption = None,
    preview: Annotated[
        Path | None,
        typer.Option(
            "--preview",
            help="Write a poison's picture to this file: its target if it has one, then clean "
            "images, poisoned ones and their difference.",
        ),
    ] = None,
    results: ResultsOption = DEFAULT_RESULTS,
    data_root: DataRootOption = DEFAULT_DATA_ROOT,
    seed: SeedOption = 0,
    plugin: PluginOption = None,
    json: JsonOption = False,
) -> None:
    """Check a poison against its data set (budget, labels, rows), or show a run record.

    The data set is the one that the artefact names, unless --dataset says where it lies.
    """
    path = _find(target, Store(results))
    if path.suffix != ".json":
        _audit(path, dataset, data_root, seed, preview, json)
    elif preview is not None:
        raise UsageError(f"--preview: expected a poison, got the run record {path}; leave it out")
    else:
        _show_record(read_record(path), json)


def _find(target: str, store: Store) -> Path:
    """The file or folder of a path, or of an id or the beginning of one."""
    if Path(target).exists():
        return Path(target)
    known = (*store.poison_paths(), *store.record_paths())
    paths = [path for path in known if path.stem.startswith(target)]
    if len(paths) == 1:
        return paths[0]
    if paths:
        ids = ", ".join(f"{path.parent.name.removesuffix('s')} {path.stem}" for path in paths)
        raise UsageError(
            f"expected the beginning of one id in {store.root}, got {target!r} of {ids}; write more"
        )
    raise ArtefactError(
        f"expected a path, or the id of a poison or run in {store.root}, got {target!r}; "
        f"see {store.root / 'poisons'} and {store.root / 'runs'}"
    )


def _audit(
    path: Path,
    dataset: str | None,
    data_root: Path,
    seed: int,
    preview: Path | None,
    json: bool,
) -> None:
    from poisonbench.data.artefacts import PREVIEW_NAME, read_poison
    from poisonbench.data.preview import preview_of
    from poisonbench.data.sources import load_dataset

    poison = read_poison(path)
    card = poison.card
    name = dataset or card["dataset"]["name"]
    data = load_dataset(name, data_root, seed)
    poison = read_poison(path, data)
    measured = poison.measure(data.train)
    shares = {
        attack: int((poison.sources == position).sum())
        for position, attack in enumerate(card["attacks"])
    }
    by_class = data.train.labels[poison.indices].bincount(minlength=data.num_classes).tolist()
    picture = (path if path.is_dir() else path.parent) / PREVIEW_NAME
    if preview is not None:
        picture = preview
        write_bytes(picture, preview_of(poison, data))
    figures: dict[str, Any] = {
        "path": str(path),
        "attacks": shares,
        "goal": card["goal"],
        "dataset": name,
        "num_poisons": len(poison),
        "share_of_training_set": len(poison) / len(data.train),
        "epsilon": card["epsilon"],
        "levels": card["levels"],
        **measured,
        "poisons_by_class": dict(zip(data.class_names, by_class, strict=True)),
        "labels": "unchanged (an artefact holds no labels)",
        "digest": card["digest"],
        "preview": str(picture) if picture.is_file() else None,
        "made_by": card["spec"],
    }
    if json:
        print_json(figures)
        return
    if poison.goal is not None:
        figures["goal"] = _in_words(poison.goal, data.class_names)
    for key, value in figures.items():
        print(f"{key.replace('_', ' '):24}{_in_levels(value)}")
    print(f"{'verdict':24}sound: seal, rows, data set and budget agree")


def _in_words(goal: Goal, names: Sequence[str]) -> str:
    return (
        f"test image {goal.target} of class {names[goal.target_class]} shall be called "
        f"{names[goal.intended_class]}; poisons of class {names[goal.poison_class]}; scenario "
        f"{goal.scenario}; target {goal.targets}"
    )


def _show_record(record: RunRecord, json: bool) -> None:
    fields = msgspec.to_builtins(record, order="sorted")
    if json:
        print_json(fields)
        return
    for section in ("spec", "labels", "metrics", "digests", "cost", "environment"):
        print(f"{section}:")
        for key, value in fields[section].items():
            print(f"  {key:22}{_in_levels(value) if section == 'spec' else value}")
    for title in ("curve", "notes"):
        print(f"{title}:")
        for row in fields[title]:
            print("  " + "  ".join(f"{k} {_short(v)}" for k, v in row.items()))
    for sentence in record.warnings:
        print(f"warning: {sentence}")


def _in_levels(value: Any) -> str:
    """Settings as text, whole grey levels among them (which are no short decimals) as 64/255."""

    def shown(match: re.Match[str]) -> str:
        level = round(255 * float(match[0]))
        return f"{level}/255" if level / 255 == float(match[0]) else match[0]

    return re.sub(r"\b0\.\d{8,}", shown, str(value))


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
