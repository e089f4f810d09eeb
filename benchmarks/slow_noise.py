"""Slow noise: a control, one noise of random signs a class, in slow waves.

    poisonbench defend --plugin benchmarks/slow_noise.py --attack slow-noise --rho 1 ...

Source      none: beside the class-wise noise of signs of `untargeted-noise` it shows what of a
            defense's gain is of the waves; size and signs are as there.
Goal        untargeted.
Budget      epsilon in L-infinity, which every value takes before clipping.
Cost        none; no model.

1.  Draw Gaussian noise for each class, and leave of its Fourier components those of at most `slow`
    cycles an image.
2.  x' <- clamp(x + epsilon sign(noise of its class), 0, 1).

The signs have edges, and so a part of their energy in faster waves.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from poisonbench.attacks.base import AttackConfig, AttackTask
from poisonbench.core.settings import Profiles, setting
from poisonbench.core.work import nothing_more
from poisonbench.entries import AttackEntry

ENTRY = AttackEntry(
    "slow-noise",
    "control: one noise of slow waves a class",
    when="untargeted: beside class-wise noise, to see what the waves do",
    trains=False,
    cost="seconds",
)

VERSION = 1

PROFILES: Profiles = {"paper": {"mnist": {"epsilon": 76 / 255}}}


@dataclass(frozen=True, kw_only=True)
class Config(AttackConfig):
    """Settings of the control."""

    slow: int = setting(4, "Cycles an image of the fastest waves.", low=0)


def craft(task: AttackTask, config: Config) -> Tensor:
    """Noisy images (P, C, H, W) float32 in [0, 1]."""
    shape = task.images.shape[1:]
    noise = torch.randn(task.num_classes, *shape, generator=task.generator)
    is_slow = slow_components(*shape[1:], config.slow)
    waves = torch.fft.ifft2(torch.fft.fft2(noise) * is_slow).real
    signs = torch.where(waves < 0, -1.0, 1.0).to(task.images.device)
    task.report(1, 1)
    return (task.images + config.epsilon * signs[task.labels]).clamp_(0, 1)


def slow_components(height: int, width: int, cycles: float) -> Tensor:
    """Which Fourier components have at most so many cycles an image, in any direction: (H, W)."""
    vertical = torch.fft.fftfreq(height, 1 / height)[:, None]
    horizontal = torch.fft.fftfreq(width, 1 / width)
    return vertical.square() + horizontal.square() <= cycles**2


work = nothing_more
