"""LSP: linearly separable perturbations, synthetic noise of large patches around a class's centre.

Source      Yu et al., "Availability Attacks Create Shortcuts", KDD 2022 (arXiv 2111.00898).
Code        dayu11/Availability-Attacks-Create-Shortcuts @ d27ab29, synthetic_perturbations, which
            has no licence and was not copied; its noise is scikit-learn's make_classification.
Goal        untargeted: whoever trains on the images learns the noise, which a linear model can.
Budget      L2, in the paper (6/255) sqrt(3072) = 1.304.
Cost        seconds; no model.

Given images x (C, H, W) with labels y of K classes, and D patch cells of an image in all channels:

1.  Draw K distinct vertices v(c) of the cube {-10, 10}^D, the centres of the classes.
2.  Draw a matrix A(c) of D x D for each class, uniform on [-1, 1]; an image's point is
    z = n A(y) + v(y) with n of N(0, I).
3.  Lay z out as cells, each repeated as a patch of p x p pixels.
4.  Scale the noise to the L2 norm epsilon, add it, and clip to [0, 1].

Deviations  Points are drawn for each label as it comes, where the reference needs classes of equal
            size. The permutation of the D cells is left out: vertices and matrices are as likely
            under any. Images are rounded, not truncated. The paper has no setting for MNIST: there
            the patch is 7, which divides 28, and epsilon the same share (6/8) of the L2 norm of
            this project's L-infinity budget as in colour. Where the patch does not divide an
            image, the last cells are cut off.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from poisonbench.attacks.base import AttackConfig, AttackTask
from poisonbench.attacks.shared.class_rows import rows_by_class
from poisonbench.core.devices import send
from poisonbench.core.errors import UsageError
from poisonbench.core.settings import Profiles, setting
from poisonbench.core.work import nothing_more
from poisonbench.specs import Norm

VERSION = 1

PROFILES: Profiles = {"paper": {"mnist": {"patch": 7, "epsilon": 28 * 57 / 255}}}

#: Coordinates of the centres are this or its negative.
_SEPARATION = 10
#: Images of a class at a time.
_CHUNK = 1000


@dataclass(frozen=True, kw_only=True)
class Config(AttackConfig):
    """Settings of LSP; the defaults are for CIFAR-10."""

    epsilon: float = setting(6 / 255 * math.sqrt(3072), "L2 norm of the noise of an image.", over=0)
    patch: int = setting(8, "Side of a patch.", low=1)

    @property
    def norm(self) -> Norm:
        """L2."""
        return "l2"


def craft(task: AttackTask, config: Config) -> Tensor:
    """Poisoned images (P, C, H, W) float32 in [0, 1] for the task's images."""
    channels, height, width = task.images.shape[1:]
    device, patch = task.images.device, config.patch
    grid = (channels, math.ceil(height / patch), math.ceil(width / patch))
    cells = math.prod(grid)
    if 2 ** min(cells, 63) < task.num_classes:
        raise UsageError(
            f"lsp: expected enough patches for {task.num_classes} classes to have a centre each, "
            f"got {cells}; lower --patch"
        )

    # 1. and 2. A centre and a matrix a class.
    centres = vertices(task.num_classes, cells, task.generator).to(device)
    matrices = torch.rand(task.num_classes, cells, cells, generator=task.generator) * 2 - 1
    matrices = matrices.to(device)

    poisons = torch.empty_like(task.images)
    parts = rows_by_class(task.labels, _CHUNK)
    for number, (label, rows) in enumerate(parts):
        draws = send(torch.randn(len(rows), cells, generator=task.generator), device)
        points = separable_points(draws, matrices[label], centres[label])

        # 3. Cells become patches.
        noise = points.view(-1, *grid).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
        noise = noise[..., :height, :width]

        # 4. Scale, add, clip.
        scale = config.epsilon / noise.flatten(1).norm(dim=1)
        own = send(rows, device)
        poisons[own] = (task.images[own] + scale[:, None, None, None] * noise).clamp_(0, 1)
        task.report(number + 1, len(parts))
    return poisons


def vertices(number: int, size: int, generator: torch.Generator) -> Tensor:
    """Distinct vertices (K, D) of the cube, float32; at most 2 to the D."""
    drawn: dict[tuple[float, ...], None] = {}
    while len(drawn) < number:
        bits = torch.randint(0, 2, (number, size), generator=generator)
        drawn |= dict.fromkeys(tuple(row) for row in bits.tolist())
    return _SEPARATION * (2.0 * torch.tensor(list(drawn)[:number]) - 1)


def separable_points(draws: Tensor, matrix: Tensor, centre: Tensor) -> Tensor:
    """Points (B, D) of a class: draws (B, D) by its matrix (D, D), around its centre (D,)."""
    return draws @ matrix + centre


work = nothing_more
