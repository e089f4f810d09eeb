"""How Figure 1 looks: an image a row, with its noise and the noisy image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from poisonbench.figures.drawing import Grid, Tile
from poisonbench.figures.images import pixels_of, short_name


def noise_grid(
    numbers: dict[str, Any], images: Tensor, pictures: Mapping[str, tuple[Tensor, Tensor]]
) -> Grid:
    """The grid of Figure 1.

    Args:
        numbers: what it says, as in the JSON file.
        images: (M, C, H, W) uint8, those of ``numbers["images"]``.
        pictures: by "healthy" and "wrong_label", the noise and the noisy images, both (M, C, H, W)
            in pixels of [0, 1].
    """
    tiles = []
    for place, image in enumerate(numbers["images"]):
        row = [Tile(pixels=pixels_of(images[place]), **_said(image["before"]))]
        for name, (noise, noisy) in pictures.items():
            made = image[name]
            factor = made["shown_times"] or 1
            text = f"max {255 * made['max_abs_noise']:.3g}/255\nshown \u00d7 {factor:g}"
            if name == "wrong_label":
                text = f"label {short_name(made['noise_made_with'], 8)}, {text}"
            row.append(Tile(pixels=pixels_of(noise[place] * factor + 0.5), text=text))
            row.append(Tile(pixels=pixels_of(noisy[place]), **_said(made["after"])))
        tiles.append(row)
    columns = ["image", "healthy noise", "image + noise"]
    if "wrong_label" in pictures:
        columns += ["noise with a\nwrong label", "image + that"]
    rows = [
        f"{image['poisoned_by'] or 'clean'}, row {image['row']}\nlabel {short_name(image['label'])}"
        for image in numbers["images"]
    ]
    poison = numbers["poison"]
    mix = f"{'+'.join(poison['attacks'])} at rho {poison['rho']:g}" if poison else "clean"
    return Grid(
        title=f"HINT's healthy noise: {numbers['dataset']['name']}, {mix}, "
        f"r = {numbers['config']['ratio']:g}",
        columns=columns,
        rows=rows,
        tiles=tiles,
        caption=_caption(numbers),
    )


def _said(given: dict[str, Any]) -> dict[str, Any]:
    text = f"{short_name(given['class'])}  {_percent(given['confidence'])}"
    text += f"\nthe label {_percent(given['true_confidence'])}"
    return {"text": text, "is_right": given["is_right"]}


def _caption(numbers: dict[str, Any]) -> str:
    config, summary = numbers["config"], numbers["all_selected"]["all"]
    healthy = summary["healthy"]
    sentences = (
        "After Figure 1 of the HINT paper. Under the images: the model's class with its "
        "probability, marked as right or wrong, and the label's probability; they are of the noise "
        "as it is, not of the amplified one. Grey is no noise, white raises and black lowers a "
        "pixel.\n"
        f"Noise: -gamma x pixel influence, gamma = {config['gamma']:g}, within "
        f"{255 * config['beta']:.3g}/255. Model: plain training for {numbers['model']['epochs']} "
        f"epoch(s), as HINT has it in its first round; trial {numbers['trial']}. Images: drawn at "
        "random from those that HINT selects, misclassified ones first.\n"
        f"All {summary['images']:,} selected images: {_percent(summary['right_before'])} right "
        f"before, {_percent(healthy['right_after'])} after healthy noise; the label's probability "
        f"rises for {_percent(healthy['true_confidence_rises'])}, its mean goes from "
        f"{_percent(summary['mean_true_confidence_before'])} to "
        f"{_percent(healthy['mean_true_confidence_after'])}."
    )
    if "wrong_label" in summary:
        wrong = summary["wrong_label"]
        sentences += (
            " Control, the same noise made with a wrong label drawn at random: "
            f"{_percent(wrong['right_after'])} right after, the true label's probability rises "
            f"for {_percent(wrong['true_confidence_rises'])}, its mean goes to "
            f"{_percent(wrong['mean_true_confidence_after'])}."
        )
    return sentences


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
