"""The training loop of this package against a plain PyTorch loop, in speed and in accuracy.

    python benchmarks/training.py --markdown
    python benchmarks/training.py --dataset mnist --data-root data --trials 5
    python benchmarks/training.py --dataset cifar10@10000 --data-root data --trials 1

The plain loop is what a PyTorch user writes first: a Dataset that turns one uint8 image after the
other into a float tensor, a shuffling DataLoader with 0 or 2 workers, float32, NCHW, the loss
read back once an epoch. ``Trainer.fit`` is timed as every method of the package uses it, and also
with the layers' own kernels and in the other precision, so that the parts of its gain can be told
apart.

Why it is fair: the same network, initial weights, images, batch size, optimiser, schedule, device
and threads, and evaluation outside the clock on both sides. The plain loop converts tensors, which
is cheaper than torchvision's MNIST with its detour over PIL. Speeds are taken in alternating blocks
of one epoch, the first round of blocks thrown away; the ratio is against the faster of the two
DataLoaders. After that every variant trains for the recipe's epochs over several trials, and
Welch's test compares test accuracies: a faster loop that learns less is no gain.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import fmean, median, stdev
from typing import Any

import torch
import torch.nn.functional as F
from common import (
    dataset_of,
    fresh_model,
    now,
    paper_recipe,
    parser,
    prepare,
    show,
)
from scipy import stats
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from poisonbench.core.seeds import Seeds
from poisonbench.data.splits import Dataset, Split
from poisonbench.models.classifier import Classifier
from poisonbench.results.statistics import summarise
from poisonbench.training.evaluation import accuracy
from poisonbench.training.precision import network_precision
from poisonbench.training.recipe import Recipe
from poisonbench.training.trainer import Trainer


class PlainImages(TorchDataset[tuple[Tensor, int]]):
    """uint8 images in memory that are converted one at a time, as ToTensor does, and augmented."""

    def __init__(self, split: Split, augment: str) -> None:
        self.images, self.labels = split.images, split.labels
        crop_flip = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
        self.augment = transforms.Compose(crop_flip if augment == "crop-flip" else [])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.augment(self.images[row].float().div(255)), int(self.labels[row])


def plain_training(
    model: Classifier,
    train: Split,
    recipe: Recipe,
    device: torch.device,
    *,
    workers: int,
    seed: int,
) -> float:
    """Train in place with the plain loop; seconds without building the loader."""
    loader = DataLoader(
        PlainImages(train, recipe.augment),
        batch_size=recipe.batch_size,
        shuffle=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        generator=torch.Generator().manual_seed(seed),
    )
    model.to(device).train()
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
    )
    steps = len(loader)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: recipe.rate_at((step + 0.5) / steps) / recipe.learning_rate
    )
    start = now(device)
    for _ in range(recipe.epochs):
        total = torch.zeros((), device=device)
        for images, labels in loader:
            images = images.to(device, non_blocking=True)
            labels = labels.to(device, non_blocking=True)
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()
        total.item()
    return now(device) - start


def variants(device: torch.device) -> dict[str, dict[str, Any]]:
    """What is compared, by the name in the tables; bfloat16 only where the hardware has it."""
    is_cpu = device.type == "cpu"
    forms: dict[str, dict[str, Any]] = {
        "plain, 0 workers": {"workers": 0},
        "plain, 2 workers": {"workers": 2},
        "fit, float32, the layers' own kernels": {"precision": "float32", "own": True},
    }
    if is_cpu:
        forms["fit, float32"] = {"precision": "float32"}
    has_bfloat16 = is_cpu and torch.cpu.get_capabilities().get("avx512_bf16")
    if has_bfloat16 or network_precision(device, "auto") is torch.bfloat16:
        forms["fit, bfloat16"] = {"precision": "bfloat16"}
    return forms


def train_once(
    variant: dict[str, Any],
    dataset: Dataset,
    train: Split,
    device: torch.device,
    epochs: int,
    seeds: Seeds,
) -> tuple[Classifier, float]:
    """A model trained by one variant, and the seconds of training alone."""
    recipe = paper_recipe(dataset, epochs=epochs, precision=variant.get("precision", "float32"))
    model = fresh_model(dataset, seeds)
    if "workers" in variant:
        seconds = plain_training(
            model, train, recipe, device, workers=variant["workers"], seed=seeds.seed("plain")
        )
        return model, seconds
    if variant.get("own"):
        # Nobody computes around a layer that somebody listens to.
        model.features.register_forward_hook(lambda *_: None)
    trainer = Trainer(recipe=recipe, seeds=seeds, device=device)
    result = trainer.fit(model, train, dataset.validation)
    return model, result.seconds["training"]


def speeds(
    dataset: Dataset, device: torch.device, blocks: int, block_images: int, seed: int
) -> dict[str, list[float]]:
    """Images a second of every variant, one figure a block; the variants take turns."""
    rows = torch.arange(min(block_images or len(dataset.train), len(dataset.train)))
    train = dataset.train.rows(rows)
    rates: dict[str, list[float]] = {name: [] for name in variants(device)}
    for block in range(blocks + 1):
        for name, variant in variants(device).items():
            _, seconds = train_once(variant, dataset, train, device, 1, Seeds(seed))
            if block > 0:
                rates[name].append(len(train) / seconds)
    return rates


def ratio(values: Sequence[float], reference: Sequence[float]) -> float:
    """Median of the ratios block by block, so that a machine that drifts cancels out."""
    return median(a / b for a, b in zip(values, reference, strict=True))


def accuracies(
    dataset: Dataset, device: torch.device, epochs: int | None, trials: int, seed: int
) -> dict[str, list[float]]:
    """Test accuracy of every variant, one figure a trial; the DataLoader's workers change none."""
    epochs = epochs or paper_recipe(dataset).epochs
    test = dataset.test.to(device)
    shares: dict[str, list[float]] = {}
    for trial in range(trials):
        for name, variant in variants(device).items():
            if variant.get("workers"):
                continue
            seeds = Seeds(seed, trial)
            model, _ = train_once(variant, dataset, dataset.train, device, epochs, seeds)
            shares.setdefault(name, []).append(accuracy(model, test))
    return shares


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    device = prepare(options)
    dataset = dataset_of(options)
    default = str(network_precision(device, "auto")).removeprefix("torch.")
    measured = speeds(dataset, device, options.blocks, options.block_images, options.seed)
    plain = max(
        (name for name in measured if name.startswith("plain")),
        key=lambda name: median(measured[name]),
    )
    show(
        f"Training {dataset.name}, batch {paper_recipe(dataset).batch_size}: images per second",
        ["loop", "images/s (median)", "range", f"ratio to {plain}"],
        [
            [
                name,
                f"{median(values):.0f}",
                f"{min(values):.0f}-{max(values):.0f}",
                f"{ratio(values, measured[plain]):.2f}",
            ]
            for name, values in measured.items()
        ],
        [
            f"Blocks of one epoch: {options.blocks}; the ratio is the median over the blocks of "
            f"the ratio in one block. fit's default on this device is {default}."
        ],
        device,
        markdown=options.markdown,
    )
    if options.trials:
        _show_accuracies(options, dataset, device)


def _show_accuracies(options: argparse.Namespace, dataset: Dataset, device: torch.device) -> None:
    measured = accuracies(dataset, device, options.epochs, options.trials, options.seed)
    names = list(measured)
    rows = []
    # Each line differs from the one above it by one thing, so each is compared with that one.
    for before, name in zip([None, *names], names, strict=False):
        others = [] if before is None else [measured[before], measured[names[0]]]
        p_values = [_welch(measured[name], other) for other in others] or ["", ""]
        summary = summarise(measured[name])
        assert summary is not None
        spread = "" if summary.std is None else f" ± {100 * summary.std:.2f}"
        rows.append([name, f"{100 * summary.mean:.2f}{spread}", *p_values])
    epochs = options.epochs or paper_recipe(dataset).epochs
    print()
    show(
        f"Test accuracy on {dataset.name} after {epochs} epochs, {options.trials} trials, percent",
        ["loop", "mean ± std", "Welch p against the line above", "against plain"],
        rows,
        [
            "Variants of fit share initial weights and batch order in each trial; plain shares the "
            "initial weights alone."
        ],
        device,
        markdown=options.markdown,
    )


def _welch(first: Sequence[float], second: Sequence[float]) -> str:
    """p-value of Welch's t-test of two means; empty where nothing has any spread."""
    if min(len(first), len(second)) < 2 or stdev(first) == stdev(second) == 0:
        return ""
    samples = (number for values in (first, second) for number in _moments(values))
    return f"{stats.ttest_ind_from_stats(*samples, equal_var=False).pvalue:.2f}"


def _moments(values: Sequence[float]) -> tuple[float, float, int]:
    return fmean(values), stdev(values), len(values)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--blocks", type=int, default=5, help="timed blocks of each loop")
    options.add_argument("--block-images", type=int, default=0, help="images of a block; 0: all")
    options.add_argument("--epochs", type=int, help="of the accuracy runs; the recipe's")
    options.add_argument("--trials", type=int, default=3, help="of the accuracy runs; 0: none")
    return options.parse_args(arguments)


if __name__ == "__main__":
    main()
