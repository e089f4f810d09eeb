"""A picture of a poison for people: clean, poisoned and difference, a row an image, with captions.

A targeted poison's picture begins with its target.
"""

import io
import textwrap

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from poisonbench.data.poison import Poison
from poisonbench.data.splits import Dataset
from poisonbench.entries import shown_name

# In pixels; the text of a row is as wide as so many letters.
_TILE, _GAP, _LINE, _TEXT = 144, 16, 20, 200
_LETTERS = 28


def preview_of(poison: Poison, dataset: Dataset) -> bytes:
    """A PNG of up to eight of the images; the same poison gives the same bytes.

    The difference is grey where nothing changed, and black or white at the whole budget, or at the
    largest change where the norm is another; its heading says how many times larger that is. Small
    images are enlarged by whole factors; other than 1 or 3 channels are averaged.
    """
    card, names = poison.card, dataset.class_names
    levels, attacks, shown = card.largest_levels, card.attacks, min(8, len(poison))
    factor = 127 / max(levels, 1)
    rows = []
    if (goal := poison.goal) is not None:
        caption = (
            f"target: test image {goal.target}\nclass {names[goal.target_class]}\nintended class "
            f"{names[goal.intended_class]}"
        )
        rows.append((caption, [dataset.test.images[goal.target].cpu()]))
    for index in torch.linspace(0, len(poison) - 1, shown).round().long().tolist():
        row = int(poison.indices[index])
        clean, poisoned = dataset.train.images[row].cpu().double(), poison.images[index].double()
        change = poisoned - clean
        label = "" if poison.labels is None else f", labelled {names[int(poison.labels[index])]}"
        caption = (
            f"training image {row}\nclass {names[int(dataset.train.labels[row])]}{label}\n"
            f"{attacks[poison.sources[index]]}, largest change {int(change.abs().max())}/255"
        )
        rows.append((caption, [clean, poisoned, change * factor + 128]))
    about = f"within {levels}/255 of their clean images"
    if card.norm != "linf":
        about = card.change_text
    title = f"{'+'.join(attacks)} on {shown_name(dataset.name)}: {len(poison):,} poisons, {about}"
    notes = f"Shown: {shown}, evenly spread. Difference, x {factor:.3g}: grey where nothing "
    notes += f"changed, white where a pixel rose by {levels}/255, black where it fell by as much."
    if dataset.image_shape[0] not in (1, 3):
        notes += " Channels are averaged."
    return _sheet(title, ["clean", "poisoned", f"difference x {factor:.3g}"], rows, notes)


def _sheet(
    title: str, headings: list[str], rows: list[tuple[str, list[Tensor]]], notes: str
) -> bytes:
    """Lay rows of images (C, H, W) in 0 to 255 out beside their captions."""
    pictures = [(caption, [_enlarged(image) for image in images]) for caption, images in rows]
    width, height = pictures[0][1][0].size if pictures else (_TILE, _TILE)
    lefts = [_GAP + _TEXT + column * (width + _GAP) for column in range(len(headings))]
    letters = (lefts[-1] + width) // 8
    head, foot = textwrap.wrap(title, letters), textwrap.wrap(notes, letters)
    top = _GAP + len(head) * _LINE
    bottom = top + _LINE + _GAP // 2 + len(rows) * (height + _GAP)
    size = (lefts[-1] + width + _GAP, bottom + len(foot) * _LINE + _GAP)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)

    def write(left: float, top: float, text: str, anchor: str = "la") -> None:
        draw.text((left, top), text, "black", font, anchor)

    for number, line in enumerate(head):
        write(_GAP, _GAP / 2 + number * _LINE, line)
    for left, heading in zip(lefts, headings, strict=True):
        write(left + width / 2, top, heading, "ma")
    top += _LINE + _GAP // 2
    for caption, images in pictures:
        lines = [part for line in caption.split("\n") for part in textwrap.wrap(line, _LETTERS)]
        for number, line in enumerate(lines):
            write(_GAP, top + number * _LINE, line)
        for left, image in zip(lefts, images, strict=False):
            sheet.paste(image, (left, top))
            draw.rectangle((left - 1, top - 1, left + width, top + height), outline="#999999")
        top += height + _GAP
    for number, line in enumerate(foot):
        write(_GAP, bottom + number * _LINE, line)
    stream = io.BytesIO()
    sheet.save(stream, format="PNG")
    return stream.getvalue()


def _enlarged(image: Tensor) -> Image.Image:
    if image.shape[0] not in (1, 3):
        image = image.double().mean(0, keepdim=True)
    pixels = image.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).squeeze(2).numpy()
    picture = Image.fromarray(pixels)
    scale = max(1, round(_TILE / max(picture.size)))
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
