"""A picture of a poison for people: clean | poisoned | difference, one row an image.

A targeted poison's rows begin with its target.
"""

from __future__ import annotations

import io

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

_GAP = 2
_TILE = 64


def preview_png(
    clean: Tensor, poisoned: Tensor, levels: int, target: Tensor | None = None
) -> bytes:
    """A PNG of M rows and three columns, four with a target; the same tensors give the same bytes.

    The difference is grey where nothing changed, and black or white at the whole budget. Small
    images are enlarged by whole factors; other than 1 or 3 channels are averaged.

    Args:
        clean: (M, C, H, W) uint8, M at least 1.
        poisoned: the same shape and type.
        levels: the budget in grey levels.
        target: (C, H, W) uint8, shown first in every row; null for an untargeted poison.
    """
    difference = (poisoned.double() - clean.double()) * 127 / max(levels, 1) + 128
    columns = [] if target is None else [target.double().expand_as(difference)]
    columns += [clean.double(), poisoned.double(), difference.round()]
    panels = torch.stack(columns, dim=1)
    if panels.shape[2] not in (1, 3):
        panels = panels.mean(2, keepdim=True)
    panels = panels.clamp(0, 255).to(torch.uint8)
    scale = max(1, _TILE // max(panels.shape[-2:]))
    panels = panels.repeat_interleave(scale, 3).repeat_interleave(scale, 4)
    panels = F.pad(panels, (_GAP,) * 4, value=255)
    rows, across, channels, height, width = panels.shape
    picture = panels.permute(0, 3, 1, 4, 2).reshape(rows * height, across * width, channels)
    stream = io.BytesIO()
    Image.fromarray(picture.squeeze(2).numpy()).save(stream, format="PNG")
    return stream.getvalue()
