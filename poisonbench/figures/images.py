"""What the figures of images share: how an answer is said, how pixels are shown."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from poisonbench.figures.drawing import Tile


def answer(probabilities: Tensor, label: int, class_names: Sequence[str]) -> dict[str, Any]:
    """A model's answer to one image, from its probabilities (K,): class, confidence, is_right."""
    top = int(probabilities.argmax())
    return {
        "class": class_names[top],
        "confidence": float(probabilities[top]),
        "true_confidence": float(probabilities[label]),
        "is_right": top == label,
    }


def answer_tile(answer: Mapping[str, Any], is_right: bool) -> Tile:
    """A tile of the class and, where it is known, the confidence of an answer."""
    sure = answer["confidence"]
    text = short_name(answer["class"]) + ("" if sure is None else f"  {100 * sure:.1f} %")
    return Tile(text=text, is_right=is_right)


def picture_of(image: Tensor) -> NDArray[np.floating[Any]]:
    """Lay pixels (C, H, W), uint8 or in [0, 1], out as a picture's (H, W) or (H, W, 3)."""
    pixels = image.float() / 255 if not image.is_floating_point() else image
    pixels = pixels.clamp(0, 1).permute(1, 2, 0).cpu()
    picture: NDArray[np.floating[Any]] = pixels.squeeze(2).numpy()
    return picture


def short_name(name: str, width: int = 14) -> str:
    """Cut a class's name where it is long."""
    return name if len(name) <= width else f"{name[: width - 1]}\u2026"
