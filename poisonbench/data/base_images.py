"""Where a whole training set holds poisons, and of which images: found by the images alone."""

import torch
from torch import Tensor

from poisonbench.core.errors import ArtefactError
from poisonbench.data.splits import Dataset

#: Grey levels between a poison and its base beyond which it is another image.
MAX_LEVELS = 96
#: Of more candidates than this, those few are compared that are nearest in L2, which one matrix
#: product tells; a poison's base is the nearest in L-infinity, where its likes are far.
_MOST, _FEW = 512, 8
#: Poisons compared with their class at a time.
_CHUNK = 32


def poisons_among(
    images: Tensor, labels: Tensor, dataset: Dataset
) -> tuple[Tensor, Tensor, Tensor]:
    """The poisons of a training set, which are the images that are not the data set's own.

    A poison's base is the nearest image of its class that is not among the images.

    Args:
        images: (N, C, H, W) uint8, in any order.
        labels: (N,) int64.
        dataset: what was poisoned.

    Returns:
        rows (P,) int64 of the bases in the training split, -1 where none is near or it is held out
        for validation, and the poisons' images (P, C, H, W) and labels (P,).

    Raises:
        ArtefactError: all images are the data set's own.
    """
    originals = torch.cat([dataset.train.images, dataset.validation.images])
    own_labels = torch.cat([dataset.train.labels, dataset.validation.labels])
    keys, own_keys = ([one.tobytes() for one in part.numpy()] for part in (images, originals))
    clean, present = set(own_keys), set(keys)
    is_poison = torch.tensor([key not in clean for key in keys])
    is_free = torch.tensor([key not in present for key in own_keys])
    images, labels = images[is_poison], labels[is_poison]
    if len(images) == 0:
        raise ArtefactError(
            f"expected poisons, got images that are all {dataset.name}'s own; choose another file"
        )
    rows = torch.full((len(images),), -1)
    for label in torch.unique(labels):
        free = (is_free & (own_labels == label)).nonzero().flatten()
        poisons = (labels == label).nonzero().flatten()
        if len(free):
            rows[poisons] = _nearest(images[poisons], originals[free], free)
    rows[rows >= len(dataset.train)] = -1
    return rows, images, labels


def _nearest(images: Tensor, candidates: Tensor, rows: Tensor) -> Tensor:
    """The row of each image's nearest candidate, in L-infinity; -1 if none is near."""
    flat = candidates.flatten(1)
    exact = flat.float()
    norms, count = exact.square().sum(1), len(flat) if len(flat) <= _MOST else _FEW
    nearest = []
    for chunk in images.flatten(1).split(_CHUNK):
        distance = norms - 2 * chunk.float() @ exact.T
        # In order of their rows, so that the first of two equals is taken.
        likely = distance.topk(count, largest=False).indices.sort(1).values
        differences = torch.stack(
            [
                (flat[few].short() - one.short()).abs().amax(1)
                for few, one in zip(likely, chunk, strict=True)
            ]
        )
        levels, position = differences.min(1)
        closest = likely.gather(1, position[:, None])[:, 0]
        nearest.append(torch.where(levels <= MAX_LEVELS, rows[closest], -1))
    return torch.cat(nearest)
