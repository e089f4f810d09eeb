"""Published poison sets in the formats they come in, as rows of our training split.

* ``benchmark``: the folder of a submission to "Just How Toxic" (Schwarzschild et al., 2021):
  ``poisons.pickle``, a list of (picture, label), ``base_indices.pickle``, the training images that
  they replace, and ``target.pickle``, a (picture, label).
* ``gradient-matching``: the dict that HINT's authors had from Geiping et al.'s code:
  ``poison_ids``, ``poison_delta`` in normalised units, ``poison_setup``, ``target_images`` (image,
  label, test index).
* ``metapoison``: the dict of Huang et al.'s downloads: all training images with the poisons among
  them (``xtrain``, ``ytrain``; NHWC, 0..255, sorted by class), ``xtarget``, ``ytarget``,
  ``ytargetadv``.
* ``tensors``: images and labels of a whole training set, untargeted (:mod:`.tensor_files`).
* ``dc-generator``: weights that make the poisons (``runs/released_generator.py``), no set itself.

Rows are found by the training images' own numbers, which our split keeps, and for ``metapoison``
and ``tensors``, which have none, by the images: what is in the file and not in the data set is a
poison, and its base is the nearest image of its class that the file lacks.

Deviations from the codes that read these: pixels are rounded and clipped, where the references
truncate a poison and let MetaPoison's values outside 0..255 wrap around; poisons whose base image
we hold out for validation are left out.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from poisonbench.core.errors import ArtefactError, UsageError
from poisonbench.data.base_images import MAX_LEVELS, poisons_among
from poisonbench.data.pickles import array_of, read_pickle
from poisonbench.data.splits import Dataset
from poisonbench.data.tensor_files import read_tensor_set
from poisonbench.targeting import Goal

Format = Literal["benchmark", "gradient-matching", "metapoison", "tensors", "dc-generator"]
Std = Literal["hint", "pgm"]
Ids = Literal["hint", "original"]

#: Standard deviations of CIFAR-10 that deltas are in units of: HINT's loader's and those of
#: Geiping et al.'s code, which crafted them.
STDS: dict[str, tuple[float, ...]] = {
    "hint": (0.2023, 0.1994, 0.2010),
    "pgm": (0.2470, 0.2430, 0.2620),
}
#: Formats without a target.
UNTARGETED_FORMATS = ("tensors", "dc-generator")
BENCHMARK_FILES = ("poisons.pickle", "base_indices.pickle", "target.pickle")


class _Setup(msgspec.Struct):
    poison_class: Any
    intended_class: Any


class _GradientMatching(msgspec.Struct):
    poison_ids: Any
    poison_delta: Any
    poison_setup: _Setup
    #: Of image, label and index.
    target_images: Annotated[list[tuple[Any, Any, Any]], msgspec.Meta(min_length=1, max_length=1)]


class _MetaPoison(msgspec.Struct):
    xtrain: Any
    ytrain: Any
    xtarget: Any
    ytarget: Any
    ytargetadv: Any


class PoisonSet(NamedTuple):
    """A published set, its images (P, C, H, W) uint8 matched to rows (P,) of our training split.

    The goal is None where it is untargeted, else from scratch, as no file says how a victim is
    trained. Poisons of other bases than our rows are left out.
    """

    rows: Tensor
    images: Tensor
    goal: Goal | None
    num_left_out: int


def files_of(path: Path, form: Format) -> list[Path]:
    """The files of a set.

    Raises:
        ArtefactError: they are not there.
    """
    files = [path / name for name in BENCHMARK_FILES] if form == "benchmark" else [path]
    for file in files:
        if not file.is_file():
            raise ArtefactError(
                f"{file}: expected a file of a poison set in format {form}, found none; "
                + ("name the folder that holds it" if form == "benchmark" else "name the file")
            )
    return files


def read_poison_set(
    path: Path, form: Format, dataset: Dataset, *, std: Std | None = None, ids: Ids = "hint"
) -> PoisonSet:
    """Read a set and find its images in a data set.

    Args:
        path: a folder for ``benchmark``, else a file.
        form: the format.
        dataset: what it was made for.
        std: in whose units ``gradient-matching`` has its deltas.
        ids: what its numbers count: the first 49,000 images in HINT's order, or the data set's own.

    Raises:
        UsageError: no ``std`` where it is needed, or HINT's order of a part of a data set.
        ArtefactError: unreadable, unsafe, not of that format, or not of that data set.
    """
    files = files_of(path, form)
    try:
        if form == "benchmark":
            return _read_benchmark(files, dataset)
        if form == "gradient-matching":
            return _read_gradient_matching(files[0], dataset, std, ids)
        if form == "tensors":
            return _poison_set(*read_tensor_set(files[0], dataset), None, dataset)
        return _read_metapoison(files[0], dataset)
    except ArtefactError as error:
        text = str(error)
        raise ArtefactError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def _read_benchmark(files: list[Path], dataset: Dataset) -> PoisonSet:
    content, numbers, target = (read_pickle(file) for file in files)
    pairs = _converted(content, Annotated[list[tuple[Any, Any]], msgspec.Meta(min_length=1)])
    image, label, *patch = _converted(target, Annotated[list[Any], msgspec.Meta(min_length=2)])
    _check(not patch, "a target without a patch: attacks with a trigger are not run here")
    pictures = [_picture(picture, "poisons", dataset) for picture, _ in pairs]
    labels = _integers([label for _, label in pairs], "poisons' labels")
    row = _row_of(_picture(image, "target", dataset), dataset)
    intended = int(labels[0])
    rows = _rows(_integers(numbers, "base_indices"), dataset)
    goal = _goal(row, _integer(label, "target's label"), intended, intended)
    return _poison_set(rows, torch.stack(pictures), labels, goal, dataset)


def _read_gradient_matching(file: Path, dataset: Dataset, std: Std | None, ids: Ids) -> PoisonSet:
    if std is None:
        raise UsageError(
            "--std: expected hint or pgm with --format gradient-matching, got none: deltas are in "
            "units of a standard deviation, and the two codes have different ones"
        )
    content = _converted(read_pickle(file), _GradientMatching)
    ((_, target_class, row),) = content.target_images
    numbers = _integers(content.poison_ids, "poison_ids")
    if ids == "hint":
        order = _hint_order(dataset)
        is_known = bool(((numbers >= 0) & (numbers < len(order))).all())
        _check(is_known, f"poison_ids under {len(order)}")
        numbers = order[numbers]
    rows = _rows(numbers, dataset)
    delta = torch.from_numpy(array_of(content.poison_delta, "poison_delta")).float()
    expected = (len(rows), *dataset.image_shape)
    _check(delta.shape == expected, f"poison_delta of shape {expected}")
    _check(bool(delta.isfinite().all()), "finite deltas")
    _check(dataset.image_shape[0] == 3, "images of three channels")
    scale = 255 * torch.tensor(STDS[std]).view(1, 3, 1, 1)
    exact = dataset.train.images[rows.clamp(min=0)].float() + scale * delta
    images = torch.floor(exact + 0.5).clamp(0, 255).to(torch.uint8)
    poison_class = _integer(content.poison_setup.poison_class, "poison_class")
    labels = torch.full((len(rows),), poison_class)
    goal = _goal(
        _integer(row, "target's index"),
        _integer(target_class, "target's label"),
        _integer(content.poison_setup.intended_class, "intended_class"),
        poison_class,
    )
    return _poison_set(rows, images, labels, goal, dataset)


def _read_metapoison(file: Path, dataset: Dataset) -> PoisonSet:
    content = _converted(read_pickle(file), _MetaPoison)
    images = _pixels(array_of(content.xtrain, "xtrain"), "xtrain", dataset)
    labels = _integers(content.ytrain, "ytrain").flatten()
    _check(len(labels) == len(images), "a label for each image")
    rows, poisons, poison_labels = poisons_among(images, labels, dataset)
    poison_class = int(poison_labels[0])
    _check(bool((poison_labels == poison_class).all()), "poisons of one class")
    target = _pixels(array_of(content.xtarget, "xtarget"), "xtarget", dataset)
    _check(len(target) == 1, "one target")
    goal = _goal(
        _row_of(target[0], dataset),
        _integer(content.ytarget, "ytarget"),
        _integer(content.ytargetadv, "ytargetadv"),
        poison_class,
    )
    return _poison_set(rows, poisons, poison_labels, goal, dataset)


def _poison_set(
    rows: Tensor, images: Tensor, labels: Tensor, goal: Goal | None, dataset: Dataset
) -> PoisonSet:
    """Sort, leave out what our split lacks (row -1), and check what is left against its bases."""
    if goal is not None:
        _check_goal(goal, dataset)
    _check(len(rows) == len(images) == len(labels), "as many base images and labels as poisons")
    is_kept = rows >= 0
    rows, order = rows[is_kept].sort()
    images, labels = images[is_kept][order].contiguous(), labels[is_kept][order]
    _check(len(rows) > 0, f"base images among the training images of {dataset.name}")
    _check(bool((rows.diff() > 0).all()), "another base image for each poison")
    bases = dataset.train.rows(rows)
    _check(
        torch.equal(bases.labels, labels),
        "each poison to have its base image's label (an artefact holds none); its numbers count "
        "images of another order or data set, or the attack is not clean-label",
    )
    largest = int((images.short() - bases.images.short()).abs().max())
    _check(
        largest <= MAX_LEVELS,
        f"poisons within {MAX_LEVELS} grey levels of their base images; got {largest}: their "
        "numbers count images of another order or data set",
    )
    return PoisonSet(rows, images, goal, int((~is_kept).sum()))


def _goal(target: int, target_class: int, intended_class: int, poison_class: int) -> Goal:
    return Goal(target, target_class, intended_class, poison_class, "scratch", "given")


def _check_goal(goal: Goal, dataset: Dataset) -> None:
    classes = dataset.test.labels
    _check(
        0 <= goal.target < len(classes) and int(classes[goal.target]) == goal.target_class,
        f"test image {goal.target} of {dataset.name} to be of class {goal.target_class}",
    )
    for name, label in (("intended", goal.intended_class), ("poison", goal.poison_class)):
        _check(0 <= label < dataset.num_classes, f"an {name} class in 0..{dataset.num_classes - 1}")
    _check(
        goal.intended_class != goal.target_class,
        f"an intended class that is not the target's own, {goal.target_class}",
    )


def _rows(numbers: Tensor, dataset: Dataset) -> Tensor:
    """Rows of the training split, -1 where it lacks an image, by the data set's own numbers."""
    _check(numbers.ndim == 1 and bool((numbers >= 0).all()), "a list of images' numbers from 0 on")
    own = dataset.train_rows
    if own is None:
        own = torch.arange(len(dataset.train))
    rows = torch.searchsorted(own, numbers).clamp(max=len(own) - 1)
    return torch.where(own[rows] == numbers, rows, -1)


def _hint_order(dataset: Dataset) -> Tensor:
    """HINT's split: a permutation of all training images by seed 1, validation at its end."""
    if "@" in dataset.name:
        raise UsageError(
            f"--ids: expected original with a part of a data set, got hint with {dataset.name}; "
            "HINT's order is one of all training images"
        )
    size = len(dataset.train) + len(dataset.validation)
    return torch.randperm(size, generator=torch.Generator().manual_seed(1))


def _row_of(image: Tensor, dataset: Dataset) -> int:
    """The row of a test image that equals one of shape (C, H, W)."""
    rows = (dataset.test.images == image).flatten(1).all(1).nonzero().flatten()
    _check(len(rows) > 0, f"a target that is a test image of {dataset.name}")
    return int(rows[0])


def _picture(value: Any, what: str, dataset: Dataset) -> Tensor:
    array = array_of(value, what)
    _check(array.dtype == np.uint8 and array.ndim in (2, 3), f"{what} as pictures of 8 bits")
    return _pixels(np.atleast_3d(array)[None], what, dataset)[0]


def _pixels(array: NDArray[Any], what: str, dataset: Dataset) -> Tensor:
    """(N, H, W, C) of any type as (N, C, H, W) uint8, clipped to 0..255 and rounded half up."""
    channels, height, width = dataset.image_shape
    _check(
        array.ndim == 4 and array.shape[1:] == (height, width, channels),
        f"{what} of shape (N, {height}, {width}, {channels}) for {dataset.name}",
    )
    _check(bool(np.isfinite(array).all()), f"finite pixels in {what}")
    result = np.empty((len(array), channels, height, width), np.uint8)
    for first in range(0, len(array), 1024):
        part = array[first : first + 1024].astype(np.float32)
        result[first : first + 1024] = np.floor(part.clip(0, 255) + 0.5).transpose(0, 3, 1, 2)
    return torch.from_numpy(result)


def _integers(value: Any, what: str) -> Tensor:
    array = array_of(value, what)
    _check(array.dtype.kind in "iu", f"{what} as whole numbers")
    return torch.from_numpy(array.astype(np.int64))


def _integer(value: Any, what: str) -> int:
    """A number, alone or first in a list of one."""
    numbers = _integers(value, what).flatten()
    _check(len(numbers) == 1, f"{what} as one whole number")
    return int(numbers[0])


def _converted(value: Any, form: Any) -> Any:
    """A pickle's plain values as a form, or ArtefactError."""
    try:
        return msgspec.convert(value, form)
    except msgspec.ValidationError as error:
        text = f"expected a poison set of this format, got another: {error}"
        raise ArtefactError(text) from None


def _check(holds: bool, expected: str) -> None:
    if not holds:
        raise ArtefactError(f"expected {expected}; it is not of this format or data set")
