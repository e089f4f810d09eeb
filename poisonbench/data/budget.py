"""The budget of a poison, by its norm: rounding to 8 bits within it, and whether it is kept."""

import math
import sys
from typing import Any

import torch
from torch import Tensor

from poisonbench.core.errors import DivergedError
from poisonbench.specs import Measured, Norm

# Images at a time: whole splits in wider types would take gigabytes and miss every cache.
_CHUNK = 256

#: What a float's rounding may add to a bound, in its unit: grey levels, L2 distance, pixels.
TOLERANCE: dict[Norm, float] = {"linf": 0.01, "l2": 1e-4, "l0": 0}


def bound_fault(config: Any) -> str:
    """What is amiss with the norm and the budgets of an attack's Config; empty if nothing is."""
    norm, budget = config.norm, config.budget
    if norm == "convolution":
        return "" if budget is None else f"expected budget None of a convolution, got {budget!r}"
    if norm not in TOLERANCE:
        return f"expected norm {', '.join(TOLERANCE)} or convolution, got {norm!r}"
    largest = 1 if norm == "linf" else sys.float_info.max
    # A trigger's test images have their own.
    for name in ("budget", "test_budget"):
        bound = getattr(config, name, budget)
        if not (isinstance(bound, (int, float)) and 0 < bound <= largest):
            numbers = "a number in (0, 1]" if norm == "linf" else "a finite number over 0"
            return f"expected {name} {numbers} with norm {norm}, got {bound!r}"
    return ""


def levels(epsilon: float) -> int:
    """The whole grey levels of 1/255 within a budget: 8 for 8/255, 76 for 0.3."""
    return math.floor(255 * epsilon + 1e-6)


def quantise(images: Tensor, base: Tensor, epsilon: float | None, norm: Norm = "linf") -> Tensor:
    """Round float images in [0, 1] half up to uint8, at most the budget away from the base.

    Both are (P, C, H, W), the base is uint8. Of linf a part of a grey level of the budget is
    dropped. Of l2 a change beyond the budget is scaled down before it is rounded, which may then
    move it by :func:`rounding_distance`; of l0 an image's largest changes are kept.

    Raises:
        DivergedError: a pixel is not finite.
    """
    result = torch.empty(base.shape, dtype=torch.uint8, device=images.device)
    for first in range(0, len(images), _CHUNK):
        rows = slice(first, first + _CHUNK)
        exact, clean = images[rows], base[rows].to(images.device).short()
        if not bool(torch.isfinite(exact).all()):
            raise DivergedError(
                "expected finite pixels from the attack, got NaN or infinity; "
                "check the surrogate's training and lower the step size"
            )
        if norm == "l2" and epsilon is not None:
            exact = _within_l2(exact, clean, epsilon)
        near = torch.floor(255 * exact + 0.5).clamp(0, 255).short()
        if norm == "linf" and epsilon is not None:
            budget = levels(epsilon)
            near = torch.minimum(torch.maximum(near, clean - budget), clean + budget)
        elif norm == "l0" and epsilon is not None:
            near = _within_l0(near, clean, int(epsilon))
        result[rows] = near.clamp(0, 255).to(torch.uint8)
    return result


def _within_l2(exact: Tensor, clean: Tensor, epsilon: float) -> Tensor:
    """Images (B, C, H, W) whose change has an L2 norm of at most epsilon."""
    base = clean.to(exact) / 255
    distances = (exact - base).flatten(1).norm(dim=1)[:, None, None, None]
    # An image inside is kept to the last bit: a change is added again only where it is scaled.
    scale = epsilon / distances.clamp(min=1e-12)
    return torch.where(distances <= epsilon, exact, base + (exact - base) * scale)


def _within_l0(rounded: Tensor, clean: Tensor, pixels: int) -> Tensor:
    """Images (B, C, H, W) in grey levels with the largest changes of so many pixels alone."""
    change = (rounded - clean).abs().sum(1, dtype=torch.int32).flatten(1)
    largest = change.topk(min(pixels, change.shape[1]), dim=1).indices
    keeps = torch.zeros_like(change, dtype=torch.bool).scatter_(1, largest, True)
    return torch.where(keeps.view(len(clean), 1, *clean.shape[2:]), rounded, clean)


def overstep(images: Tensor, base: Tensor, epsilon: float | None, norm: Norm = "linf") -> float:
    """How far images leave the budget around their base, in the unit of :data:`TOLERANCE`.

    Images are (..., C, H, W) float, their base is uint8 of that shape. It is 0 where they leave it
    nowhere, and without a bound.
    """
    if epsilon is None:
        return 0.0
    largest = 0.0
    parts = (tensor.flatten(0, -4).split(_CHUNK) for tensor in (images, base))
    for exact, clean in zip(*parts, strict=True):
        moved = (255 * exact - clean.to(exact.device)).abs()
        if norm == "linf":
            over = moved - 255 * epsilon
        elif norm == "l2":
            over = (moved / 255).flatten(1).norm(dim=1) - epsilon
        else:
            over = (moved > TOLERANCE["linf"]).any(1).sum((1, 2)) - epsilon
        largest = max(largest, float(over.max()))
    return largest


def outside(images: Tensor) -> float:
    """How far float images leave [0, 1], in grey levels; 0 if nowhere."""
    parts = images.flatten(0, -4).split(_CHUNK)
    return max([0.0, *(float((255 * (part - 0.5).abs() - 127.5).max()) for part in parts)])


def rounding_distance(values: int) -> float:
    """The largest L2 distance, in pixels of [0, 1], that rounding to 8 bits moves an image by."""
    return 0.5 / 255 * math.sqrt(values)


def budget_fault(norm: Norm, epsilon: float | None, measured: Measured, values: int) -> str:
    """What is amiss with stored images of so many values each; empty within their budget."""
    if epsilon is None:
        return ""
    if norm == "l2":
        allowed, distance = epsilon + rounding_distance(values), measured.max_l2 or 0.0
        if distance > allowed + TOLERANCE["l2"]:
            return (
                f"expected an L2 change of at most {epsilon:.4g} and {allowed - epsilon:.3g} for "
                f"rounding, got {distance:.4g}"
            )
    elif norm == "l0":
        if (pixels := measured.max_changed_pixels or 0) > epsilon:
            return f"expected at most {epsilon:g} changed pixels an image, got {pixels}"
    elif measured.max_abs_levels > levels(epsilon):
        return (
            f"expected changes of at most {levels(epsilon)} grey levels, "
            f"got {measured.max_abs_levels}"
        )
    return ""
