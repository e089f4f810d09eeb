"""Recolouring: a smooth shift of each pixel's colour that depends on its colour alone.

Source      Laidlaw and Feizi, "Functional Adversarial Attacks", NeurIPS 2019; as MetaPoison's code
            (wronnyhuang/metapoison @ 298f2c0) has it, over YUV with 10 points an axis.

1.  A grid of 10 x 10 x 10 colours spans Y in [0, 1], U and V in [-0.5, 0.5]. Each image has a shift
    in YUV at each point of a grid of its own.
2.  A pixel's shift is interpolated between the eight points around its colour (trilinear), and
    added to the pixel.

Deviations  the code interpolates the shifted colours, so that a pixel whose V lies outside the grid
            (saturated red or cyan) moves onto its border even at no shift; here it keeps its colour
            and takes the border's shift. The result is clamped to [0, 1].
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

#: Points an axis.
RESOLUTION = 10
#: How much of a shift by 1 in each YUV channel can arrive in an RGB channel: blue's.
LARGEST_SHIFT = 3.0325


class Palette:
    """Where each pixel of images (..., 3, H, W), RGB in [0, 1], lies in the grid of colours."""

    def __init__(self, images: Tensor) -> None:
        # Kornia takes 0.3 s to import and few attacks recolour.
        from kornia.color import rgb_to_yuv

        self.shape = images.shape[:-3]
        flat = images.flatten(0, -4)
        yuv = rgb_to_yuv(flat).flatten(2).movedim(1, 2)
        offset = yuv.new_tensor([0.0, 0.5, 0.5])
        position = (yuv + offset).clamp(0, 1) * (RESOLUTION - 1)
        corner = position.floor().clamp_max(RESOLUTION - 2)
        share = position - corner
        sides = torch.tensor(list(itertools.product((0, 1), repeat=3)), device=images.device)
        strides = torch.tensor([RESOLUTION**2, RESOLUTION, 1], device=images.device)
        points = ((corner.long()[:, :, None] + sides) * strides).sum(-1)
        images_before = torch.arange(len(flat), device=images.device)[:, None, None]
        #: (M, H W, 8) rows of all images' points, and their weights.
        self.points = images_before * RESOLUTION**3 + points
        near, far = 1 - share[:, :, None], share[:, :, None]
        self.weights = torch.where(sides == 1, far, near).prod(-1)

    def no_shifts(self) -> Tensor:
        """Zeros of shape (..., 10, 10, 10, 3), a shift for each point of each image's grid."""
        return self.weights.new_zeros((*self.shape, *[RESOLUTION] * 3, 3))

    def recolor(self, images: Tensor, shifts: Tensor) -> Tensor:
        """The palette's images by shifts (..., 10, 10, 10, 3) in YUV, differentiable in these."""
        from kornia.color import yuv_to_rgb

        # Its gradients add up in a fixed order, unlike those of an index or of grid_sample.
        around = F.embedding(self.points, shifts.flatten(0, -2))
        moved = (self.weights[..., None] * around).sum(-2).movedim(2, 1)
        moved = moved.unflatten(-1, images.shape[-2:])
        return (images + yuv_to_rgb(moved).view_as(images)).clamp(0, 1)


def roughness(shifts: Tensor) -> Tensor:
    """Mean squared slope (T,) of the shifts (T, P, 10, 10, 10, 3) along the three axes.

    A slope is the difference of neighbours times the points an axis.
    """
    slopes = [RESOLUTION * shifts.diff(dim=axis).flatten(1) for axis in (2, 3, 4)]
    return torch.cat(slopes, 1).square().mean(1)


@torch.no_grad()
def clamp_shifts(shifts: Tensor, bound: float) -> None:
    """Clamp in place to the bound, and so that no point's colour leaves the grid's range."""
    shifts.clamp_(-bound, bound)
    axis = torch.linspace(0, 1, RESOLUTION, device=shifts.device, dtype=shifts.dtype)
    colours = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
    shifts.copy_((colours + shifts).clamp(0, 1) - colours)
