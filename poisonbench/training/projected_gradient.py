"""Projected gradient steps around images: what attacks and adversarial training share.

:class:`ProjectedGradient` is the loop. A :class:`Ball` says by its norm where it starts, how it
steps and comes back; by :class:`StepHooks` a method changes what the network sees or ends the
search of some images early.

Shapes: P images of shape (C, H, W) in [0, 1], B of them in a batch, M of those still moving; labels
are int64. Radius and step sizes are in the images' unit.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from poisonbench.core.devices import send
from poisonbench.models.classifier import Classifier, pass_size
from poisonbench.models.folding import folded
from poisonbench.training.augmentation import PADDING
from poisonbench.training.precision import autocast, network_precision


@dataclass(frozen=True)
class Ball:
    """The images in [0, 1] within a radius of given ones: in each pixel, or in L2 as a whole."""

    radius: float
    norm: Literal["linf", "l2"] = "linf"

    def random_start(self, centres: Tensor, generator: torch.Generator) -> Tensor:
        """Points (B, C, H, W) of the balls around the centres; in L2 on the surface."""
        if self.norm == "linf":
            offsets = torch.rand(centres.shape, generator=generator) * 2 - 1
        else:
            offsets = torch.randn(centres.shape, generator=generator)
            offsets /= _norms(offsets)
        return (centres + self.radius * send(offsets, centres.device)).clamp_(0, 1)

    def step(self, points: Tensor, gradient: Tensor, ratio: float) -> Tensor:
        """Points a share of the radius up the gradient, in each pixel or as a whole; < 0: down."""
        length = ratio * self.radius
        if self.norm == "linf":
            return points + length * gradient.sign()
        return points + length * gradient / _norms(gradient)

    def project(self, points: Tensor, centres: Tensor) -> Tensor:
        """Points (B, C, H, W) of any value, back in the balls and then in [0, 1]."""
        if self.norm == "linf":
            return project_linf(points, centres, self.radius)
        offsets = points - centres
        offsets *= (self.radius / _norms(offsets)).clamp(max=1)
        return (centres + offsets).clamp_(0, 1)


class StepHooks:
    """What a method adds to the steps on one batch; this one adds nothing."""

    #: Images in a pass of all images, where a pass has draws of its own: the same on every device,
    #: so that the draws are. None is as many as suit the device.
    images_in_a_pass: int | None = None

    def view(self, images: Tensor, step: int) -> Tensor:
        """What the network sees of the images (M, C, H, W), differentiable.

        Several looks at each, (L M, C, H, W), are the images one after the other, L times.
        """
        return images

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What the steps climb, summed over images: of logits (L M, K) and labels (M,)."""
        return F.cross_entropy(logits, labels, reduction="sum")

    def moving(self, logits: Tensor, labels: Tensor) -> Tensor | None:
        """Which take the step, as rows of logits (M, K); None is all. The others stop for good."""
        return None

    def stepped(self, gradient: Tensor, step: int) -> None:
        """Called after each step with the gradient (M, C, H, W) of the images that took it."""


@dataclass(frozen=True)
class ProjectedGradient:
    """Steps along the input gradient of the cross-entropy, projected onto balls around images.

    Only the network runs in bfloat16: its values near 1 are 1/256 apart, more than a step of an
    iterate would be. The loss is a sum, so an image's step does not depend on its batch.
    """

    ball: Ball
    steps: int
    #: Length of a step up the loss, as a share of the radius; a negative one goes down.
    step_ratio: float
    #: As a recipe has it: auto, float32 or bfloat16.
    precision: str = "float32"

    def perturb_batch(
        self,
        network: Classifier,
        centres: Tensor,
        labels: Tensor,
        start: Tensor,
        hooks: StepHooks | None = None,
    ) -> Tensor:
        """One batch, (B, C, H, W), where its steps end; those that stopped cost nothing more.

        The network is frozen, in eval mode; the loss is taken at the labels (B,). The first iterate
        ``start`` lies in the balls around the centres, (B, C, H, W).
        """
        hooks = hooks or StepHooks()
        precision = network_precision(centres.device, self.precision)
        points = start.clone()
        # A slice while all move, so that nothing is gathered for attacks that never stop any.
        active: Tensor | slice = slice(None)
        for step in range(self.steps):
            images = points[active].detach().requires_grad_()
            logits = _logits(network, hooks.view(images, step), precision)
            loss = hooks.loss(logits, labels[active])
            moving = hooks.moving(logits, labels[active])
            if moving is not None:
                active = moving if isinstance(active, slice) else active[moving]
                if len(active) == 0:
                    break
            (gradient,) = torch.autograd.grad(loss, images)
            if moving is not None:
                gradient = gradient[moving]
            moved = self.ball.step(points[active], gradient, self.step_ratio)
            points[active] = self.ball.project(moved, centres[active])
            hooks.stepped(gradient, step)
        return points

    def perturb(
        self,
        model: Classifier,
        images: Tensor,
        labels: Tensor,
        *,
        start: Tensor | None = None,
        draws: tuple[Tensor, Tensor] | None = None,
        hooks: StepHooks | None = None,
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> tuple[Tensor, Tensor]:
        """All images, a pass after the other; by a frozen copy of the model, which stays as it is.

        The images (P, C, H, W) are the centres, and the start unless another is given; the loss is
        taken at the labels (P,). With draws of :func:`draw_crop_flip` the network sees a crop and
        flip a step, of what the hooks' view shows. Progress is summed over passes.

        Parameters: what is perturbed by what, and four that most calls leave out.

        Returns:
            The last iterate, and the share () of images whose gradient was zero in every pixel at
            the first step, on the device: no step moves those.
        """
        start = images if start is None else start
        result, network = torch.empty_like(images), folded(model)
        hooks = hooks or StepHooks()
        size = hooks.images_in_a_pass or pass_size(images, gradients=True)
        firsts = range(0, len(images), size)
        num_zero = torch.zeros((), device=images.device)
        passes = _Passes(hooks, draws, report, len(firsts) * self.steps, num_zero)
        for first in firsts:
            passes.rows = rows = slice(first, first + size)
            centres, starts = (
                part[rows].contiguous(memory_format=torch.channels_last) for part in (images, start)
            )
            result[rows] = self.perturb_batch(network, centres, labels[rows], starts, passes)
        return result, num_zero / max(len(images), 1)


@dataclass
class _Passes(StepHooks):
    """What :meth:`ProjectedGradient.perturb` adds: augmentation, figures and progress."""

    hooks: StepHooks
    draws: tuple[Tensor, Tensor] | None
    report: Callable[[int, int], None]
    total: int
    num_zero: Tensor
    done: int = 0
    rows: slice = field(init=False)

    def view(self, images: Tensor, step: int) -> Tensor:
        seen = self.hooks.view(images, step)
        if self.draws is None:
            return seen
        looks = len(seen) // len(images)
        shifts, flips = (part[step, self.rows] for part in self.draws)
        drawn = shifts.repeat(looks, 1), flips.repeat(looks)
        return shift_flip(seen, *drawn, images.new_zeros(1, 1, 1))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.hooks.loss(logits, labels)

    def stepped(self, gradient: Tensor, step: int) -> None:
        if step == 0:
            self.num_zero += (gradient.flatten(1) == 0).all(1).sum()
        self.done += 1
        self.report(self.done, self.total)


def project_linf(images: Tensor, base: Tensor, epsilon: float) -> Tensor:
    """The closest images (..., C, H, W) within ``epsilon`` of ``base``, then clamped to [0, 1]."""
    in_ball = torch.minimum(torch.maximum(images, base - epsilon), base + epsilon)
    return in_ball.clamp(0, 1)


def example_losses(model: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy (P,) of images (P, C, H, W) in [0, 1] at labels (P,), model in eval mode."""
    size, network = pass_size(images, gradients=False), folded(model)
    with torch.no_grad():
        parts = [
            F.cross_entropy(_logits(network, part), at, reduction="none")
            for part, at in zip(images.split(size), labels.split(size), strict=True)
        ]
    return torch.cat(parts)


def shift_flip(images: Tensor, shifts: Tensor, flips: Tensor, fill: Tensor) -> Tensor:
    """Shift and mirror images (..., C, H, W), differentiably.

    Shifts (..., 2) are pixels to the right and down, fractions too (bilinear); flips (...) are
    bool, and fill (C, 1, 1) is the colour outside.
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


def draw_crop_flip(
    steps: int, num_images: int, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Shifts (steps, P, 2) int8 and flips (steps, P) bool, sent to the device once."""
    shifts = torch.randint(
        -PADDING, PADDING + 1, (steps, num_images, 2), generator=generator, dtype=torch.int8
    )
    flips = torch.randint(0, 2, (steps, num_images), generator=generator, dtype=torch.uint8).bool()
    return send(shifts, device), send(flips, device)


def _logits(network: Classifier, images: Tensor, precision: torch.dtype = torch.float32) -> Tensor:
    """Logits (B, K), in float32 or what is wider."""
    with autocast(images.device, precision):
        logits: Tensor = network(images)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _norms(images: Tensor) -> Tensor:
    """L2 norms (B, 1, 1, 1) of images (B, C, H, W), at least 1e-12."""
    length: Tensor = images.flatten(1).norm(dim=1).clamp(min=1e-12)
    return length[:, None, None, None]
