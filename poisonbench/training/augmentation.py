"""Random crop and flip per image, drawn for a whole epoch and applied by one gather a batch.

Source      the HINT paper: "random crop and horizontal flip" on CIFAR-10, none on MNIST.
Deviations  integer shifts of a zero-padded image (what "random crop" means in the field); the
            paper's code shifts by bilinear sampling after normalisation.
"""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING = 4


def draw_beta(alpha: float, generator: torch.Generator) -> float:
    """One draw of Beta(alpha, alpha), the weight of one image in a blend of two."""
    from scipy.special import betaincinv

    # By inversion, since no library's Beta takes a generator of torch's.
    uniform = float(torch.rand((), generator=generator, dtype=torch.float64))
    return float(betaincinv(alpha, alpha, uniform))


@dataclass(frozen=True)
class CropFlip:
    """One epoch's draws, by row of the training set, so dropping rows changes no other draw."""

    #: (N, 2) int64 in [0, 8], the crop's corner in the padded image.
    shifts: Tensor
    #: (N,) bool.
    flips: Tensor

    @classmethod
    def draw(cls, num_images: int, generator: torch.Generator, device: torch.device) -> Self:
        """Draws for N images, made on the CPU and moved to the device."""
        shifts = torch.randint(0, 2 * PADDING + 1, (num_images, 2), generator=generator)
        flips = torch.randint(0, 2, (num_images,), generator=generator, dtype=torch.uint8).bool()
        return cls(shifts.to(device), flips.to(device))

    def __call__(self, images: Tensor, rows: Tensor) -> Tensor:
        """Crop and flip images (B, C, H, W), which are the training set's rows (B,)."""
        batch, _, height, width = images.shape
        padded = F.pad(images, (PADDING,) * 4).permute(0, 2, 3, 1)
        across = torch.arange(width, device=images.device)
        columns = torch.where(self.flips[rows, None], width - 1 - across, across)
        columns = columns + self.shifts[rows, 1, None]
        lines = torch.arange(height, device=images.device) + self.shifts[rows, 0, None]
        image = torch.arange(batch, device=images.device)[:, None, None]
        # Indexing (B, H, W, C) keeps the pixels' channels together: the result is channels-last.
        return padded[image, lines[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
