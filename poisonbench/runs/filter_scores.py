"""How well a defense that drops images found the poisons, which it never saw.

A defense that filters keeps ``memory["keep"]``, (N,) bool: the images of the training split that it
still trains on. Removing an image is the prediction "poison".
"""

from torch import Tensor

from poisonbench.results.records import FilterScores, RemovalCounts


def filter_report(
    keep: Tensor, is_poison: Tensor, labels: Tensor, num_classes: int
) -> FilterScores:
    """Counts and scores of what was removed, by ``keep`` and ``is_poison`` (N,) bool, labels (N,).

    Raises:
        ValueError: the three tensors are not of one length.
    """
    if not keep.shape == is_poison.shape == labels.shape:
        raise ValueError(
            f"expected one entry an image in keep, is_poison and labels, got {tuple(keep.shape)}, "
            f"{tuple(is_poison.shape)} and {tuple(labels.shape)}"
        )
    masks = {
        "poisons_removed": is_poison & ~keep,
        "num_poisons": is_poison,
        "clean_removed": ~is_poison & ~keep,
        "num_clean": ~is_poison,
    }
    totals = {name: int(mask.sum()) for name, mask in masks.items()}
    by_class = [
        RemovalCounts(**{name: int(mask[labels == label].sum()) for name, mask in masks.items()})
        for label in range(num_classes)
    ]
    true_positives, poisons = totals["poisons_removed"], totals["num_poisons"]
    removed = true_positives + totals["clean_removed"]
    return FilterScores(
        **totals,
        precision=_share(true_positives, removed),
        recall=_share(true_positives, poisons),
        f1=_share(2 * true_positives, removed + poisons),
        per_class=by_class,
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
