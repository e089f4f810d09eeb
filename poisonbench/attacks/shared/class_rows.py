"""The rows of each class's images, a part at a time, for noise that goes by class."""

from torch import Tensor


def rows_by_class(labels: Tensor, size: int) -> list[tuple[int, Tensor]]:
    """Classes with the rows of at most ``size`` of their images, on the CPU, classes in order.

    Labels are (P,) int64; reading them waits for their device, once.
    """
    classes = labels.cpu()
    return [
        (label, rows)
        for label in classes.unique().tolist()
        for rows in (classes == label).nonzero().flatten().split(size)
    ]
