"""What the figures of images share: which poison, how an answer is said, how pixels are shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from poisonbench.core.errors import UsageError
from poisonbench.results.run_spec import PoisonSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class PoisonMix:
    """Attacks in the order of their shares, and the share rho of images that they poison.

    Raises:
        UsageError: rho outside [0, 1].
    """

    attacks: tuple[str, ...]
    rho: float

    def __post_init__(self) -> None:
        if not 0 <= self.rho <= 1:
            raise UsageError(f"--rho: expected a poison ratio in [0, 1], got {self.rho:g}")

    def matches(self, poison: PoisonSpec | None) -> bool:
        """Whether a run's spec names this poison, the draw that tables take."""
        if poison is None or self.rho == 0:
            return poison is None and self.rho == 0
        return (
            poison.attacks == list(self.attacks)
            and math.isclose(poison.rho, self.rho, rel_tol=1e-6)
            and poison.trial == 0
            and poison.selection == "stratified"
        )


def answer(probabilities: Tensor, label: int, class_names: Sequence[str]) -> dict[str, Any]:
    """A model's answer to one image, from its probabilities (K,): class, confidence, is_right."""
    top = int(probabilities.argmax())
    return {
        "class": class_names[top],
        "confidence": float(probabilities[top]),
        "true_confidence": float(probabilities[label]),
        "is_right": top == label,
    }


def pixels_of(image: Tensor) -> NDArray[np.floating[Any]]:
    """(C, H, W), uint8 or float in [0, 1], as a picture's (H, W) or (H, W, 3)."""
    pixels = image.float() / 255 if not image.is_floating_point() else image
    pixels = pixels.clamp(0, 1).permute(1, 2, 0).cpu()
    shown: NDArray[np.floating[Any]] = pixels.squeeze(2).numpy()
    return shown


def short_name(name: str, width: int = 14) -> str:
    """A class's name, cut where it is long."""
    return name if len(name) <= width else f"{name[: width - 1]}\u2026"
