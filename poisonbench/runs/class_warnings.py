"""What a record says of classes with which something is wrong."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from poisonbench.data.splits import Dataset


def class_warnings(
    dataset: Dataset, by_class: Sequence[float], notes: Sequence[Mapping[str, Any]]
) -> list[str]:
    """One sentence for each class and what is wrong with it.

    Classes without test images, those with a test accuracy of 0, and by the notes of the defense's
    rounds those that a filter would have emptied, and those that an oracle did empty.
    """
    names = dataset.class_names
    counts = torch.bincount(dataset.test.labels, minlength=dataset.num_classes).tolist()
    rows = list(zip(names, counts, by_class, strict=True))
    spared: dict[int, list[str]] = defaultdict(list)
    for note in notes:
        for label in note.get("classes_spared", ()):
            spared[label].append(str(note["epoch"] + 1))
    emptied = dict.fromkeys(label for note in notes for label in note.get("classes_emptied", ()))
    return [
        *(f"class {name} has no test images" for name, count, _ in rows if not count),
        *(
            f"class {name} is never classified right"
            for name, count, share in rows
            if count and share == 0
        ),
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
