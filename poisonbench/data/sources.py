"""From a name to a data set: the one function that everything else loads data with."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from poisonbench.core.errors import ArtefactError, UsageError, check_returned
from poisonbench.core.progress import mute
from poisonbench.core.quick_names import split_quick
from poisonbench.data.names import split_name, split_pixels, split_size
from poisonbench.data.pictures import scaled
from poisonbench.data.quick import with_quick_settings
from poisonbench.data.splits import Dataset, RawData, Split, hold_out, room_to_hold_out
from poisonbench.entries import DatasetEntry
from poisonbench.registry import datasets

#: Images held out of the train split, where it is large enough.
VALIDATION_SIZE = 1000


def load_dataset(
    name: str,
    data_root: Path,
    root_seed: int,
    *,
    download: bool = False,
    say: Callable[[str], None] = mute,
) -> Dataset:
    """A data set with its validation images held out of the train split.

    Of the train images, min(1000, 10 %) are held out, balanced over the classes, by a draw that
    depends on ``root_seed`` and the kind of data set, not on its path; fewer where a class is too
    small for its share. ``mnist-sample`` has a
    fixed validation split. ``cifar10@5000`` is cifar10 with 5,000 of its training images, balanced
    over the classes, by a draw that depends on ``root_seed``; all of them are in ``cifar10@6000``.
    ``NAME@quick`` and ``folder@quick:PATH`` are the same images with settings for a CPU.
    ``stl10@32x32`` has images of that width and height, see :mod:`poisonbench.data.pictures`.

    Args:
        name: see :func:`~poisonbench.data.names.about`.
        data_root: where downloaded data sets are, in torchvision's layout.
        root_seed: what draws depend on.
        download: fetch what is missing; otherwise nothing touches the network.
        say: receives remarks for the person at the terminal.

    Raises:
        UsageError: unknown name, or ``download`` of the user's own data.
        ArtefactError: files are missing, damaged or not of the expected form.
        StoreError: ``data_root`` cannot be written.
    """
    # Records and pages have the name.
    if any("\ud800" <= sign <= "\udfff" for sign in name):
        raise UsageError(f"expected a name in UTF-8, got {name!r}; rename the file or folder")
    base, quick = split_quick(name)
    if quick is not None:
        usual = load_dataset(base, data_root, root_seed, download=download, say=say)
        return with_quick_settings(usual, name, quick)
    whole, size = split_size(name)
    if size is not None:
        whole_set = load_dataset(whole, data_root, root_seed, download=download, say=say)
        return _subset(whole_set, size, root_seed)
    plain, pixels = split_pixels(name)
    entry, path = split_name(plain)
    module = entry.load()
    if download:
        if not entry.can_fetch:
            patterns = [other.pattern for other in datasets().values() if other.can_fetch]
            raise UsageError(
                f"expected a data set that can be downloaded ({', '.join(patterns)}), got "
                f"{name!r}; your own data is read where it is"
            )
        module.fetch(plain, data_root, say)
    arguments = (entry.name, Path(path).expanduser(), data_root)
    raw = module.load(*arguments, pixels) if entry.takes_size else module.load(*arguments)
    raw = checked(name, entry, raw)
    if pixels is not None and not entry.takes_size:
        raw = scaled(raw, pixels)
    return assemble(name, entry, raw, root_seed, say)


def describe(dataset: Dataset) -> dict[str, Any]:
    """What ``poisonbench data show`` prints, as plain JSON values.

    ``image_shape`` is [C, H, W]; ``class_counts`` has K counts a split; ``mean`` and ``std`` are
    per channel, in [0, 1] units.
    """
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    return {
        "name": dataset.name,
        "digest": dataset.digest,
        "sizes": {part: len(split) for part, split in splits.items()},
        "image_shape": list(dataset.image_shape),
        "classes": list(dataset.class_names),
        "class_counts": {
            part: torch.bincount(split.labels, minlength=dataset.num_classes).tolist()
            for part, split in splits.items()
        },
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "presets": list(dataset.presets),
        "is_paper": dataset.is_paper,
    }


def _subset(whole: Dataset, size: int, root_seed: int) -> Dataset:
    # As balanced as the smallest class allows.
    largest = whole.num_classes * (int(torch.bincount(whole.train.labels).min()) - 1)
    if not whole.num_classes <= size <= largest:
        raise UsageError(
            f"expected {whole.num_classes} to {largest} training images behind the @ of "
            f"{whole.name}, got {size}"
        )
    _, rows = hold_out(whole.train.labels, size, root_seed, f"{whole.name}@")
    name = f"{whole.name}@{size}"
    return replace(
        whole,
        name=name,
        train=whole.train.rows(rows),
        presets=(*whole.presets, name),
        is_paper=False,
        train_rows=rows if whole.train_rows is None else whole.train_rows[rows],
    )


def checked(name: str, entry: DatasetEntry, raw: RawData) -> RawData:
    """What a data set's module loaded, with its names and statistics as Python's.

    Raises:
        UsageError: a field is not what RawData says of it.
        ArtefactError: a split has no images, or none of a pixel.
    """
    where = f"load of {entry.source}"
    check_returned(where, isinstance(raw, RawData), f"RawData for {name}", raw)
    for part in ("train", "test", "validation"):
        split = getattr(raw, part)
        if split is None and part == "validation":
            continue
        check_returned(where, isinstance(split, Split), f"a Split as {part} for {name}", split)
        if split.images.numel() == 0:
            got = f"images of shape {tuple(split.images.shape[1:])}" if len(split) else "none"
            raise ArtefactError(f"{name}: expected images in the {part} split, got {got}; add some")
    names = raw.class_names
    if names is not None:
        fits = isinstance(names, tuple | list) and all(isinstance(one, str) for one in names)  # type: ignore[redundant-expr]
        check_returned(where, fits, f"class_names as a tuple of texts for {name}", names)
        # Those of numpy, which are texts too, are more than JSON has.
        raw = replace(raw, class_names=tuple(map(str, names)))
    if raw.mean is None and raw.std is None:
        return raw
    count = raw.train.images.shape[1]
    mean, std = _numbers(raw.mean), _numbers(raw.std)
    if not len(mean) == len(std) == count or min(std) <= 0:
        raise UsageError(
            f"{where}: expected mean and std of {count} finite numbers for {name}, std over 0, or "
            f"neither, got mean {raw.mean} and std {raw.std}; mend it"
        )
    return replace(raw, mean=mean, std=std)


def _numbers(values: Any) -> tuple[float, ...]:
    """Finite numbers as Python's; nothing of what is no sequence of such."""
    try:
        numbers = tuple(value.item() if hasattr(value, "item") else value for value in values)
        return numbers if all(map(math.isfinite, numbers)) else ()
    except (TypeError, ValueError, RuntimeError):
        return ()


def assemble(
    name: str, entry: DatasetEntry, raw: RawData, root_seed: int, say: Callable[[str], None]
) -> Dataset:
    """A data set of what was loaded and :func:`checked`, with its validation images held out.

    Raises:
        ArtefactError: classes or sizes that no data set has.
    """
    train, validation, train_rows = raw.train, raw.validation, None
    class_names = raw.class_names or _numbered_classes(name, train.labels)
    if len(class_names) < 2:
        raise ArtefactError(
            f"{name}: expected at least 2 classes in train, got {len(class_names)}; add another"
        )
    if validation is None:
        usual = min(VALIDATION_SIZE, max(1, len(train) // 10))
        size = room_to_hold_out(train.labels, usual)
        if size < usual:
            say(
                f"{name}: {size} validation images, not {usual}, as each class gives as many and "
                "the smallest at most half of its own"
            )
        train_rows, held_out = hold_out(train.labels, size, root_seed, entry.name, name)
        train, validation = train.rows(train_rows), train.rows(held_out)
    grey = train.images.shape[1] == 1
    mean, std = raw.mean, raw.std
    if mean is None or std is None:
        mean, std = ((0.0,), (1.0,)) if grey else _statistics(train.images)
    presets = entry.presets or (("mnist",) if grey else ("cifar10",))
    return Dataset(
        name=name,
        train=train,
        validation=validation,
        test=raw.test,
        class_names=class_names,
        presets=presets if not entry.recipe else tuple(dict.fromkeys([*presets, entry.name])),
        mean=mean,
        std=std,
        is_paper=(len(raw.train), len(raw.test)) == entry.paper_sizes,
        network=entry.network,
        train_rows=train_rows,
    )


def _numbered_classes(name: str, labels: Tensor) -> tuple[str, ...]:
    present = torch.unique(labels)
    if not torch.equal(present, torch.arange(len(present))):
        labels_text = ", ".join(map(str, present[:5].tolist())) + ", ..." * (len(present) > 5)
        raise ArtefactError(
            f"{name}: expected y_train to hold every label of 0..K-1, got {labels_text}; "
            "number the classes from 0 without gaps"
        )
    return tuple(map(str, present.tolist()))


def _statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation a channel, in [0, 1] units, rounded to 4 digits."""
    moments = [
        torch.std_mean(images[:, channel].float().div_(255), correction=0)
        for channel in range(images.shape[1])
    ]
    mean = tuple(round(float(mean), 4) for _, mean in moments)
    std = tuple(round(float(std), 4) or 1.0 for std, _ in moments)
    return mean, std
