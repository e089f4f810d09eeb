"""What the figures of images share: how an answer is said, how pixels are shown."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
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


def png_text(image: Tensor, largest: int = 128) -> str:
    """Write pixels (C, H, W), uint8 or in [0, 1], as a PNG in base64, no side above ``largest``.

    Other than 1 or 3 channels are averaged.
    """
    from PIL import Image

    if image.is_floating_point():
        image = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    if image.shape[0] not in (1, 3):
        image = image.double().mean(0, keepdim=True).to(image.dtype)
    pixels = image.permute(1, 2, 0).squeeze(2) if image.shape[0] == 1 else image.permute(1, 2, 0)
    picture = Image.fromarray(pixels.cpu().contiguous().numpy())
    picture.thumbnail((largest, largest))
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()


def short_name(name: str, width: int = 14) -> str:
    """Cut a class's name where it is long."""
    return name if len(name) <= width else f"{name[: width - 1]}\u2026"
