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

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from poisonbench.core.devices import is_accelerator
from poisonbench.models.cpu.winograd import Workspace


def is_first_block(layers: Sequence[Any], norm: type[nn.Module]) -> bool:
    """Whether layers begin with a convolution of one channel, that norm, ReLU and such a pool."""
    if [type(layer) for layer in layers[:4]] != [nn.Conv2d, norm, nn.ReLU, nn.AvgPool2d]:
        return False
    conv, _, _, pool = layers[:4]
    return bool(
        conv.in_channels == 1
        and conv.stride == conv.dilation == (1, 1)
        and conv.padding == (0, 0)
        and not is_accelerator(conv.weight.device)
        and (pool.kernel_size, pool.stride, pool.padding) == (2, 2, 0)
        and not pool.ceil_mode
        and pool.divisor_override is None
    )


def patches_of(images: Tensor, kernel: Sequence[int]) -> Tensor:
    """A view (k, k, B, H', W') of images of one channel: runs of a row are copied at once."""
    (down, right), (batch, _, height, width) = kernel, images.shape
    image, _, row, column = images.stride()
    shape = (down, right, batch, height - down + 1, width - right + 1)
    return images.as_strided(shape, (row, column, image, row, column))


def through_pool(gradient: Tensor, kept: Tensor, out: Tensor) -> None:
    """Step 3: the gradient of kept pixels (R, O) into ``out`` from the pools' (B, O, H', W')."""
    batch, outputs, rows, columns = gradient.shape
    pools = (batch, rows, 2, columns, 2, outputs)
    quarter = (gradient * 0.25).permute(0, 2, 3, 1)[:, :, None, :, None].expand(pools)
    torch.ops.aten.threshold_backward.grad_input(
        quarter, kept.view(pools), 0, grad_input=out.view(pools)
    )


class FrozenBlock(nn.Module):
    """A frozen convolution of one channel, ReLU and average pool of 2 x 2; no norm is left."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv, self.workspace = conv, Workspace()

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
        cut = patches_of(images.contiguous(), weight.shape[2:])
        down, right, batch, height, width = ctx.shape = cut.shape
        patches = work.take("patches", cut.shape, images).copy_(cut).view(down * right, -1)
        # 1
        flat = weight.flatten(1)
        start = flat.new_zeros(()) if bias is None else bias
        kept = torch.addmm(start, patches.t(), flat.t()).relu_()
        # 2
        ctx.save_for_backward(flat, kept)
        ctx.work = work
        maps = kept.view(batch, height, width, len(flat)).permute(0, 3, 1, 2)
        return F.avg_pool2d(maps, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        flat, kept = ctx.saved_tensors
        down, right, batch, height, width = ctx.shape
        # 3
        through = ctx.work.take("through", kept.shape, gradient)
        through_pool(gradient, kept, through)
        # 4
        patches = ctx.work.take("patches", (down * right, kept.shape[0]), gradient)
        torch.mm(flat.t(), through.t(), out=patches)
        parts = patches.view(ctx.shape)
        images = gradient.new_zeros(batch, height + down - 1, width + right - 1)
        for i in range(down):
            for j in range(right):
                images[:, i : i + height, j : j + width] += parts[i, j]
        return images[:, None], None, None, None
