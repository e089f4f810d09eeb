"""Images as JPEG leaves them, by Pillow's encoder and decoder (libjpeg-turbo)."""

import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from poisonbench.core.devices import send


def reencoded(images: Tensor, quality: int | Tensor) -> Tensor:
    """Images (N, C, H, W) uint8, on the CPU, after encoding and decoding each by itself.

    The quality is that of all, or of each, (N,) int64.
    """
    count, channels = images.shape[:2]
    has_colours = channels == 3
    pixels = images.permute(0, 2, 3, 1) if has_colours else images.flatten(0, 1)
    qualities = torch.as_tensor(quality).expand(count)
    if not has_colours:
        qualities = qualities.repeat_interleave(channels)
    # One by one: the codec is a library's, and has no batches.
    pairs = zip(pixels.contiguous().numpy(), qualities.tolist(), strict=True)
    ended = [round_trip(image, own) for image, own in pairs]
    result = torch.from_numpy(np.stack(ended))
    return result.permute(0, 3, 1, 2).contiguous() if has_colours else result.view(images.shape)


def decoded(images: Tensor, quality: int | Tensor) -> Tensor:
    """Images (N, C, H, W) in [0, 1], of any device, as JPEG leaves their grey levels."""
    levels = (images.detach() * 255).round().to("cpu", torch.uint8)
    return send(reencoded(levels, quality), images.device).to(images.dtype) / 255


def round_trip(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """One image, (H, W) grey or (H, W, 3) red, green and blue, encoded and decoded."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="JPEG", quality=quality)
    with Image.open(stream) as image_left:
        return np.asarray(image_left)
