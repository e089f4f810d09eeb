"""A picture of a poison for people: clean | poisoned | difference, one row an image.

A targeted poison's rows begin with its target.
"""

import io

import torch
import torch.nn.functional as F
from PIL import Image

from poisonbench.data.poison import Poison
from poisonbench.data.splits import Dataset

_GAP = 2
_TILE = 64


def preview_of(poison: Poison, dataset: Dataset) -> bytes:
    """A PNG of up to eight of the images; the same poison gives the same bytes.

    The difference is grey where nothing changed, and black or white at the whole budget. Small
    images are enlarged by whole factors; other than 1 or 3 channels are averaged.
    """
    sample = torch.linspace(0, len(poison) - 1, min(8, len(poison))).round().long()
    rows, poisoned = poison.indices[sample], poison.images[sample]
    if len(poison) == 0:
        rows, poisoned = torch.tensor([0]), dataset.train.images[:1].cpu()
    clean = dataset.train.images.cpu()[rows].double()
    difference = (poisoned.double() - clean) * 127 / max(poison.card.levels, 1) + 128
    columns = [clean, poisoned.double(), difference.round()]
    if poison.goal is not None:
        target = dataset.test.images[poison.goal.target].cpu().double()
        columns.insert(0, target.expand_as(clean))
    panels = torch.stack(columns, dim=1)
    if panels.shape[2] not in (1, 3):
        panels = panels.mean(2, keepdim=True)
    panels = panels.clamp(0, 255).to(torch.uint8)
    scale = max(1, _TILE // max(panels.shape[-2:]))
    panels = panels.repeat_interleave(scale, 3).repeat_interleave(scale, 4)
    panels = F.pad(panels, (_GAP,) * 4, value=255)
    count, across, channels, height, width = panels.shape
    picture = panels.permute(0, 3, 1, 4, 2).reshape(count * height, across * width, channels)
    stream = io.BytesIO()
    Image.fromarray(picture.squeeze(2).numpy()).save(stream, format="PNG")
    return stream.getvalue()
