"""A frozen network's first block on images of one channel, on a CPU, as one function.

Convolution, ReLU and average pool of 2 x 2: most of the activations that the MNIST network moves.
With P (k, R) the patches of R pixels of the convolution's output, k pixels each (numbers reappear
below):
  1  z = relu(P' w + b), one matrix product
  2  pool
  3  backwards, each pixel of z that is above 0 gets a quarter of its pool's gradient
  4  a patch's gradient is a product too, and an image's the sum of its patches'
Only images get a gradient, and z is all that is kept for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from poisonbench.core.devices import is_accelerator
from poisonbench.models.cpu.winograd import Workspace


class FrozenBlock(nn.Module):
    """Convolution, ReLU and average pool of 2 x 2 of images of one channel.

    Args:
        conv: stride 1, no padding, frozen.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv, self.workspace = conv, Workspace()

    @staticmethod
    def fits(layers: Sequence[nn.Module]) -> bool:
        """Whether layers begin with such a block, of whose norm an Identity is left."""
        expected = [nn.Conv2d, nn.Identity, nn.ReLU, nn.AvgPool2d]
        if [type(layer) for layer in layers[:4]] != expected:
            return False
        conv, _, _, pool = layers[:4]
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(pool, nn.AvgPool2d)
        return (
            conv.in_channels == 1
            and conv.stride == conv.dilation == (1, 1)
            and conv.padding == (0, 0)
            and not is_accelerator(conv.weight.device)
            and (pool.kernel_size, pool.stride, pool.padding) == (2, 2, 0)
            and not pool.ceil_mode
            and pool.divisor_override is None
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, H, W) to (B, O, H', W')."""
        conv = self.conv
        height, width = (s - k + 1 for s, k in zip(images.shape[2:], conv.kernel_size, strict=True))
        # An odd row or column is in no pool.
        if height % 2 or width % 2:
            return F.avg_pool2d(conv(images).relu(), 2)
        # 16 bits would gain little here, and a pixel's gradient is a sum of many.
        with torch.autocast("cpu", enabled=False):
            pooled: Tensor = _Block.apply(images, conv.weight, conv.bias, self.workspace)
        return pooled


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, work: Workspace
    ) -> Tensor:
        images = images.contiguous()
        batch, down, right = len(images), *weight.shape[2:]
        height, width = images.shape[2] - down + 1, images.shape[3] - right + 1
        # (k, R), so that runs of a row are copied at once.
        image, _, row, column = images.stride()
        cut = images.as_strided(
            (down, right, batch, height, width), (row, column, image, row, column)
        )
        patches = work.take("patches", cut.shape, images).copy_(cut).view(down * right, -1)
        # 1
        flat = weight.flatten(1)
        start = flat.new_zeros(()) if bias is None else bias
        kept = torch.addmm(start, patches.t(), flat.t()).relu_()
        # 2
        ctx.save_for_backward(flat, kept)
        ctx.work, ctx.shape = work, cut.shape
        maps = kept.view(batch, height, width, len(flat)).permute(0, 3, 1, 2)
        return F.avg_pool2d(maps, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        flat, kept = ctx.saved_tensors
        down, right, batch, height, width = ctx.shape
        # 3
        pools = (batch, height // 2, 2, width // 2, 2, len(flat))
        quarter = (gradient * 0.25).permute(0, 2, 3, 1)[:, :, None, :, None]
        through = ctx.work.take("through", pools, gradient)
        torch.ops.aten.threshold_backward.grad_input(
            quarter.expand(pools), kept.view(pools), 0, grad_input=through
        )
        # 4
        patches = ctx.work.take("patches", (down * right, kept.shape[0]), gradient)
        torch.mm(flat.t(), through.view(kept.shape).t(), out=patches)
        parts = patches.view(ctx.shape)
        images = gradient.new_zeros(batch, height + down - 1, width + right - 1)
        for i in range(down):
            for j in range(right):
                images[:, i : i + height, j : j + width] += parts[i, j]
        return images[:, None], None, None, None
