"""What a record says of classes with which something is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from poisonbench.data.splits import Dataset


def class_warnings(
    dataset: Dataset, by_class: Sequence[float], notes: Sequence[Mapping[str, Any]]
) -> list[str]:
    """One sentence for each class and what is wrong with it.

    Args:
        dataset: what was trained on.
        by_class: test accuracy of each class.
        notes: the run's, of its defense's rounds.
    """
    return _never_right(dataset, by_class) + _filtered_out(dataset, notes)


def _never_right(dataset: Dataset, by_class: Sequence[float]) -> list[str]:
    """Classes without test images, and those of which no test image is classified right."""
    absent = [
        name
        for name, count in zip(
            dataset.class_names,
            torch.bincount(dataset.test.labels, minlength=dataset.num_classes).tolist(),
            strict=True,
        )
        if count == 0
    ]
    never = [name for name, share in zip(dataset.class_names, by_class, strict=True) if share == 0]
    sentences = [f"class {name} has no test images" for name in absent]
    return sentences + [f"class {n} is never classified right" for n in never if n not in absent]


def _filtered_out(dataset: Dataset, notes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Classes that a filter would have emptied, and those that an oracle did empty."""
    spared: dict[int, list[str]] = {}
    for note in notes:
        for label in note.get("classes_spared", ()):
            spared.setdefault(label, []).append(str(note["epoch"] + 1))
    emptied = dict.fromkeys(label for note in notes for label in note.get("classes_emptied", ()))
    names = dataset.class_names
    return [
        *(
            f"class {names[label]} was kept before epoch {', '.join(epochs)}: the filter would "
            "have removed all of it"
            for label, epochs in spared.items()
        ),
        *(
            f"class {names[label]} was nothing but poison and is not trained on: that an attack on "
            "it fails says nothing"
            for label in emptied
        ),
    ]
