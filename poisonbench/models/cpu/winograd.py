"""Winograd's convolution of 5 x 5 kernels on a CPU: 6.25 times fewer multiplications.

Source      Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, as
            F(4 x 4, 5 x 5), with Cook and Toom's matrices for the points 0, 1, -1, 2, -2, 1/2,
            -1/2 and infinity.
Why         PyTorch's own CPU kernels use it for 3 x 3 at most, and half of the MNIST network's time
            is one convolution of 5 x 5.

Algorithm   (numbers reappear below)
  1  cut the images into tiles of 8 x 8 that overlap by 4, one for each 4 x 4 of the output
  2  V = B' tile B,  U = G kernel G'     8 x 8 each; the 2D transforms are products with B x B, ...
  3  M = sum over input channels of U V, for each of the 64 positions: 64 matrix products
  4  output tile = A' M A
The gradients are the transposed maps in reverse order; U's and V's are products of step 3's kind.

Deviations  none in what is computed. float32 rounds more: about 1e-5 of the largest value, where a
            direct convolution has 1e-6.
Shapes      B images, C channels to O; output 4a x 4b of images 4(a+1) x 4(b+1); N = B a b tiles.
"""

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from poisonbench.core.devices import is_accelerator

KERNEL, OUTPUT, TILE = 5, 4, 8
POINTS = (0, 1, -1, 2, -2, 1 / 2, -1 / 2)


class Workspace:
    """Buffers that are used again: fresh memory costs a CPU as much as the arithmetic on it."""

    def __init__(self) -> None:
        self.buffers: dict[str, Tensor] = {}
        self.turn = 0

    def take(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Take a tensor of that shape with anything in it, valid until the name is taken again."""
        size = math.prod(shape)
        buffer = self.buffers.get(name)
        if buffer is None or buffer.numel() < size or buffer.dtype != like.dtype:
            # Not what inference mode makes: a later pass may need gradients.
            with torch.inference_mode(False):
                buffer = self.buffers[name] = torch.empty(size, dtype=like.dtype)
        return buffer[:size].view(shape)

    def begin(self) -> int:
        """Begin a turn: a forward pass leaves something for its backward pass."""
        self.turn += 1
        return self.turn

    def finish(self, turn: int) -> None:
        """End the turn, from that backward pass; RuntimeError if it is not the first and next."""
        if turn != self.turn:
            raise RuntimeError(
                "expected one backward pass directly after its forward pass, got another forward "
                "pass between them or a second backward pass; call the model itself instead"
            )
        self.turn += 1


def fits(layer: nn.Module) -> bool:
    """Whether a layer is a convolution of this kind, with work to save."""
    return (
        type(layer) is nn.Conv2d
        and layer.kernel_size == (KERNEL, KERNEL)
        and layer.stride == layer.dilation == (1, 1)
        and layer.padding == (0, 0)
        and layer.groups == 1
        and not is_accelerator(layer.weight.device)
        # The transforms are worth their cost where many channels share them.
        and min(layer.in_channels, layer.out_channels) >= TILE
    )


def covers(images: Tensor) -> bool:
    """Whether tiles cover images (B, C, H, W) without a rest."""
    height, width = images.shape[2:]
    return height % OUTPUT == width % OUTPUT == 0 and min(height, width) >= TILE


def transform_kernel(weight: Tensor) -> Tensor:
    """Step 2's U (64, C, O) of a weight (O, C, 5, 5)."""
    outputs, channels = weight.shape[:2]
    _, kernel, _ = _transforms(weight.dtype)
    flat = weight.flatten(2).permute(2, 1, 0).reshape(KERNEL**2, -1)
    return (kernel @ flat).view(TILE**2, channels, outputs)


class WinogradConv(nn.Module):
    """A convolution of 5 x 5, by Winograd's algorithm where tiles cover the images.

    With ``keep`` V is left in the workspace for the weight's gradient, to be computed before that
    is used again; without, the weight gets no gradient.
    """

    def __init__(self, conv: nn.Conv2d, *, keep: bool = False) -> None:
        super().__init__()
        self.conv, self.keep, self.workspace = conv, keep, Workspace()

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W), channels last, to (B, O, H', W')."""
        conv = self.conv
        output: Tensor
        # In 16 bits the transforms would lose the image.
        if torch.is_autocast_enabled("cpu") or not covers(images):
            output = conv(images)
        else:
            output = _Convolve.apply(images, conv.weight, conv.bias, self.workspace, self.keep)
        return output


def apply_kernel(images: Tensor, kernel: Tensor, bias: Tensor | None, work: Workspace) -> Tensor:
    """Steps 1, 3 and 4 with a transformed kernel U; V stays in the workspace as ``"V"``."""
    batch, channels, height, width = images.shape
    rows, columns, outputs = height // OUTPUT - 1, width // OUTPUT - 1, kernel.shape[2]
    count = batch * rows * columns
    into, _, out_of = _transforms(images.dtype)
    # 1 tiles, position by position: (8, 8, B, a, b, C)
    pixels = images.permute(0, 2, 3, 1)
    image, row, column, channel = pixels.stride()
    cut = pixels.as_strided(
        (TILE, TILE, batch, rows, columns, channels),
        (row, column, image, OUTPUT * row, OUTPUT * column, channel),
    )
    tiles = work.take("tiles", cut.shape, images).copy_(cut)
    # 2 and 3
    seen = work.take("V", (TILE**2, count * channels), images)
    torch.mm(into, tiles.view(TILE**2, -1), out=seen)
    mixed = work.take("M", (TILE**2, count, outputs), images)
    torch.bmm(seen.view(TILE**2, count, channels), kernel, out=mixed)
    # 4 back to pixels
    output = work.take("output", (OUTPUT**2, count * outputs), images)
    torch.mm(out_of, mixed.view(TILE**2, -1), out=output)
    output = output.view(OUTPUT, OUTPUT, batch, rows, columns, outputs).permute(2, 3, 0, 4, 1, 5)
    # A copy even where reshaping needs none: the buffer is the next call's.
    whole = output.clone(memory_format=torch.contiguous_format)
    whole = whole.view(batch, OUTPUT * rows, OUTPUT * columns, outputs)
    if bias is not None:
        whole += bias
    return whole.permute(0, 3, 1, 2)


def gradient_of_mixed(gradient: Tensor, work: Workspace) -> Tensor:
    """Step 4 transposed: M's gradient (64, N, O) of the output's (B, O, 4a, 4b)."""
    batch, outputs, height, width = gradient.shape
    rows, columns = height // OUTPUT, width // OUTPUT
    _, _, out_of = _transforms(gradient.dtype)
    cut = gradient.permute(0, 2, 3, 1).reshape(batch, rows, OUTPUT, columns, OUTPUT, outputs)
    cut = cut.permute(2, 4, 0, 1, 3, 5)
    tiles = work.take("output", cut.shape, gradient).copy_(cut)
    mixed = work.take("M", (TILE**2, batch * rows * columns * outputs), gradient)
    torch.mm(out_of.t(), tiles.view(OUTPUT**2, -1), out=mixed)
    return mixed.view(TILE**2, -1, outputs)


def gradient_of_images(
    mixed: Tensor, kernel: Tensor, shape: tuple[int, ...], work: Workspace
) -> Tensor:
    """Steps 3, 2 and 1 transposed: the images' gradient (B, C, H, W) of M's and U."""
    batch, channels, height, width = shape
    rows, columns = height // OUTPUT - 1, width // OUTPUT - 1
    into, _, _ = _transforms(mixed.dtype)
    seen = work.take("tiles", (TILE**2, mixed.shape[1], channels), mixed)
    torch.bmm(mixed, kernel.transpose(1, 2), out=seen)
    tiles = work.take("gradient of tiles", (TILE**2, seen[0].numel()), mixed)
    torch.mm(into.t(), seen.view(TILE**2, -1), out=tiles)
    tiles = tiles.view(TILE, TILE, batch, rows, columns, channels)
    # Overlapping tiles add up: four parts of each, every part to its own 4 x 4 of the image.
    images = mixed.new_zeros(batch, height, width, channels)
    blocks = images.view(batch, rows + 1, OUTPUT, columns + 1, OUTPUT, channels)
    for down in (0, 1):
        for right in (0, 1):
            part = tiles[OUTPUT * down : OUTPUT * (down + 1), OUTPUT * right : OUTPUT * (right + 1)]
            block = blocks[:, down : down + rows, :, right : right + columns]
            block += part.permute(2, 3, 0, 4, 1, 5)
    return images.permute(0, 3, 1, 2)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, work: Workspace, keep: bool
    ) -> Tensor:
        kernel = transform_kernel(weight)
        ctx.save_for_backward(kernel)
        ctx.work, ctx.keep, ctx.shape = work, keep, images.shape
        ctx.turn = work.begin() if keep else 0
        return apply_kernel(images, kernel, bias, work)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        if ctx.keep:
            ctx.work.finish(ctx.turn)
        (kernel,) = ctx.saved_tensors
        _, channels, outputs = kernel.shape
        mixed = gradient_of_mixed(gradient, ctx.work)
        images = weight = bias = None
        if ctx.keep and ctx.needs_input_grad[1]:
            seen = ctx.work.take("V", (TILE**2, mixed.shape[1], channels), mixed)
            change = torch.bmm(seen.transpose(1, 2), mixed)
            _, into, _ = _transforms(mixed.dtype)
            flat = (into.t() @ change.view(TILE**2, -1)).view(KERNEL, KERNEL, channels, outputs)
            weight = flat.permute(3, 2, 0, 1)
        if ctx.needs_input_grad[2]:
            bias = gradient.sum((0, 2, 3))
        if ctx.needs_input_grad[0]:
            images = gradient_of_images(mixed, kernel, ctx.shape, ctx.work)
        return images, weight, bias, None, None


@cache
def _transforms(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """B' x B' (64, 64), G x G (64, 25) and A' x A' (16, 64): the 1D matrices' Kronecker squares."""
    into, kernel, out_of = (
        torch.from_numpy(np.kron(matrix, matrix)).to(dtype) for matrix in cook_toom()
    )
    return into, kernel, out_of


def cook_toom() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """B' (8, 8), G (8, 5), A' (4, 8): A' [(G g) * (B' d)] is the correlation of d (8,) and g (5,).

    Each finite point p stands for evaluating polynomials there: row i of G evaluates g, divided by
    the product of p_i - p_j; row i of B' are the coefficients of the product of x - p_j.
    """
    into, kernel, out_of = (np.zeros(n) for n in ((TILE, TILE), (TILE, KERNEL), (OUTPUT, TILE)))
    for row, point in enumerate(POINTS):
        others = [other for other in POINTS if other != point]
        into[row, :-1] = np.polynomial.polynomial.polyfromroots(others)
        scale = np.prod([point - other for other in others])
        kernel[row] = [point**power / scale for power in range(KERNEL)]
        out_of[:, row] = [point**power for power in range(OUTPUT)]
    # The point at infinity takes the highest coefficient.
    into[-1] = np.polynomial.polynomial.polyfromroots(POINTS)
    kernel[-1, -1] = out_of[-1, -1] = 1
    return into, kernel, out_of
