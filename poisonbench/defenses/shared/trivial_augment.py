"""TrivialAugment: one operation of a list, of random strength, on each batch.

Paper      Müller, Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation",
           ICCV 2021.
Reference  ``kornia.augmentation.auto.TrivialAugment``, whose list and ranges these are: twelve
           operations, one a batch, with a strength for each image.
Deviations A shear of 0.3 is one of 0.3 pixels a line, as in the paper, not of 0.3 of 180 degrees.
"""

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from poisonbench.core.devices import send

#: An operation on images (B, C, H, W) in [0, 1] and strengths (B,) on their device.
Operation = Callable[[Tensor, Tensor], Tensor]


def trivial_augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, C, H, W) in [0, 1] after one operation, drawn for the batch; grey ones too."""
    names = list(OPERATIONS)
    name = names[int(torch.randint(len(names), (), generator=generator))]
    operation, low, high = OPERATIONS[name]
    strengths = low + (high - low) * torch.rand(len(images), generator=generator)
    return operation(images, send(strengths, images.device))


def _autocontrast(images: Tensor, strengths: Tensor) -> Tensor:
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return (images - low) / (high - low + 1e-6)


def _equalize(images: Tensor, strengths: Tensor) -> Tensor:
    from kornia.enhance import equalize

    equalized: Tensor = equalize(images)
    return equalized


def _posterize(images: Tensor, strengths: Tensor) -> Tensor:
    """Strengths are bits a channel, whole parts counting; none leave black."""
    steps = 2.0 ** (8 - strengths.floor())[:, None, None, None]
    return (images * 255 / steps).floor() * steps / 255


def _solarize(images: Tensor, strengths: Tensor) -> Tensor:
    return torch.where(images < strengths[:, None, None, None], images, 1 - images)


def _contrast(images: Tensor, strengths: Tensor) -> Tensor:
    return (images * strengths[:, None, None, None]).clamp(0, 1)


def _brightness(images: Tensor, strengths: Tensor) -> Tensor:
    return (images + strengths[:, None, None, None] - 1).clamp(0, 1)


def _sharpness(images: Tensor, strengths: Tensor) -> Tensor:
    from kornia.enhance import sharpness

    sharpened: Tensor = sharpness(images, strengths)
    return sharpened


def _rotate(images: Tensor, strengths: Tensor) -> Tensor:
    """Strengths are degrees."""
    cosine, sine = (strengths * math.pi / 180).cos(), (strengths * math.pi / 180).sin()
    return _affine(images, {(0, 0): cosine, (0, 1): -sine, (1, 0): sine, (1, 1): cosine})


def _shear_x(images: Tensor, strengths: Tensor) -> Tensor:
    return _affine(images, {(0, 1): strengths})


def _shear_y(images: Tensor, strengths: Tensor) -> Tensor:
    return _affine(images, {(1, 0): strengths})


def _translate_x(images: Tensor, strengths: Tensor) -> Tensor:
    """Strengths are shares of the width; grid_sample's images are 2 wide."""
    return _affine(images, {(0, 2): 2 * strengths})


def _translate_y(images: Tensor, strengths: Tensor) -> Tensor:
    return _affine(images, {(1, 2): 2 * strengths})


def _affine(images: Tensor, entries: Mapping[tuple[int, int], Tensor]) -> Tensor:
    """Images seen through an affine map, whose entries are the identity's but for some; bilinear.

    The entries that mix the axes are in pixels, the translations in halves of a side. Outside is
    black.
    """
    maps = torch.eye(2, 3, device=images.device).repeat(len(images), 1, 1)
    for (line, column), values in entries.items():
        maps[:, line, column] = values
    # The grid's axes both go from -1 to 1, so that their units differ unless the image is a square.
    height, width = images.shape[2:]
    maps[:, 0, 1] *= height / width
    maps[:, 1, 0] *= width / height
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


#: By name, each with the range of its strength.
OPERATIONS: Mapping[str, tuple[Operation, float, float]] = {
    "auto-contrast": (_autocontrast, 0.0, 1.0),
    "equalize": (_equalize, 0.0, 1.0),
    "rotate": (_rotate, -30.0, 30.0),
    "posterize": (_posterize, 0.0, 4.0),
    "solarize": (_solarize, 0.0, 1.0),
    "contrast": (_contrast, 0.1, 1.9),
    "brightness": (_brightness, 0.1, 1.9),
    "sharpness": (_sharpness, 0.1, 1.9),
    "shear-x": (_shear_x, -0.3, 0.3),
    "shear-y": (_shear_y, -0.3, 0.3),
    "translate-x": (_translate_x, -0.5, 0.5),
    "translate-y": (_translate_y, -0.5, 0.5),
}
