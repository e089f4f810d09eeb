"""Perturbations in an L-infinity ball: what attacks and adversarial training share.

P images of shape (C, H, W) in [0, 1]; epsilon and step sizes are in the same unit, not normalised.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from poisonbench.models.classifier import Classifier, pass_size
from poisonbench.models.folding import folded

#: Largest shift of the differentiable crop, in pixels: the training augmentation's.
MAX_SHIFT = 4


class Perturbed(NamedTuple):
    """What :func:`signed_steps` returns.

    Attributes:
        images: (P, C, H, W), the last iterate.
        zero_gradient_share: () float32 on the device, the share of images whose gradient was zero
            in every pixel at the first step. No step moves those images.
    """

    images: Tensor
    zero_gradient_share: Tensor


def project_linf(images: Tensor, base: Tensor, epsilon: float) -> Tensor:
    """The closest images within ``epsilon`` of ``base``, clamped to [0, 1] afterwards.

    Args:
        images: (..., C, H, W), any values.
        base: the same shape, in [0, 1].
        epsilon: the ball's radius.
    """
    in_ball = torch.minimum(torch.maximum(images, base - epsilon), base + epsilon)
    return in_ball.clamp(0, 1)


def signed_steps(
    model: Classifier,
    base: Tensor,
    labels: Tensor,
    *,
    ascend: bool,
    epsilon: float,
    step_size: float,
    steps: int,
    start: Tensor | None = None,
    batch_size: int | None = None,
    bfloat16: bool = False,
    augment: Literal["none", "crop-flip"] = "none",
    generator: torch.Generator | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Perturbed:
    """Projected steps along the sign of the input gradient of the cross-entropy.

    A frozen copy of the model in eval mode does the work. Only the network runs in bfloat16: its
    values near 1 are 1/256 apart, more than a step of an iterate would be. The loss is a sum, so an
    image's step does not depend on its batch.

    Args:
        model: on the images' device; its weights and buffers are left as they are.
        base: (P, C, H, W) in [0, 1], the centres of the balls.
        labels: (P,) int64, where the loss is taken.
        ascend: up the loss, else down.
        epsilon: the ball's radius.
        step_size: length of a step, in every pixel.
        steps: how many.
        start: (P, C, H, W) in the ball, the first iterate; ``base`` unless given.
        batch_size: images a step; by default what suits the device.
        bfloat16: run the network under bfloat16 autocast.
        augment: "crop-flip" differentiates through a new shift and flip of each image a step.
        generator: CPU generator of the augmentation's draws, which batches do not change.
        report: called with (steps done, steps in all), summed over batches.

    Raises:
        ValueError: ``augment`` without a generator.
    """
    draws: tuple[Tensor, Tensor] | None = None
    if augment != "none":
        if generator is None:
            raise ValueError(f"expected a generator with augment={augment!r}, got none; pass one")
        draws = _draw_crop_flip(steps, len(base), generator, base.device)
    length = step_size if ascend else -step_size
    num_images = len(base)
    size = batch_size or pass_size(base, gradients=True)
    starts = range(0, num_images, size)
    num_zero = torch.zeros((), device=base.device)
    result = torch.empty_like(base)
    network = folded(model)
    black = base.new_zeros(1, 1, 1)
    for position, first in enumerate(starts):
        batch = slice(first, first + size)
        centre = base[batch].contiguous(memory_format=torch.channels_last)
        images = centre
        if start is not None:
            images = start[batch].contiguous(memory_format=torch.channels_last)
        for step in range(steps):
            images = images.detach().requires_grad_()
            seen = images
            if draws is not None:
                shifts, flips = draws
                seen = shift_flip(images, shifts[step, batch], flips[step, batch], black)
            loss = _losses(network, seen, labels[batch], bfloat16).sum()
            (gradient,) = torch.autograd.grad(loss, images)
            if step == 0:
                num_zero += (gradient.flatten(1) == 0).all(1).sum()
            images = project_linf(images.detach() + length * gradient.sign(), centre, epsilon)
            if report is not None:
                report(position * steps + step + 1, len(starts) * steps)
        result[batch] = images
    return Perturbed(result, num_zero / max(num_images, 1))


def example_losses(model: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy (P,) of images (P, C, H, W) in [0, 1] at labels (P,), model in eval mode."""
    size = pass_size(images, gradients=False)
    network = folded(model)
    with torch.no_grad():
        parts = [
            _losses(network, images[first : first + size], labels[first : first + size])
            for first in range(0, len(images), size)
        ]
    return torch.cat(parts) if parts else images.new_zeros(0)


def shift_flip(images: Tensor, shifts: Tensor, flips: Tensor, fill: Tensor) -> Tensor:
    """Shift and mirror each image, differentiably.

    Args:
        images: (..., C, H, W).
        shifts: (..., 2), pixels to the right and down, fractions too (bilinear).
        flips: (...) bool.
        fill: (C, 1, 1), the colour outside.
    """
    # Kornia takes 0.3 s to import and few attacks augment.
    from kornia.geometry.transform import hflip, translate

    flat = images.flatten(0, -4) - fill
    moved = translate(flat, shifts.flatten(0, -2).to(flat.dtype), padding_mode="zeros")
    mirrored = torch.where(flips.flatten()[:, None, None, None], hflip(moved), moved)
    return (mirrored + fill).view_as(images)


def warn_of_zero_gradients(share: Tensor, attack: str) -> None:
    """Warn when over 1 % of the images gave the attack no gradient; it left them nearly clean."""
    if float(share) > 0.01:
        warnings.warn(
            f"{attack}: expected an input gradient for every image, got none for "
            f"{float(share):.1%}; those images are hardly poisoned, use a surrogate trained for "
            "fewer epochs or --precision float32",
            stacklevel=2,
        )


def _losses(model: Classifier, images: Tensor, labels: Tensor, bfloat16: bool = False) -> Tensor:
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=bfloat16):
        logits = model(images)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, labels, reduction="none")


def _draw_crop_flip(
    steps: int, num_images: int, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Shifts (steps, P, 2) int8 and flips (steps, P) bool, moved to the device once."""
    shifts = torch.randint(
        -MAX_SHIFT, MAX_SHIFT + 1, (steps, num_images, 2), generator=generator, dtype=torch.int8
    )
    flips = torch.randint(0, 2, (steps, num_images), generator=generator, dtype=torch.uint8).bool()
    return shifts.to(device), flips.to(device)
