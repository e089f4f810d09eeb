"""How well a linear model tells an image's class from its poison's noise; where that lies.

    python benchmarks/separability.py --dataset cifar10@10000 --markdown results/poisons/ID ...

The noise of a poison is what it adds to its clean image. Ridge regression on one column a class is
fitted to seven tenths of the poisons, its penalty is chosen by the next 15 %, and the accuracy is
that on the last 15 %, of which no image was seen. Chance is one in the number of classes.

Of the noise's energy, the sum of its squares, two shares: what grayscale leaves, and what lies in
waves of four cycles an image or fewer. Noise that is drawn anew for each value has 45 and 5 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from common import dataset_of, parser, prepare, show
from slow_noise import slow_components
from torch import Tensor

from poisonbench.data.artefacts import read_poison
from poisonbench.data.splits import Dataset
from poisonbench.defenses.grayscale import LUMA
from poisonbench.targeting import Untargeted

#: Penalties as shares of the mean sum of squares of a column.
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
#: Cycles an image, in any direction.
SLOW = 4
#: Images at a time.
CHUNK = 1000
#: Images; the accuracy is that on 15 % of them.
LEAST = 1000
#: Shares of the poisons to fit, and to choose the penalty by.
PARTS = (0.7, 0.15)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    device = prepare(options)
    dataset = dataset_of(options)
    rows = []
    for path in options.poisons:
        name, noise, labels = _noise_of(path, dataset)
        order = torch.randperm(len(noise), generator=torch.Generator().manual_seed(options.seed))
        accuracy, count = held_out_accuracy(
            noise[order].to(device), labels[order].to(device), dataset.num_classes
        )
        images = noise.view(-1, *dataset.image_shape)
        is_colour = images.shape[1] == len(LUMA)
        left = f"{100 * share_in_grey(images):.1f}" if is_colour else "-"
        slow = f"{100 * share_of_slow_waves(images):.1f}"
        rows.append([name, path.name, f"{100 * accuracy:.1f}", str(count), left, slow])
    show(
        "A linear model's held-out accuracy on the noise alone, and shares of its energy, %",
        ["attack", "poison", "accuracy", "images", "left by grayscale", "slow waves"],
        rows,
        [],
        device,
        markdown=options.markdown,
    )


def held_out_accuracy(noise: Tensor, labels: Tensor, num_classes: int) -> tuple[float, int]:
    """Accuracy of ridge regression on images that it was not fitted to, and their number.

    Args:
        noise: (P, D) float64, in random order.
        labels: (P,) int64.
        num_classes: K.
    """
    first = int(PARTS[0] * len(noise))
    second = first + int(PARTS[1] * len(noise))
    centre = noise[:first].mean(0)
    fitted = noise[:first] - centre
    targets = torch.eye(num_classes, dtype=noise.dtype, device=noise.device)[labels[:first]]
    offset = targets.mean(0)
    # One eigendecomposition serves all penalties.
    values, vectors = torch.linalg.eigh(fitted.T @ fitted)
    moments = vectors.T @ (fitted.T @ (targets - offset))

    def accuracy(rows: slice, penalty: float) -> float:
        weights = vectors @ (moments / (values.clamp(min=0) + penalty * values.mean())[:, None])
        predicted = ((noise[rows] - centre) @ weights + offset).argmax(1)
        return float((predicted == labels[rows]).double().mean())

    best = max(PENALTIES, key=lambda penalty: accuracy(slice(first, second), penalty))
    return accuracy(slice(second, None), best), len(noise) - second


def share_in_grey(noise: Tensor) -> float:
    """Energy of noise (P, 3, H, W) in the luma, which grayscale puts into each channel, over all.

    It is over 1 where the noise is in green alone.
    """
    weights = torch.tensor(LUMA, dtype=noise.dtype) / sum(LUMA)
    luma = torch.einsum("c,pchw->phw", weights, noise)
    return float(len(LUMA) * luma.square().sum() / noise.square().sum())


def share_of_slow_waves(noise: Tensor) -> float:
    """Energy of noise (P, C, H, W) in its Fourier components of at most SLOW cycles, over all."""
    height, width = noise.shape[2:]
    # In parts: the components of all images take more memory than the images.
    energy = sum(torch.fft.fft2(part).abs().square().sum((0, 1)) for part in noise.split(CHUNK))
    is_slow = slow_components(height, width, SLOW)
    return float(energy[is_slow].sum() / energy.sum())


def _noise_of(path: Path, dataset: Dataset) -> tuple[str, Tensor, Tensor]:
    """What a poison is called, its noise (P, D) in grey levels, float64, and its labels."""
    poison = read_poison(path, dataset)
    if not isinstance(poison.card.goal, Untargeted) or len(poison) < LEAST:
        raise SystemExit(
            f"expected an untargeted poison of {LEAST} images or more in {path}, got one of "
            f"{'+'.join(poison.card.attacks)} with {len(poison)}"
        )
    clean = dataset.train.images[poison.indices]
    noise = (poison.images.short() - clean.short()).flatten(1).double()
    return "+".join(poison.card.attacks), noise, dataset.train.labels[poison.indices]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("poisons", type=Path, nargs="+", help="folders of untargeted poisons")
    return options.parse_args(arguments)


if __name__ == "__main__":
    main()
