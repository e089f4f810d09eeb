"""Untargeted noise: the control beside an untargeted attack, judged by what it does beyond this.

Source      none; the field reports such a control ("random noise") beside availability attacks.
Goal        untargeted: none of its own; whatever images that differ as much do to training.
Budget      epsilon in L-infinity, L2 or L0; of a convolution none, and epsilon is its blur.
Cost        one addition or convolution; no model.

Given images x with labels y of K classes, sample-wise for each image, class-wise once a class:

1.  Draw noise.
     a  linf: -epsilon or epsilon in every value, each as likely, or uniform between them.
     b  l2: a Gaussian direction of norm epsilon.
     c  l0: -1 or 1 in each channel of epsilon pixels, all as likely: clipped, a corner of the
        colour cube, as OPS takes. A pixel that has that colour stays as it is.
     d  convolution: a filter as CUDA draws it, its taps beside the one of 1 up to epsilon.
2.  x' <- clamp(x + noise, 0, 1), or x convolved, divided by its own maximum.

Clipping takes from an image's L2 distance, as it does in attacks of that norm.

Deviations  none: it is this project's. The profiles "l2", "l0" and "convolution" have the budgets
            of LSP, OPS and CUDA; AR's is 1 in colour (L2).
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from poisonbench.attacks.base import AttackTask, BudgetConfig
from poisonbench.attacks.shared.blurring import divided_by_maximum, draw_filters
from poisonbench.core.devices import send
from poisonbench.core.errors import UsageError
from poisonbench.core.settings import Profiles, require, setting
from poisonbench.core.work import nothing_more

VERSION = 1

PROFILES: Profiles = {
    "paper": {"mnist": {"epsilon": 76 / 255}},
    # Of 32 x 32 colour images and of 28 x 28 grey ones.
    "l2": {"*": {"norm": "l2", "epsilon": 1.304}, "mnist": {"epsilon": 28 * 57 / 255}},
    "l0": {"*": {"norm": "l0", "epsilon": 1.0}},
    "convolution": {"*": {"norm": "convolution", "epsilon": 0.3}},
}

#: The largest epsilon that the L-infinity presets have; as an L2 norm or a blur it is hardly any.
_LARGEST_PRESET = 76 / 255
#: Images at a time.
_CHUNK = 1000


@dataclass(frozen=True, kw_only=True)
class Config(BudgetConfig):
    """Settings of the control."""

    epsilon: float = setting(
        8 / 255,
        "Size: of each value (linf) or of an image's L2 norm, in pixels of [0, 1]; pixels (l0); "
        "largest tap beside the one of 1 (convolution).",
        over=0,
    )
    norm: Literal["linf", "l2", "l0", "convolution"] = setting(
        "linf", "Of the noise; the others than linf need an epsilon of their own."
    )
    distribution: Literal["sign", "uniform"] = setting(
        "sign", "With linf. sign: -epsilon or epsilon; uniform: on [-epsilon, epsilon]."
    )
    pattern: Literal["sample-wise", "class-wise"] = setting(
        "sample-wise", "Whether each image has its own noise, or each class one."
    )

    @property
    def budget(self) -> float | None:
        """Epsilon; none of a convolution."""
        return None if self.norm == "convolution" else self.epsilon

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm == "linf":
            require(self.epsilon <= 1, f"epsilon: expected in (0, 1] with linf, got {self.epsilon}")
        elif self.norm == "convolution":
            require(
                _LARGEST_PRESET < self.epsilon <= 1,
                "epsilon: expected the largest tap beside the one of 1 with norm convolution, over "
                f"{_LARGEST_PRESET:.3g} and at most 1, such as 0.3, got {self.epsilon:.3g}; give "
                "one, or choose the profile convolution",
            )
        elif self.norm == "l2":
            require(
                self.epsilon > _LARGEST_PRESET,
                "epsilon: expected the L2 norm of a whole image's noise with norm l2, such as 1, "
                f"got {self.epsilon:.3g}; give one over 0.3, or choose the profile l2",
            )
        else:
            require(
                self.epsilon >= 1 and self.epsilon % 1 == 0,
                "epsilon: expected a whole number of pixels with norm l0, such as 1, "
                f"got {self.epsilon:.3g}; give one, or choose the profile l0",
            )
        require(
            self.norm == "linf" or self.distribution == "sign",
            f"distribution: expected it with norm linf, got {self.distribution} with {self.norm}, "
            "whose noise has one of its own; leave it out",
        )
        require(
            self.norm != "convolution" or self.pattern == "sample-wise",
            "pattern: expected sample-wise with norm convolution, got class-wise; one filter a "
            "class is the attack cuda",
        )


def craft(task: AttackTask, config: Config) -> Tensor:
    """Noisy images (P, C, H, W) float32 in [0, 1].

    Raises:
        UsageError: more pixels than an image has.
    """
    shape, device = task.images.shape[1:], task.images.device
    if config.norm == "l0" and config.epsilon > shape[1] * shape[2]:
        raise UsageError(
            f"untargeted-noise: expected at most the {shape[1] * shape[2]} pixels of an image, got "
            f"epsilon {config.epsilon:g}; give fewer"
        )
    if config.pattern == "class-wise":
        patterns = draw(config, (task.num_classes, *shape), task.generator).to(device)
        task.report(1, 1)
        return (task.images + patterns[task.labels]).clamp_(0, 1)
    noisy = torch.empty_like(task.images)
    parts = task.images.split(_CHUNK)
    for number, images in enumerate(parts):
        rows = noisy[number * _CHUNK :][: len(images)]
        if config.norm == "convolution":
            filters = draw_filters(len(images), config.epsilon, task.generator)
            rows[:] = convolved(images, send(filters, device))
        else:
            noise = send(draw(config, images.shape, task.generator), device)
            rows[:] = (images + noise).clamp_(0, 1)
        task.report(number + 1, len(parts))
    return noisy


def draw(config: Config, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Noise (N, C, H, W) float32, on the CPU."""
    if config.norm == "l2":
        noise = torch.randn(shape, generator=generator)
        scale: Tensor = config.epsilon / noise.flatten(1).norm(dim=1)
        return noise * scale[:, None, None, None]
    if config.norm == "l0":
        count, _, height, width = shape
        order = torch.rand(count, height * width, generator=generator)
        pixels = order.topk(int(config.epsilon), dim=1).indices
        chosen = torch.zeros_like(order).scatter_(1, pixels, 1.0).view(count, 1, height, width)
        return chosen * torch.where(torch.rand(shape, generator=generator) < 0.5, -1.0, 1.0)
    noise = torch.rand(shape, generator=generator) * 2 - 1
    if config.distribution == "sign":
        noise = torch.where(noise < 0, -1.0, 1.0)
    return config.epsilon * noise


def convolved(images: Tensor, filters: Tensor) -> Tensor:
    """Images (B, C, H, W), each with its filter of (B, 3, 3) and divided by its own maximum."""
    planes = images.flatten(0, 1)[None]
    kernels = filters.repeat_interleave(images.shape[1], 0)[:, None]
    blurred = F.conv2d(planes, kernels, padding="same", groups=len(kernels))
    return divided_by_maximum(blurred.view(images.shape))


work = nothing_more
