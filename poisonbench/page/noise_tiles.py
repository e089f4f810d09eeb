"""HINT's Figure 1 as a table of images: each with its noise, and with the noise on it."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from poisonbench.page.poison_pictures import shown_width

_PNG = b"\x89PNG\r\n\x1a\n"

#: Columns of the image itself, and of the noise made with its label and with a wrong one.
_COLUMNS = ("image", "without noise")
_EFFECTS = {
    "healthy": ("healthy noise", "with it"),
    "wrong_label": ("noise of a wrong label", "with that"),
}


@dataclass(frozen=True)
class Tile:
    """A picture as a data address and a text below; right or wrong where it is an answer."""

    picture: str
    text: str
    is_right: bool | None = None


@dataclass(frozen=True)
class Tiles:
    """A table of pictures.

    Attributes:
        rows: what each is of, and its pictures.
        size: width of a picture.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Tile, ...]], ...]
    size: int


def noise_tiles(images: Sequence[Mapping[str, Any]]) -> Tiles | None:
    """The images of a drawn figure; null where its numbers have no pictures.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: they are not such numbers.
    """
    if not images or any("png" not in image for image in images):
        return None
    effects = [name for name in _EFFECTS if name in images[0]]
    rows = []
    for image in images:
        maker = image["poisoned_by"]
        label = (
            f"training image {int(image['row'])}, {f'poisoned by {maker}' if maker else 'clean'}"
        )
        tiles = [_answer(image["png"], image["before"])]
        for name in effects:
            about = image[name]
            text = f"at most {255 * float(about['max_abs_noise']):.3g}/255"
            if about["shown_times"] is not None:
                text += f", shown \u00d7\u00a0{float(about['shown_times']):g}"
            if name == "wrong_label":
                text = f"label {about['noise_made_with']}, {text}"
            tiles.append(Tile(_address(about["png"]), text))
            tiles.append(_answer(about["noisy_png"], about["after"]))
        rows.append((f"{label}, label {image['label']}", tuple(tiles)))
    columns = (*_COLUMNS, *(title for name in effects for title in _EFFECTS[name]))
    return Tiles(columns, tuple(rows), shown_width(_side(images[0]["png"])))


def _answer(png: str, answer: Mapping[str, Any]) -> Tile:
    text = f"{answer['class']}, {100 * float(answer['confidence']):.1f} %"
    return Tile(_address(png), text, bool(answer["is_right"]))


def _address(png: str) -> str:
    """A PNG in base64 as a data address; anything else is refused."""
    if not re.fullmatch(r"[A-Za-z0-9+/]+=*", png) or not base64.b64decode(png).startswith(_PNG):
        raise ValueError("expected a PNG in base64")
    return f"data:image/png;base64,{png}"


def _side(png: str) -> int:
    """The longer side of a PNG, which its first block says."""
    header = base64.b64decode(png)[16:24]
    return max(int.from_bytes(header[:4]), int.from_bytes(header[4:]), 1)
