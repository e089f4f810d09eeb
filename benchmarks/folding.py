"""What a fold costs beside the search that it is made for.

    python benchmarks/folding.py --threads 1 --markdown

Adversarial trainings fold the network once a batch, since its weights move in between, and search
on the copy. Seconds of a fold and of a batch of search steps, of random images by a new network.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

import torch
from common import measure, parser, prepare, show

from poisonbench.models import build_model
from poisonbench.models.folding import folded
from poisonbench.training.projected_gradient import Ball, ProjectedGradient

#: Networks with the images of a batch and the steps of a search in their presets.
NETWORKS = {"cifar-resnet18": (128, 7), "cifar-small": (100, 4)}


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    device = prepare(options)
    rows = []
    for name, (size, steps) in NETWORKS.items():
        generator = torch.Generator().manual_seed(options.seed)
        mean, std = (0.5,) * 3, (0.25,) * 3
        model = build_model(name, (3, 32, 32), 10, mean, std, generator).to(device).train()
        images = torch.rand(size, 3, 32, 32, generator=generator).to(device)
        images = images.contiguous(memory_format=torch.channels_last)
        labels = (torch.arange(size) % 10).to(device)
        ascent = ProjectedGradient(Ball(8 / 255), steps, 0.35, "auto")

        search = partial(ascent.perturb_batch, folded(model), images, labels, images)
        # Warm-up.
        search()
        timings = (
            measure(partial(folded, model), 5 * options.repeats, device),
            measure(search, options.repeats, device),
        )
        share = timings[0].median / sum(timing.median for timing in timings)
        rows.append(
            [
                name,
                f"{size}, {steps}",
                *(f"{1000 * timing.median:.3g}" for timing in timings),
                f"{share:.1%}",
            ]
        )
    show(
        f"A fold beside the search of its batch, medians of {options.repeats} batches",
        ["network", "images, steps", "ms a fold", "ms a search", "share of the fold"],
        rows,
        [],
        device,
        markdown=options.markdown,
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = parser(__doc__, data=False)
    options.add_argument("--repeats", type=int, default=5)
    return options.parse_args(arguments)


if __name__ == "__main__":
    main()
