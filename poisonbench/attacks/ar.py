"""AR: autoregressive perturbations, noise in which a pixel follows from its neighbours.

Source      Sandoval-Segura et al., "Autoregressive Perturbations for Data Poisoning", NeurIPS 2022
            (arXiv 2206.03693).
Code        psandovalsegura/autoregressive-poisoning @ bf350b0, autoregressive.py and
            autoregressive_param_finder.py.
Goal        untargeted: a class's noise is what its filter predicts without error, which one
            convolution detects whatever the image shows.
Budget      L2, in the paper 1.
Cost        a pass over the pixels of a field an image, in raster order; no model.

A filter b (3, 3) of each class and channel has 0 for its last tap, and eight draws of N(0, 1)
divided by their sum.

1.  A class's filters are drawn until three trial fields are at most 50 long (L2, over all channels)
    and the last of them is told apart by each earlier class: its filters with -1 for the last tap,
    as a convolution, respond with at least 10 (the sum of what is positive).
2.  An image's field is N(0, 1) of (H + 4) x (W + 4), new for each image. In raster order from
    (2, 2):  s[i, j] <- sum over u, v < 3 of b[u, v] s[i - 2 + u, j - 2 + v].
3.  The first four rows and columns go. Scale the field to the L2 norm epsilon, add it, and clip to
    [0, 1].

Deviations  Filters are checked many at once; the first that pass are taken. For images of other
            sizes the 50 goes with the root of the number of values over 3,072 and the 10 with the
            number, so that filters for small images are neither wilder nor easier. Images are
            rounded. The paper has no setting for MNIST: epsilon is there the same share (0.575) of
            the L2 norm of this project's L-infinity budget as in colour.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from poisonbench.attacks.base import AttackConfig, AttackTask
from poisonbench.attacks.shared.class_rows import rows_by_class
from poisonbench.core.devices import send
from poisonbench.core.errors import UsageError
from poisonbench.core.settings import Profiles, setting
from poisonbench.core.work import nothing_more
from poisonbench.specs import Norm

VERSION = 1

PROFILES: Profiles = {"paper": {"mnist": {"epsilon": 28 * 76 / 8 / math.sqrt(3072)}}}

#: Rows and columns before an image's first: the drawn border, and some more to settle.
_MARGIN = 4
_PAPER_VALUES = 3 * 32 * 32
_LARGEST_NORM, _LEAST_RESPONSE, _TRIALS = 50.0, 10.0, 3
#: Filters that are tried at once, and how often.
_CANDIDATES, _ROUNDS = 64, 100
#: Images of a class at a time.
_CHUNK = 2000


@dataclass(frozen=True, kw_only=True)
class Config(AttackConfig):
    """Settings of AR; the defaults are for CIFAR-10."""

    epsilon: float = setting(1.0, "L2 norm of the noise of an image.", over=0)

    @property
    def norm(self) -> Norm:
        """L2."""
        return "l2"


def craft(task: AttackTask, config: Config) -> Tensor:
    """Poisoned images (P, C, H, W) float32 in [0, 1] for the task's images."""
    shape, device = tuple(task.images.shape[1:]), task.images.device

    # 1. Filters (K, C, 3, 3).
    filters = find_filters(task.num_classes, shape, task.generator)

    poisons = torch.empty_like(task.images)
    parts = rows_by_class(task.labels, _CHUNK)
    for number, (label, rows) in enumerate(parts):
        # 2. A field an image.
        start = torch.randn(*_field_shape(shape), len(rows), generator=task.generator)
        noise = fields(send(start, device), send(filters[label][..., None], device))

        # 3. Scale, add, clip.
        noise = noise.movedim(-1, 0)
        scale = config.epsilon / noise.flatten(1).norm(dim=1)
        own = send(rows, device)
        poisons[own] = (task.images[own] + scale[:, None, None, None] * noise).clamp_(0, 1)
        task.report(number + 1, len(parts))
    return poisons


def find_filters(number: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Filters (K, C, 3, 3) that pass step 1 for images (C, H, W), on the CPU.

    Raises:
        UsageError: none passes for a class: too many of them, or too small images.
    """
    size = math.prod(shape)
    largest = _LARGEST_NORM * math.sqrt(size / _PAPER_VALUES)
    least = _LEAST_RESPONSE * size / _PAPER_VALUES
    filters: list[Tensor] = []
    for _ in range(_ROUNDS * number):
        taps = torch.randn(_CANDIDATES, shape[0], 9, generator=generator)
        taps[..., 8] = 0
        candidates = (taps / taps.sum(-1, keepdim=True)).view(-1, shape[0], 3, 3)
        start = torch.randn(*_field_shape(shape), _TRIALS, _CANDIDATES, generator=generator)
        trials = fields(start.flatten(-2), candidates.repeat(_TRIALS, 1, 1, 1).movedim(0, -1))
        trials = trials.movedim(-1, 0).unflatten(0, (_TRIALS, _CANDIDATES))
        # Fields that grow without bound overflow, and fail the comparison.
        is_short = (trials.flatten(2).norm(dim=2) <= largest).all(0)
        for row in is_short.nonzero().flatten().tolist():
            if all(response(trials[-1, row], earlier) >= least for earlier in filters):
                filters.append(candidates[row])
                if len(filters) == number:
                    return torch.stack(filters)
    raise UsageError(
        f"ar: expected filters that tell {number} classes apart on images of shape {shape}, got "
        f"{len(filters)} in {_ROUNDS * number * _CANDIDATES} draws; use larger images or fewer "
        "classes"
    )


def response(field: Tensor, filters: Tensor) -> float:
    """How a class's filters (C, 3, 3), with -1 for the last tap, respond to a field (C, H, W)."""
    detector = filters.clone()
    detector[:, 2, 2] = -1
    errors = F.conv2d(field[None], detector[:, None], groups=len(field))
    # All channels are one detector's.
    return float(errors.sum(1).relu().sum())


def fields(start: Tensor, filters: Tensor) -> Tensor:
    """Run the recursion of step 2 and leave out the margin.

    Args:
        start: (C, H + 4, W + 4, N), of which two rows and two columns enter; overwritten.
        filters: (C, 3, 3, N), or (C, 3, 3, 1) for all.

    Returns:
        (C, H, W, N).
    """
    height, width = start.shape[1:3]
    above = [(u, v) for u in range(2) for v in range(3)]
    left, last = filters[:, 2, 1], filters[:, 2, 0]
    for row in range(2, height):
        # What the two rows above give, for the whole row at once; then along the row.
        known = torch.zeros_like(start[:, 0, 2:])
        for u, v in above:
            known.addcmul_(filters[:, u, v, None], start[:, row - 2 + u, v : v + width - 2])
        line = start[:, row]
        for column in range(2, width):
            value = torch.addcmul(known[:, column - 2], left, line[:, column - 1])
            line[:, column] = value.addcmul_(last, line[:, column - 2])
    return start[:, _MARGIN:, _MARGIN:]


def _field_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    channels, height, width = shape
    return channels, height + _MARGIN, width + _MARGIN


work = nothing_more
