"""CUDA: convolution-based unlearnable data, one blurring filter a class.

Source      Sadasivan et al., "CUDA: Convolution-based Unlearnable Datasets", CVPR 2023
            (arXiv 2303.04278). It has nothing to do with GPUs.
Code        vinusankars/Convolution-based-Unlearnability @ ff58b1c, final_filter_unlearnable.py,
            whose licence is non-commercial; it was not copied.
Goal        untargeted: whoever trains on the images learns the filter that they went through.
Budget      none: the measured distance is stated.
Cost        one convolution; no model.

1.  Draw one 3 x 3 filter a class, uniform on [0, blur], and set one of its taps, drawn too, to 1.
2.  x' <- convolution of x with the filter of its class, the same in all channels, zeros around.
3.  Divide by the image's own maximum.

Deviations  An image whose maximum is 0 stays black. Images are rounded, not truncated. The paper
            has no setting for MNIST: it is the same there.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from poisonbench.attacks.base import AttackTask, BudgetConfig
from poisonbench.attacks.shared.blurring import divided_by_maximum, draw_filters
from poisonbench.attacks.shared.class_rows import rows_by_class
from poisonbench.core.devices import send
from poisonbench.core.settings import Profiles, setting
from poisonbench.core.work import nothing_more
from poisonbench.specs import Norm

VERSION = 1

PROFILES: Profiles = {}

#: Images of a class at a time.
_CHUNK = 1000


@dataclass(frozen=True, kw_only=True)
class Config(BudgetConfig):
    """Settings of CUDA."""

    blur: float = setting(0.3, "Largest tap beside the one that is 1.", over=0, high=1)

    @property
    def norm(self) -> Norm:
        """A convolution has no bound."""
        return "convolution"


def craft(task: AttackTask, config: Config) -> Tensor:
    """Poisoned images (P, C, H, W) float32 in [0, 1] for the task's images."""
    # 1. One filter a class.
    filters = draw_filters(task.num_classes, config.blur, task.generator).to(task.images.device)

    poisons = torch.empty_like(task.images)
    parts = rows_by_class(task.labels, _CHUNK)
    for number, (label, rows) in enumerate(parts):
        own = send(rows, poisons.device)
        poisons[own] = convolved(task.images[own], filters[label])
        task.report(number + 1, len(parts))
    return poisons


def convolved(images: Tensor, kernel: Tensor) -> Tensor:
    """Steps 2 and 3: images (B, C, H, W) with one filter (3, 3), each by its maximum."""
    planes = images.flatten(0, 1)[:, None]
    blurred = F.conv2d(planes, kernel[None, None], padding="same").view(images.shape)
    return divided_by_maximum(blurred)


work = nothing_more
