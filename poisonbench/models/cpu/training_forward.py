"""The training pass of the MNIST network on a CPU in float32, with less arithmetic and memory.

The same function, running statistics and gradients as the layers' own, up to rounding. Two blocks
of convolution, batch norm, ReLU and average pool are computed another way:

First block, one channel in: images get no gradient in training, so with P the patches of the
images, (R, 25) for R pixels of the output, and y = P w + b (numbers reappear below)
  1  y's batch statistics are the patches': mean(y) = mean(P) w + b, var(y) = w' Cov(P) w
  2  so convolution and norm are one product z = P (a w) + c with a = gamma / sqrt(var + eps)
  3  ReLU and pool
  4  backwards, batch norm's gradient for w needs the gradient g of its output only as P' g:
     dw = a (P' g - mean(P) sum(g) - Cov(P) w (g . y^) / sqrt(var + eps))      y^ the normalised y
     y and its gradient are never formed.
Other convolutions of 5 x 5: Winograd's algorithm, see :mod:`poisonbench.models.cpu.winograd`.

Buffers are used again from step to step, so each forward pass must be followed by its backward pass
before the next; otherwise that one raises. Layers that do not fit run as they are.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from poisonbench.models.classifier import Classifier
from poisonbench.models.cpu import winograd
from poisonbench.models.cpu.first_block import is_first_block, patches_of, through_pool
from poisonbench.models.cpu.winograd import WinogradConv, Workspace
from poisonbench.models.folding import GradientLayout


def quick_forward(model: Classifier, size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """A function that the training loop calls instead of a model, in train mode, float32 on a CPU.

    The layers' train modes and frozen weights are those of now; ``size`` is the images'.
    """
    if type(model.features) is not nn.Sequential or not _is_plain(model):
        return model
    stages = _stages(list(model.features), size)
    if not any(isinstance(stage, FirstBlock | WinogradConv) for stage in stages):
        return model

    def forward(images: Tensor) -> Tensor:
        embedded = model.normalise(images)
        for stage in stages:
            embedded = stage(embedded)
        logits: Tensor = model.head(embedded)
        return logits

    return forward


def _is_plain(model: Classifier) -> bool:
    """Whether all is float32 and trained, nothing held, and nobody listens to the layers."""
    return (
        all(weight.dtype == torch.float32 and weight.requires_grad for weight in model.parameters())
        and not model.holds_norms
        and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    )


def _stages(layers: list[nn.Module], size: tuple[int, int]) -> list[Callable[[Tensor], Tensor]]:
    """The layers, those that fit replaced."""
    stages: list[Callable[[Tensor], Tensor]] = []
    if FirstBlock.fits(layers, *size):
        stages.append(FirstBlock(*layers[:2]))  # type: ignore[arg-type]
        layers = layers[4:]
    for layer in layers:
        if isinstance(layer, nn.Conv2d) and winograd.fits(layer):
            stages.append(WinogradConv(layer, keep=True))
        elif isinstance(layer, nn.ReLU) and stages and isinstance(stages[-1], nn.BatchNorm2d):
            # In place: batch norm's gradient does not need its output.
            stages.append(F.relu_)
        elif isinstance(layer, nn.Flatten):
            stages += [GradientLayout(), layer]
        else:
            stages.append(layer)
    return stages


class FirstBlock:
    """Convolution of one channel, batch norm in train mode, ReLU and average pool of 2 x 2."""

    def __init__(self, conv: nn.Conv2d, norm: Any) -> None:
        self.conv, self.norm, self.workspace = conv, norm, Workspace()

    @staticmethod
    def fits(layers: Sequence[Any], height: int, width: int) -> bool:
        """Whether a network begins with such a block, and its output can be pooled evenly."""
        if not is_first_block(layers, nn.BatchNorm2d):
            return False
        conv, norm = layers[:2]
        return bool(
            conv.kernel_size == (5, 5)
            and norm.affine
            and norm.track_running_stats
            and norm.momentum is not None
            and height % 2 == width % 2 == 0
        )

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 1, H, W), without a gradient, to (B, O, (H - 4) / 2, (W - 4) / 2)."""
        conv, norm = self.conv, self.norm
        pooled: Tensor
        pooled, mean, variance = _FirstBlock.apply(
            images, conv.weight, conv.bias, norm.weight, norm.bias, norm.eps, self.workspace
        )
        # As batch norm keeps them: with the variance of a sample.
        count = pooled[:, 0].numel() * 4
        with torch.no_grad():
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(variance * (count / max(count - 1, 1)), norm.momentum)
            norm.num_batches_tracked.add_(1)
        return pooled


class _FirstBlock(torch.autograd.Function):
    """Batch norm takes the convolution's bias away: it moves the mean alone; its gradient is 0."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        gamma: Tensor,
        beta: Tensor,
        eps: float,
        work: Workspace,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Steps 1 to 3.

        Parameters: autograd wants each tensor that needs a gradient as one of its own.
        """
        cut = patches_of(images, weight.shape[2:])
        batch, height, width = cut.shape[2:]
        outputs, kernel = len(weight), weight[0].numel()
        # (26, R); the last is of ones, which makes sums and constants parts of the products.
        patches = work.take("patches", (kernel + 1, batch * height * width), images)
        # Less their mean pixel, which batch norm takes away: sums of squares then lose no digits.
        level = images.mean()
        torch.sub(cut, level, out=patches[:kernel].view(cut.shape))
        patches[kernel] = 1
        # 1 statistics, in float64: a difference of two sums
        moments = (patches @ patches.t()).double() / patches.shape[1]
        means = moments[kernel, :kernel]
        covariance = moments[:kernel, :kernel] - torch.outer(means, means)
        flat = weight.view(outputs, kernel).double()
        mean = flat @ means
        variance = ((flat @ covariance) * flat).sum(1).clamp_(min=0)
        # 2 one product
        scale = gamma.double() / (variance + eps).sqrt()
        product = torch.cat([scale[:, None] * flat, (beta - scale * mean)[:, None]], 1)
        activations = work.take("activations", (patches.shape[1], outputs), images)
        torch.mm(patches.t(), product.to(images.dtype).t(), out=activations)
        # 3 ReLU and pool
        activations.relu_()
        maps = activations.view(batch, height, width, outputs).permute(0, 3, 1, 2)
        ctx.work, ctx.turn, ctx.eps, ctx.shape = work, work.begin(), eps, weight.shape
        ctx.save_for_backward(flat, means, covariance, mean, variance, scale)
        shifted = mean + level.double() * flat.sum(1) + (0 if bias is None else bias)
        statistics = shifted.to(images.dtype), variance.to(images.dtype)
        ctx.mark_non_differentiable(*statistics)
        return (F.avg_pool2d(maps, 2), *statistics)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: Tensor, *_: Tensor
    ) -> tuple[None, Tensor, Tensor | None, Tensor, Tensor, None, None]:
        ctx.work.finish(ctx.turn)
        flat, means, covariance, mean, variance, scale = ctx.saved_tensors
        (outputs, kernel), num_pixels = flat.shape, 4 * gradient[:, 0].numel()
        patches = ctx.work.take("patches", (kernel + 1, num_pixels), gradient)
        activations = ctx.work.take("activations", (num_pixels, outputs), gradient)
        # 3 a quarter to each pixel of a pool, where ReLU let it through
        through_pool(gradient, activations, activations)
        # 4 all that is needed of the gradient behind the norm
        products = (patches @ activations).t().double()
        seen, total = products[:, :kernel], products[:, kernel]
        deviation = (variance + ctx.eps).sqrt()
        # g . y^, also gamma's gradient
        along = ((seen * flat).sum(1) - total * mean) / deviation
        change = seen - torch.outer(total, means)
        change -= (along / deviation)[:, None] * (flat @ covariance)
        change *= scale[:, None]
        weight, scales, shifts = (part.to(gradient.dtype) for part in (change, along, total))
        bias = torch.zeros_like(shifts) if ctx.needs_input_grad[2] else None
        return None, weight.view(ctx.shape), bias, scales, shifts, None, None
