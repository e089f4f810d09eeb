"""Untargeted noise: the control beside an untargeted attack, judged by what it does beyond this.

Source      none; the field reports such a control ("random noise") beside availability attacks.
Goal        untargeted: none of its own; whatever images that differ as much do to training.
Budget      epsilon in L-infinity or in L2.
Cost        one addition; no model.

Given images x with labels y of K classes:

1.  Draw noise: for L-infinity -epsilon or epsilon in every value, each as likely, or uniform
    between them; for L2 a Gaussian direction of norm epsilon. Sample-wise: for each image.
    Class-wise: one a class.
2.  x' <- clamp(x + noise, 0, 1).

Clipping takes from an image's L2 distance, as it does in attacks of that norm.

Deviations  none: it is this project's. The profile "l2" has LSP's budget; AR's is 1 in colour.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from poisonbench.attacks.base import AttackConfig, AttackTask
from poisonbench.core.devices import send
from poisonbench.core.settings import Profiles, require, setting
from poisonbench.core.work import nothing_more

VERSION = 1

PROFILES: Profiles = {
    "paper": {"mnist": {"epsilon": 76 / 255}},
    # Of 32 x 32 colour images and of 28 x 28 grey ones.
    "l2": {"*": {"norm": "l2", "epsilon": 1.304}, "mnist": {"epsilon": 28 * 57 / 255}},
}

#: The largest epsilon that the L-infinity presets have; as an L2 norm it is lost in rounding.
_LARGEST_PRESET = 76 / 255
#: Images at a time.
_CHUNK = 1000


@dataclass(frozen=True, kw_only=True)
class Config(AttackConfig):
    """Settings of the control."""

    epsilon: float = setting(
        8 / 255, "Size, in pixels of [0, 1]: of each value, or of an image's L2 norm.", over=0
    )
    norm: Literal["linf", "l2"] = setting("linf", "Of the noise; l2 needs its own epsilon.")
    distribution: Literal["sign", "uniform"] = setting(
        "sign", "With linf. sign: -epsilon or epsilon; uniform: on [-epsilon, epsilon]."
    )
    pattern: Literal["sample-wise", "class-wise"] = setting(
        "sample-wise", "Whether each image has its own noise, or each class one."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm == "linf":
            require(self.epsilon <= 1, f"epsilon: expected in (0, 1] with linf, got {self.epsilon}")
        else:
            require(
                self.epsilon > _LARGEST_PRESET,
                "epsilon: expected the L2 norm of a whole image's noise with norm l2, such as 1, "
                f"got {self.epsilon:.3g}; give one over 0.3, or choose the profile l2",
            )
            require(
                self.distribution == "sign",
                f"distribution: expected it with norm linf, got {self.distribution} with l2, whose "
                "noise is Gaussian; leave it out",
            )


def craft(task: AttackTask, config: Config) -> Tensor:
    """Noisy images (P, C, H, W) float32 in [0, 1]."""
    shape, device = task.images.shape[1:], task.images.device
    if config.pattern == "class-wise":
        patterns = draw(config, (task.num_classes, *shape), task.generator).to(device)
        task.report(1, 1)
        return (task.images + patterns[task.labels]).clamp_(0, 1)
    noisy = torch.empty_like(task.images)
    parts = task.images.split(_CHUNK)
    for number, images in enumerate(parts):
        noise = send(draw(config, images.shape, task.generator), device)
        noisy[number * _CHUNK :][: len(images)] = (images + noise).clamp_(0, 1)
        task.report(number + 1, len(parts))
    return noisy


def draw(config: Config, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Noise (N, C, H, W) float32, on the CPU."""
    if config.norm == "l2":
        noise = torch.randn(shape, generator=generator)
        scale: Tensor = config.epsilon / noise.flatten(1).norm(dim=1)
        return noise * scale[:, None, None, None]
    noise = torch.rand(shape, generator=generator) * 2 - 1
    if config.distribution == "sign":
        noise = torch.where(noise < 0, -1.0, 1.0)
    return config.epsilon * noise


work = nothing_more
