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

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from poisonbench.models.classifier import Classifier
from poisonbench.models.cpu import winograd
from poisonbench.models.cpu.winograd import Workspace
from poisonbench.models.folding import GradientLayout


def quick_forward(model: Classifier, size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """A function that the training loop calls instead of a model, in train mode, float32 on a CPU.

    Args:
        model: on the CPU; its layers' train modes and frozen weights are those of now.
        size: height and width of the images.
    """
    if not isinstance(model.features, nn.Sequential) or not _is_plain(model):
        return model
    stages = _stages(list(model.features), size)
    if not any(isinstance(stage, FirstBlock | QuickConv) for stage in stages):
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
    layers = list(model.modules())
    return (
        all(weight.dtype == torch.float32 and weight.requires_grad for weight in model.parameters())
        and not model.holds_norms
        and not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)
    )


def _stages(layers: list[nn.Module], size: tuple[int, int]) -> list[Callable[[Tensor], Tensor]]:
    """The layers, those that fit replaced."""
    stages: list[Callable[[Tensor], Tensor]] = []
    if FirstBlock.fits(layers, *size):
        stages.append(FirstBlock(*layers[:2]))  # type: ignore[arg-type]
        layers = layers[4:]
    for layer in layers:
        if isinstance(layer, nn.Conv2d) and winograd.fits(layer):
            stages.append(QuickConv(layer))
        elif isinstance(layer, nn.ReLU) and stages and isinstance(stages[-1], nn.BatchNorm2d):
            # In place: batch norm's gradient does not need its output.
            stages.append(F.relu_)
        elif isinstance(layer, nn.Flatten):
            stages += [GradientLayout(), layer]
        else:
            stages.append(layer)
    return stages


class QuickConv:
    """A convolution of 5 x 5 by Winograd's algorithm, where the images' size allows it."""

    def __init__(self, conv: nn.Conv2d) -> None:
        self.conv, self.workspace = conv, Workspace()

    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, O, H - 4, W - 4)."""
        conv = self.conv
        if not winograd.covers(images):
            output: Tensor = conv(images)
            return output
        return winograd.convolve(images, conv.weight, conv.bias, self.workspace, keep=True)


class FirstBlock:
    """Convolution, batch norm in train mode, ReLU and average pool of 2 x 2.

    Args:
        conv: of one channel, stride 1, no padding.
        norm: directly behind it.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        self.conv, self.norm, self.workspace = conv, norm, Workspace()

    @staticmethod
    def fits(layers: list[nn.Module], height: int, width: int) -> bool:
        """Whether a network begins with such a block, and its output can be pooled evenly."""
        if [type(layer) for layer in layers[:4]] != [
            nn.Conv2d,
            nn.BatchNorm2d,
            nn.ReLU,
            nn.AvgPool2d,
        ]:
            return False
        conv, norm, _, pool = layers[:4]
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(pool, nn.AvgPool2d)
        return (
            conv.in_channels == 1
            and conv.kernel_size == (5, 5)
            and conv.stride == conv.dilation == (1, 1)
            and conv.padding == (0, 0)
            and norm.affine
            and norm.track_running_stats
            and norm.momentum is not None
            and (pool.kernel_size, pool.stride, pool.padding) == (2, 2, 0)
            and height % 2 == width % 2 == 0
        )

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 1, H, W), without a gradient, to (B, O, (H - 4) / 2, (W - 4) / 2)."""
        norm = self.norm
        output: tuple[Tensor, Tensor, Tensor] = _FirstBlock.apply(
            images,
            self.conv.weight,
            self.conv.bias,
            norm.weight,
            norm.bias,
            norm.eps,
            self.workspace,
        )
        pooled, mean, variance = output
        # As batch norm keeps them: with the variance of a sample.
        count = pooled[:, 0].numel() * 4
        with torch.no_grad():
            for kept, seen in (
                (norm.running_mean, mean),
                (norm.running_var, variance * (count / max(count - 1, 1))),
            ):
                assert kept is not None
                assert norm.momentum is not None
                kept.lerp_(seen, norm.momentum)
            assert norm.num_batches_tracked is not None
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
        batch, _, height, width = images.shape
        height, width = height - 4, width - 4
        outputs, kernel = len(weight), weight[0].numel()
        image, _, row, column = images.stride()
        # (26, R), so that runs of a row are copied at once; the last is of ones, which makes sums
        # and constants parts of the products.
        patches = work.take("patches", (kernel + 1, batch * height * width), images)
        cut = images.as_strided((5, 5, batch, height, width), (row, column, image, row, column))
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
        ctx.work, ctx.turn = work, work.begin()
        ctx.size, ctx.eps = (batch, height, width), eps
        ctx.save_for_backward(flat, means, covariance, mean, variance, scale)
        ctx.shape = weight.shape
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
        batch, height, width = ctx.size
        outputs, kernel = flat.shape
        patches = ctx.work.take("patches", (kernel + 1, batch * height * width), gradient)
        activations = ctx.work.take("activations", (patches.shape[1], outputs), gradient)
        # 3 a quarter to each pixel of a pool, where ReLU let it through
        pools = (batch, height // 2, 2, width // 2, 2, outputs)
        quarter = (gradient * 0.25).permute(0, 2, 3, 1)[:, :, None, :, None]
        through = activations.view(pools)
        torch.ops.aten.threshold_backward.grad_input(
            quarter.expand(pools), through, 0, grad_input=through
        )
        # 4 all that is needed of the gradient behind the norm
        products = (patches @ through.view(-1, outputs)).t().double()
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
