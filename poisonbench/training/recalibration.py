"""A recipe's recalibration: batch norm's statistics from clean validation images, at the end."""

import copy

import torch
from torch import Tensor

from poisonbench.core.errors import UsageError
from poisonbench.core.seeds import Seeds
from poisonbench.data.splits import Split, pixels_of, rounded_up
from poisonbench.models.classifier import Classifier
from poisonbench.models.norms import recalibrate


def recalibrate_on(model: Classifier, validation: Split, share: float, seeds: Seeds) -> None:
    """Recalibrate in place on that share of the validation images, in batches of about 100."""
    rows = _rows(validation, share, seeds)
    batches = rows.tensor_split(max(1, round(len(rows) / 100)))
    recalibrate(model, (pixels_of(validation.images[batch]) for batch in batches))


def check_recalibration(model: Classifier, validation: Split, share: float, seeds: Seeds) -> None:
    """Raise UsageError before a training for what would end it: statistics of one value."""
    rows = _rows(validation, share, seeds)
    if len(rows) != 1:
        return
    try:
        recalibrate(copy.deepcopy(model), [pixels_of(validation.images[rows])])
    except ValueError:
        raise UsageError(
            "--recalibrate: expected a share of two validation images or more, as this network's "
            f"batch norm takes no statistics of one, got one of {len(validation)}; raise it, or "
            "bring more images"
        ) from None


def _rows(validation: Split, share: float, seeds: Seeds) -> Tensor:
    size, generator = len(validation), seeds.generator("recalibration")
    rows = torch.randperm(size, generator=generator)[: rounded_up(share, size)]
    return rows.to(validation.images.device)
