"""How well a defense that drops images found the poisons, which it never saw.

A defense that filters keeps ``memory["keep"]``, (N,) bool: the images of the training split that it
still trains on. Removing an image is the prediction "poison".
"""

from __future__ import annotations

import torch
from torch import Tensor

from poisonbench.results.records import FilterScores, RemovalCounts


def filter_report(
    keep: Tensor, is_poison: Tensor, labels: Tensor, num_classes: int
) -> FilterScores:
    """Counts and scores of what was removed.

    Args:
        keep: (N,) bool, images that are still trained on.
        is_poison: (N,) bool.
        labels: (N,) int64, in 0..K-1.
        num_classes: K.

    Raises:
        ValueError: the three tensors are not of one length.
    """
    if not keep.shape == is_poison.shape == labels.shape:
        raise ValueError(
            f"expected one entry an image in keep, is_poison and labels, got {tuple(keep.shape)}, "
            f"{tuple(is_poison.shape)} and {tuple(labels.shape)}"
        )
    counts = {
        "poisons_removed": is_poison & ~keep,
        "num_poisons": is_poison,
        "clean_removed": ~is_poison & ~keep,
        "num_clean": ~is_poison,
    }
    by_class = {
        name: torch.bincount(labels[rows], minlength=num_classes).tolist()
        for name, rows in counts.items()
    }
    totals = {name: sum(values) for name, values in by_class.items()}
    found, poisons = totals["poisons_removed"], totals["num_poisons"]
    removed = found + totals["clean_removed"]
    return FilterScores(
        **totals,
        precision=_share(found, removed),
        recall=_share(found, poisons),
        f1=_share(2 * found, removed + poisons),
        per_class=[
            RemovalCounts(**dict(zip(by_class, row, strict=True)))
            for row in zip(*by_class.values(), strict=True)
        ],
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
