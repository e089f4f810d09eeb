"""One update round of HINT: this package against the form that the paper's code has.

    python benchmarks/hint_round.py --markdown
    python benchmarks/hint_round.py --dataset mnist --data-root data --naive-examples 2000

A round is: the inverse Hessian times the validation gradient (solve), the influence of every
training example and the selection of half of them (scores), the pixel influence of the selected
(maps). Ours is ``Hint.start_epoch`` itself, timed around its parts. The naive form does what the
paper says its code does: the validation gradient by backpropagation through the whole network,
batches of 128; LiSSA of 980 steps of 50 images that runs the network again in every step and
multiplies by the Hessian through two backward passes; then one example at a time, forward and
backward, for the scores, and forward, backward with a graph, and backward again for the maps.

Why it is fair: the same trained weights, images, device and threads, float32 in eval mode on both
sides. The naive side is spared what the reference code pays besides: its images are tensors in
memory instead of files that are decoded, and the noisy images are not written back, which ours
does inside "maps". Features are computed once on our side, inside "solve", and serve the scores
too, so compare totals first and parts second.

Naive scores and maps cost the same for every example, so ``--naive-examples`` of them are timed
and the total is extrapolated in proportion; the table gives the measured seconds as well.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from common import (
    Timing,
    fresh_model,
    grey_dataset,
    measure,
    now,
    paper_recipe,
    parser,
    prepare,
    show,
)
from torch import Tensor

from poisonbench.core.seeds import Seeds
from poisonbench.data.splits import Dataset
from poisonbench.defenses.hint import Config, Hint, select
from poisonbench.influence.head import (
    embed_all,
    head_weights,
    pixel_influence,
    residuals,
    upweight_influence,
)
from poisonbench.models.classifier import Classifier
from poisonbench.models.folding import folded
from poisonbench.training.state import TrainingSet, TrainingState
from poisonbench.training.trainer import Trainer

VALIDATION_BATCH = 128
LISSA_BATCH = 50
LISSA_DAMP = 0.01
LISSA_SCALE = 50.0
#: What LiSSA's constants amount to: it solves (H + damping I) v = g.
DAMPING = LISSA_DAMP * LISSA_SCALE


def naive_gradient(model: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """Gradient (K, F + 1) of the mean loss for the head, all batches' graphs alive at once."""
    total = sum(
        F.cross_entropy(model(part), targets, reduction="sum")
        for part, targets in zip(
            images.split(VALIDATION_BATCH), labels.split(VALIDATION_BATCH), strict=True
        )
    )
    return _joined(torch.autograd.grad(total / len(images), _head(model)))  # type: ignore[operator]


def naive_product(model: Classifier, images: Tensor, labels: Tensor, vector: Tensor) -> Tensor:
    """The head's Hessian on a batch times a vector (K, F + 1), by two backward passes."""
    loss = F.cross_entropy(model(images), labels)
    gradient = _joined(torch.autograd.grad(loss, _head(model), create_graph=True))
    return _joined(torch.autograd.grad((gradient * vector).sum(), _head(model)))


def naive_lissa(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    gradient: Tensor,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """LiSSA's estimate of the inverse Hessian times the gradient, (K, F + 1)."""
    estimate = gradient.clone()
    draws = torch.randint(len(images), (steps, LISSA_BATCH), generator=generator)
    for rows in draws.to(labels.device):
        product = naive_product(model, images[rows], labels[rows], estimate)
        estimate = gradient + (1 - LISSA_DAMP) * estimate - product / LISSA_SCALE
    return estimate / LISSA_SCALE


def naive_scores(model: Classifier, images: Tensor, labels: Tensor, direction: Tensor) -> Tensor:
    """I_up of each image (N, C, H, W), one at a time, (N,)."""
    scores = []
    for image, label in zip(images.split(1), labels.split(1), strict=True):
        loss = F.cross_entropy(model(image), label)
        gradient = _joined(torch.autograd.grad(loss, _head(model)))
        scores.append(-(gradient * direction).sum())
    return torch.stack(scores)


def naive_maps(model: Classifier, images: Tensor, labels: Tensor, direction: Tensor) -> Tensor:
    """I_pert of each image (N, C, H, W), one at a time, same shape."""
    maps = []
    for image, label in zip(images.split(1), labels.split(1), strict=True):
        image = image.clone().requires_grad_(True)
        loss = F.cross_entropy(model(image), label)
        gradient = _joined(torch.autograd.grad(loss, _head(model), create_graph=True))
        maps.append(-torch.autograd.grad((gradient * direction).sum(), image)[0])
    return torch.cat(maps)


def _head(model: Classifier) -> list[Tensor]:
    return [model.head.weight, model.head.bias]


def _joined(gradients: Sequence[Tensor]) -> Tensor:
    weight, bias = gradients
    return torch.cat([weight, bias[:, None]], 1)


class TimedHint(Hint):
    """HINT as it is, with clocks around its parts."""

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__(config)
        self.device = device
        self.seconds: dict[str, float] = {}

    def start_epoch(self, state: TrainingState) -> TrainingSet:
        """The round; "scores" is what is neither solve nor maps."""
        start = now(self.device)
        train = super().start_epoch(state)
        self.seconds["total"] = now(self.device) - start
        self.seconds["scores"] = (
            self.seconds["total"] - self.seconds["solve"] - self.seconds["maps"]
        )
        return train

    def _direction(self, model, state):
        start = now(self.device)
        direction = super()._direction(model, state)
        self.seconds["solve"] = now(self.device) - start
        self.solution = direction[2]
        return direction

    def _add_noise(self, model, state, direction):
        start = now(self.device)
        noisy = super()._add_noise(model, state, direction)
        self.seconds["maps"] = now(self.device) - start
        return noisy


@dataclass(frozen=True)
class Naive:
    """The naive form's results and seconds; scores and maps of the first examples only."""

    direction: Tensor
    scores: Tensor
    maps: Tensor
    seconds: dict[str, float]


def trained(dataset: Dataset, epochs: int, seed: int, device: torch.device) -> Classifier:
    """The weights that the round starts from."""
    seeds = Seeds(seed)
    model = fresh_model(dataset, seeds)
    recipe = paper_recipe(dataset, epochs=epochs)
    trainer = Trainer(recipe=recipe, seeds=seeds, device=device)
    trainer.fit(model, dataset.train, dataset.validation)
    return model


def state_of(
    model: Classifier, dataset: Dataset, epoch: int, device: torch.device
) -> TrainingState:
    """What the training loop would show HINT after that many epochs."""
    split = dataset.train.to(device)
    train = TrainingSet(split.images, split.labels)
    return TrainingState(
        epoch=epoch,
        step=0,
        model=model,
        original=train,
        train=train,
        validation=dataset.validation.to(device),
        generator=lambda purpose: Seeds().generator(purpose),
        note=lambda row: None,
        train_copy=lambda purpose, split: model,
    )


def run_naive(
    model: Classifier,
    state: TrainingState,
    rows: Tensor,
    steps: int,
    device: torch.device,
    seed: int,
) -> Naive:
    """The naive round, with scores and maps of the given rows of the training set."""
    plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format).eval()
    images = state.train.images.float().div_(255)
    validation = state.validation.images.float().div_(255)
    labels = state.train.labels
    clock = [now(device)]
    gradient = naive_gradient(plain, validation, state.validation.labels)
    clock.append(now(device))
    generator = Seeds(seed).generator("naive lissa")
    direction = naive_lissa(plain, images, labels, gradient, steps, generator)
    clock.append(now(device))
    scores = naive_scores(plain, images[rows], labels[rows], direction)
    clock.append(now(device))
    maps = naive_maps(plain, images[rows], labels[rows], direction)
    clock.append(now(device))
    names = ("gradient", "lissa", "scores", "maps")
    spans = [end - begin for begin, end in itertools.pairwise(clock)]
    return Naive(direction, scores, maps, dict(zip(names, spans, strict=True)))


def agreement(
    model: Classifier, state: TrainingState, ours: TimedHint, naive: Naive, rows: Tensor
) -> Iterator[str]:
    """Sentences on how far the two forms give the same."""
    vector, other = ours.solution.vector, naive.direction
    cosine = float(F.cosine_similarity(vector.flatten(), other.flatten(), 0))
    yield (
        f"v of the exact solve against naive LiSSA: cosine {cosine:.5f}, relative difference "
        f"{float((vector - other).norm() / vector.norm()):.3g} (LiSSA is stochastic)."
    )
    plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format).eval()
    train, held = state.train, state.validation
    product = torch.zeros_like(vector)
    for part in torch.arange(len(train), device=vector.device).split(500):
        pixels = train.images[part].float() / 255
        share = len(part) / len(train)
        product += share * naive_product(plain, pixels, train.labels[part], vector)
    gradient = naive_gradient(plain, held.images.float() / 255, held.labels)
    remainder = product + DAMPING * vector - gradient
    yield (
        f"v of the exact solve put into the system that autograd builds over all training images: "
        f"relative residual {float(remainder.norm() / gradient.norm()):.2g} after "
        f"{ours.solution.iterations} products."
    )
    with torch.no_grad():
        copied = folded(model)
        inputs = embed_all(copied, train.images)
        residual = residuals((inputs @ head_weights(copied).T).softmax(1), train.labels)
        scores = upweight_influence(inputs, residual, other)
        chosen = select(scores, len(train), ours.config.ratio)
        mine = ours.memory["selected"].cpu()
        maps = pixel_influence(copied, train.pixels(rows), train.labels[rows], other)
    shared = float(torch.isin(mine, chosen.cpu()).float().mean())
    yield f"Selection with the exact v and with naive LiSSA's: {shared:.1%} in common."
    error = (scores[rows] - naive.scores).abs().max() / naive.scores.abs().max()
    yield f"Scores for the same v: largest difference {float(error):.2g} of the largest score."
    gap = (maps - naive.maps).abs() / naive.maps.abs().max()
    yield (
        f"Maps for the same v: mean difference {float(gap.mean()):.2g}, largest "
        f"{float(gap.max()):.2g} of the largest value (float32; where an activation is within "
        "rounding of ReLU's kink the two sides may take different slopes)."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    device = prepare(options)
    dataset = grey_dataset(options)
    model = trained(dataset, options.epochs, options.seed, device)
    state = state_of(model, dataset, options.epochs, device)
    config = Config(schedule=(options.epochs,), damping=DAMPING, ratio=options.ratio)
    rounds: list[TimedHint] = []

    def one_round() -> None:
        rounds.append(TimedHint(config, device))
        rounds[-1].start_epoch(state)

    one_round()
    rounds.clear()
    measure(one_round, options.repeats, device)
    num_selected = math.ceil(options.ratio * len(dataset.train))
    count = min(options.naive_examples or num_selected, num_selected)
    rows = rounds[0].memory["selected"][:count]
    naive = run_naive(model, state, rows, options.naive_steps, device, options.seed)
    # Half of our repeats lie after the naive form, so a machine that drifts slows both.
    measure(one_round, options.repeats, device)

    whole = {
        "solve": naive.seconds["gradient"] + naive.seconds["lissa"] * 980 / options.naive_steps,
        "scores": naive.seconds["scores"] * len(dataset.train) / count,
        "maps": naive.seconds["maps"] * num_selected / count,
    }
    measured = {
        "solve": f"980 of 980 steps: {naive.seconds['lissa']:.3g} s",
        "scores": f"{count} of {len(dataset.train)}: {naive.seconds['scores']:.3g} s",
        "maps": f"{count} of {num_selected}: {naive.seconds['maps']:.3g} s",
        "total": "",
    }
    if options.naive_steps != 980:
        measured["solve"] = f"{options.naive_steps} of 980 steps: {naive.seconds['lissa']:.3g} s"
    whole["total"] = sum(whole.values())
    table = []
    for part, seconds in whole.items():
        timing = Timing(tuple(one.seconds[part] for one in rounds))
        table.append(
            [
                part,
                f"{timing.median:.3g}",
                timing.spread,
                f"{seconds:.4g}",
                measured[part],
                f"{seconds / timing.median:.3g}",
            ]
        )
    show(
        f"One HINT round on {dataset.name}: {len(dataset.train)} images, {num_selected} selected, "
        f"{len(dataset.validation)} validation images",
        ["part", "ours, s (median)", "range", "naive, s", "of which measured", "ratio"],
        table,
        list(agreement(model, state, rounds[0], naive, rows)),
        device,
        markdown=options.markdown,
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--epochs", type=int, default=3, help="of training before the round")
    options.add_argument("--ratio", type=float, default=0.5, help="share of images selected")
    options.add_argument(
        "--repeats", type=int, default=3, help="of ours, before and after the naive"
    )
    options.add_argument(
        "--naive-steps", type=int, default=980, help="of LiSSA; fewer: extrapolated"
    )
    options.add_argument(
        "--naive-examples", type=int, default=500, help="scored and mapped; 0: as many as selected"
    )
    return options.parse_args(arguments)


if __name__ == "__main__":
    main()
