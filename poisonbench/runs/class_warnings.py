"""What a record says of classes with which something is wrong."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from poisonbench.data.splits import Dataset

#: Classes that are named one by one, and of more the first that are named at all.
MOST_NAMED = 10


def class_warnings(
    dataset: Dataset, by_class: Sequence[float], notes: Sequence[Mapping[str, Any]]
) -> list[str]:
    """One sentence for each class and what is wrong with it; one for all if they are many.

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
        *_sentences(
            [name for name, count, _ in rows if not count], "no test images", "has", "have"
        ),
        *_sentences(
            [name for name, count, share in rows if count and share == 0],
            "never classified right",
            "is",
            "are",
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


def _sentences(names: Sequence[str], fault: str, one: str, many: str) -> list[str]:
    if len(names) <= MOST_NAMED:
        return [f"class {name} {one} {fault}" for name in names]
    return [f"{len(names)} classes {many} {fault}, among them {', '.join(names[:MOST_NAMED])}"]
