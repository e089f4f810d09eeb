"""What a defense's hooks return and leave is checked here: what does not fit is one line.

N are the images that the defense was given, those that its ``extend`` adds apart.
"""

import inspect
import json
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from poisonbench.core.errors import (
    DivergedError,
    UsageError,
    check_returned,
    on_device,
    one_line,
)
from poisonbench.core.settings import closest
from poisonbench.data.splits import Split, digest_tensors
from poisonbench.training.state import Defense, TrainingSet

#: Names in a note whose values are lists of classes, which the record's warnings name.
CLASS_LISTS = ("classes_spared", "classes_emptied")


def extended(defense: Defense, train: Split, validation: Split, num_classes: int) -> Split:
    """What a run trains on: the N images with their labels, then the rows that a defense adds.

    Raises:
        UsageError: ``extend`` returned something else, or changed what it was given.
    """
    given = (train.images, train.labels, validation.images, validation.labels)
    before = versions(given)
    split = defense.extend(train, validation)
    check_untouched("extend", given, before)
    check_returned("extend", isinstance(split, Split), "a Split", split)
    count, shape = train.images.shape[0], train.images.shape[1:]
    fits = len(split) >= count and split.images.shape[1:] == shape
    expected = f"the {count} images of shape {tuple(shape)}, then added ones"
    check_returned("extend", fits, expected, split.images)
    changed = int((split.labels[:count] != train.labels).sum())
    if changed:
        raise UsageError(
            f"extend: expected the {count} labels as given, then added ones, got {changed} others; "
            "mend it"
        )
    low, high = map(int, split.labels.aminmax())
    if low < 0 or high >= num_classes:
        raise UsageError(
            f"extend: expected labels in 0..{num_classes - 1}, got {low if low < 0 else high}; "
            "mend it"
        )
    return split


def check_epoch(train: TrainingSet, original: TrainingSet, *, keeps_range: bool) -> None:
    """Raise UsageError unless ``start_epoch`` returned the run's images with their labels.

    They may have other pixels, and be fewer of them.
    """
    check_returned("start_epoch", isinstance(train, TrainingSet), "a TrainingSet", train)
    images, labels, keep = train.images, train.labels, train.keep
    shape = original.images.shape
    fits = is_tensor(images, shape, torch.uint8) or is_tensor(images, shape, torch.float32)
    fits = fits and images.device == original.images.device
    expected = f"uint8 or float32 images {tuple(shape)}{on_device(original.images.device)}"
    check_returned("start_epoch", fits, expected, images)
    if images.dtype is torch.float32 and keeps_range:
        check_range("start_epoch", extremes_of(images))
    fits = keep is None or is_tensor(keep, shape[:1], torch.bool)
    check_returned("start_epoch", fits, f"keep of shape ({shape[0]},) torch.bool", keep)
    fits = is_tensor(labels, shape[:1], torch.int64) and torch.equal(labels, original.labels)
    check_returned("start_epoch", fits, "the labels of state.train", labels)


def check_batch(images: Tensor, given: Tensor) -> None:
    """Raise UsageError unless ``perturb_batch`` returned images like those that it was given."""
    shape, device = given.shape, given.device
    fits = is_tensor(images, shape, torch.float32) and images.device == device
    expected = f"float32 images {tuple(shape)}{on_device(device)}"
    check_returned("perturb_batch", fits, expected, images)


def extremes_of(images: Tensor) -> Tensor:
    """The least and the greatest pixel, (2,); a GPU is not waited for."""
    return torch.stack(images.aminmax())


def check_range(where: str, extremes: Tensor) -> None:
    """Raise UsageError for pixels that are not about in [0, 1]; NaN is let through.

    Noise may reach over the edges, not this far; grey levels and normalised images do.
    """
    low, high = extremes.tolist()
    if low < -1 or high > 2:
        raise UsageError(
            f"{where}: expected pixels in [0, 1], none under -1 or over 2 (or keeps_range = False "
            f"in the defense's class), got {low:g} to {high:g}; mend it"
        )


def misnamed_hooks(defense: Defense) -> list[str]:
    """A defense's methods with almost a hook's name, each with the hook's; nobody calls them."""
    known = {name for name in vars(Defense) if not name.startswith("_")}
    own = {name for name, _ in inspect.getmembers(type(defense), inspect.isfunction)} - known
    almost = {name: hook for name in own if (hook := closest(name, known, likeness=0.85))}
    return [f"{name}, which is not {hook}" for name, hook in sorted(almost.items())]


def check_memory(defense: str, memory: Any, count: int) -> None:
    """Raise UsageError unless a defense's memory can be saved, and go into a record of N images.

    Values are not looked at: :func:`check_rows`.
    """
    check_returned(f"{defense}: self.memory", isinstance(memory, dict), "a dict", memory)
    for name, value in memory.items():
        fits = isinstance(name, str) and isinstance(value, Tensor)
        check_returned(f"{defense}: self.memory[{name!r}]", fits, "a tensor by a name", value)
    keep, selected = memory.get("keep"), memory.get("selected")
    fits = keep is None or is_tensor(keep, (count,), torch.bool)
    check_returned(f'{defense}: self.memory["keep"]', fits, f"shape ({count},) torch.bool", keep)
    fits = selected is None or is_tensor(selected, (selected.numel(),), torch.int64)
    check_returned(f'{defense}: self.memory["selected"]', fits, "shape (S,) torch.int64", selected)


def check_parameters(defense: str, model: Module, given: Sequence[Tensor]) -> None:
    """Raise UsageError unless a model has the float32 parameters that its optimizer steps."""
    own = list(model.parameters())
    is_same = len(own) == len(given) and all(map(operator.is_, own, given))
    other = next((p.dtype for p in own if p.dtype is not torch.float32), None)
    if not is_same or other is not None:
        got = "other ones or another order" if other is None else f"some of {other}"
        raise UsageError(
            f"{defense}: expected state.model with the parameters that it had, in float32, got "
            f"{got}; work on copy.deepcopy(state.model), or give the run another network by --model"
        )


def check_rows(defense: str, selected: Tensor, count: int) -> None:
    """Raise UsageError unless the rows (S,) that a defense selected are of N images."""
    outside = selected[(selected < 0) | (selected >= count)].tolist()
    if outside:
        raise UsageError(
            f'{defense}: self.memory["selected"]: expected rows in 0..{count - 1}, '
            f"got {outside[0]}; mend it"
        )


def plain_note(defense: str, row: dict[str, Any], num_classes: int) -> dict[str, Any]:
    """What a defense notes as JSON reads it back, numpy's numbers as Python's.

    Raises:
        UsageError: it is no dictionary, or holds what JSON does not, or no classes by the names
            that are theirs.
        DivergedError: a number is not finite.
    """
    where = f"{defense}: state.note"
    check_returned(where, isinstance(row, dict), "a dictionary", row)
    plain: dict[str, Any] = {}
    for name, value in row.items():
        try:
            text = json.dumps({name: value}, allow_nan=False, default=_of_numpy)
        except ValueError:
            raise DivergedError(
                f"{where}: expected finite numbers as {name!r}, got {value!r:.60}; look at where "
                "they come from, or leave them out"
            ) from None
        except TypeError as error:
            raise UsageError(
                f"{where}: expected JSON values as {name!r}, got {one_line(error)}; note numbers "
                "by float() or int()"
            ) from None
        plain |= json.loads(text)
    for name in CLASS_LISTS:
        labels = plain.get(name, [])
        fits = isinstance(labels, list) and all(
            isinstance(label, int) and label in range(num_classes) for label in labels
        )
        expected = f"a list of classes in 0..{num_classes - 1} as {name!r}"
        check_returned(where, fits, expected, labels)
    return plain


def is_tensor(value: Any, shape: Sequence[int], dtype: torch.dtype) -> bool:
    """Whether a value is a tensor of a shape and a dtype."""
    return isinstance(value, Tensor) and (value.shape, value.dtype) == (tuple(shape), dtype)


def versions(tensors: Sequence[Tensor]) -> list[int]:
    """How often each was changed in place, 0 where that is not counted; a GPU is not waited for."""
    return [0 if tensor.is_inference() else tensor._version for tensor in tensors]


def check_untouched(where: str, given: Sequence[Tensor], before: Sequence[int]) -> None:
    """Raise UsageError where tensors that code was given have other versions than before."""
    _require_untouched(where, is_same=versions(given) == before)


def check_bytes(where: str, given: Sequence[Tensor], before: str) -> None:
    """Raise UsageError where tensors have another digest than before.

    It also sees what ``.numpy()`` and ``.data`` wrote, which no version counts.
    """
    _require_untouched(where, is_same=digest_tensors(*given) == before)


def _require_untouched(where: str, *, is_same: bool) -> None:
    if not is_same:
        raise UsageError(
            f"{where}: expected the images and labels given to it as they were, got a change in "
            "place; work on clones, or with functions whose names do not end in _"
        )


def _of_numpy(value: Any) -> Any:
    """A number of numpy's as Python's."""
    if isinstance(value, np.number | np.bool_):
        return value.item()
    raise TypeError(f"{type(value).__name__}")
