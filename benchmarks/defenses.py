"""EPIC's selection, FRIENDS' noise and ATDA's search: this package against the naive forms.

    python benchmarks/defenses.py --markdown
    python benchmarks/defenses.py --parts epic --class-size 5000 --markdown

EPIC    greedy medoids in classes of simulated gradients, softmax residuals of a classifier that is
        right on about 84 %. Naive is ``submodlib-py``, which the reference code uses: its Euclidean
        kernel and its lazy greedy, both single-threaded. It is spared the reference's Python loop
        that assigns examples to medoids. It is no dependency of this package; without it only our
        seconds are shown. How far the dropped examples agree is measured twice: with our
        similarities on both sides, and with submodlib's own, exp(-distance / 10), on its side.
FRIENDS friendly noise for the first images of the training set. Naive is what the reference code
        does: batches of 128, ``torch.optim.SGD`` on the noise and ``backward()``, which makes the
        gradients of the weights too. It is spared the reference's augmentation image by image.
ATDA    the friendly search on batches of 128. Naive is the form of the FAT code: after each step a
        Python loop over the examples sorts them into those that go on and those that stop, and
        ``backward()`` makes the gradients of the weights too.

Why it is fair: the same weights, images, starts, device and threads, float32 on both sides, both
timed in one run, ours half before and half after the naive form.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from common import Timing, grey_dataset, measure, parser, prepare, show
from hint_round import state_of, trained
from torch import Tensor

from poisonbench.defenses import atda, friends
from poisonbench.defenses.shared.facility_location import lazy_greedy, medoid_clusters, similarities
from poisonbench.models.classifier import Classifier, pass_size
from poisonbench.models.cpu.parallel_passes import in_parallel
from poisonbench.models.folding import folded
from poisonbench.training.projected_gradient import Ball, ProjectedGradient
from poisonbench.training.state import TrainingSet

try:
    from submodlib import FacilityLocationFunction
except ImportError:
    FacilityLocationFunction = None

NUM_CLASSES = 10
FRACTION = 0.1
BATCH = 128


@dataclass(frozen=True)
class Compared:
    """One line of the table."""

    what: str
    ours: Timing
    naive: Timing | None

    def row(self) -> list[str]:
        """Cells in the order of the headings."""
        ours = [self.what, f"{self.ours.median:.3g}", self.ours.spread]
        if self.naive is None:
            return [*ours, "", "", ""]
        ratio = self.naive.median / self.ours.median
        return [*ours, f"{self.naive.median:.3g}", self.naive.spread, f"{ratio:.3g}"]


def compare(
    what: str,
    ours: Callable[[], object],
    naive: Callable[[], object] | None,
    options: argparse.Namespace,
    device: torch.device,
) -> Compared:
    """Time both, ours half before and half after the naive form."""
    ours()
    before = measure(ours, options.repeats, device)
    naive_timing = None if naive is None else measure(naive, options.naive_repeats, device)
    after = measure(ours, options.repeats, device)
    return Compared(what, Timing(before.seconds + after.seconds), naive_timing)


# EPIC.


def simulated_gradients(size: int, seed: int) -> Tensor:
    """Residuals (n, 10) of one class of a half-trained model: most are small, some are large."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2.5 * torch.randn(size, NUM_CLASSES, generator=generator)
    logits[:, 0] += 8 + 3 * torch.randn(size, generator=generator)
    residuals = logits.softmax(1)
    residuals[:, 0] -= 1
    return residuals


def submodlib_order(points: Tensor, num_medoids: int, similarity: Tensor | None = None) -> Tensor:
    """Submodlib's greedy medoids, with its own kernel unless similarities are given."""
    kernel = (
        {"data": points.numpy(), "metric": "euclidean"}
        if similarity is None
        else {"sijs": similarity.numpy(), "separate_rep": False}
    )
    function = FacilityLocationFunction(n=len(points), mode="dense", **kernel)
    chosen = function.maximize(
        budget=num_medoids,
        optimizer="LazyGreedy",
        stopIfZeroGain=False,
        stopIfNegativeGain=False,
        show_progress=False,
    )
    return torch.tensor([row for row, _ in chosen])


def lone(similarity: Tensor, order: Tensor) -> set[int]:
    """The examples that are a cluster of their own."""
    owner = similarity[:, order].argmax(1)
    size = torch.bincount(owner, minlength=len(order))
    return set((size[owner] == 1).nonzero().flatten().tolist())


def compare_epic(options: argparse.Namespace, device: torch.device) -> tuple[Compared, list[str]]:
    """Selection in all classes; submodlib on the CPU, in some of them."""
    classes = [simulated_gradients(options.class_size, seed) for seed in range(NUM_CLASSES)]
    count = round(FRACTION * options.class_size)
    sets = [points.to(device) for points in classes]

    def ours() -> None:
        medoid_clusters(sets, [count] * NUM_CLASSES)

    def naive() -> None:
        for points in classes[: options.naive_classes]:
            submodlib_order(points, count)

    what = f"EPIC: {NUM_CLASSES} classes of {options.class_size}, {count} medoids each"
    if FacilityLocationFunction is None:
        note = "EPIC: submodlib-py is not installed, so there is nothing to compare with."
        return compare(what, ours, None, options, device), [note]
    compared = compare(what, ours, naive, options, device)
    assert compared.naive is not None
    share = NUM_CLASSES / options.naive_classes
    whole = Timing(tuple(share * seconds for seconds in compared.naive.seconds))
    return Compared(what, compared.ours, whole), [
        f"EPIC: {options.naive_classes} of {NUM_CLASSES} classes timed with submodlib, the rest in "
        f"proportion. {dropped_of(classes[: options.naive_classes], count)}"
    ]


def dropped_of(classes: Sequence[Tensor], count: int) -> str:
    """How far the dropped examples of some classes agree, by one kernel and by each side's own."""
    mine, same, own = set(), set(), set()
    for label, points in enumerate(classes):
        similarity = similarities(points)
        orders = (
            torch.from_numpy(lazy_greedy(similarity.numpy(), count)),
            submodlib_order(points, count, similarity),
            submodlib_order(points, count),
        )
        for dropped, order in zip((mine, same, own), orders, strict=True):
            dropped |= {(label, row) for row in lone(similarity, order)}
    jaccards = [len(mine & other) / max(len(mine | other), 1) for other in (same, own)]
    return (
        f"Dropped of {len(classes)} classes: {len(mine)} here; submodlib drops {len(same)} by the "
        f"same similarities, Jaccard {jaccards[0]:.3f}, and {len(own)} by its own kernel, Jaccard "
        f"{jaccards[1]:.3f}."
    )


# FRIENDS.


def naive_noise(model: Classifier, images: Tensor, start: Tensor, config: friends.Config) -> Tensor:
    """Friendly noise (n, C, H, W) as the reference makes it; n is a multiple of 128."""
    noises = []
    for pixels, first in zip(images.split(BATCH), start.split(BATCH), strict=True):
        noise = torch.nn.Parameter(first.clone())
        optimizer = torch.optim.SGD(
            [noise], lr=config.noise_learning_rate, momentum=0.9, nesterov=True
        )
        with torch.no_grad():
            target = model(pixels).log_softmax(1)
        for _ in range(config.steps):
            clipped = noise.clamp(-config.zeta, config.zeta)
            moved = model((pixels + clipped).clamp(0, 1)).log_softmax(1)
            divergence = F.kl_div(moved, target, reduction="batchmean", log_target=True)
            loss = divergence - config.magnitude_weight * clipped.square().mean()
            model.zero_grad()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        noises.append(noise.detach().clamp(-config.zeta, config.zeta))
    return torch.cat(noises)


def our_noise(
    model: Classifier, train: TrainingSet, start: Tensor, config: friends.Config
) -> Tensor:
    """Friendly noise of the first images as ``Friends.start_epoch`` makes it."""
    rows = torch.arange(len(start), device=start.device)
    parts = rows.split(pass_size(train.images, gradients=True))

    def noise(network: Classifier, part: Tensor) -> Tensor:
        return friends.friendly_noise(network, train.pixels(part), start[part], config)

    return torch.cat(in_parallel(model, parts, noise))


def compare_friends(
    model: Classifier, train: TrainingSet, options: argparse.Namespace, device: torch.device
) -> tuple[Compared, list[str]]:
    """The noise of some images."""
    config = friends.Config()
    count = max(BATCH, options.images // BATCH * BATCH)
    images = train.pixels(torch.arange(count, device=device)).contiguous()
    generator = torch.Generator().manual_seed(options.seed)
    draws = torch.rand(images.shape, generator=generator) * 2 - 1
    start = friends.START * draws.to(device)
    plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format).eval()
    compared = compare(
        f"FRIENDS: {config.steps} steps on {count} images",
        lambda: our_noise(model, train, start, config),
        lambda: naive_noise(plain, images, start, config),
        options,
        device,
    )
    gap = our_noise(model, train, start, config) - naive_noise(plain, images, start, config)
    gap = 255 * gap.abs()
    return compared, [
        f"FRIENDS: the two noises differ by {float(gap.mean()):.2g}/255 in the mean; "
        f"{float((gap > 0.1).float().mean()):.2%} of the pixels by over 0.1/255."
    ]


# ATDA.


def naive_search(
    model: Classifier,
    base: Tensor,
    labels: Tensor,
    start: Tensor,
    config: atda.Config,
    patience: int,
) -> tuple[Tensor, int]:
    """The friendly search with a Python loop over the examples in each step, and its steps."""
    ball = Ball(config.radius, config.norm)
    points, taken = start.clone(), 0
    left = [patience] * len(base)
    active = list(range(len(base)))
    for _ in range(config.steps):
        images = points[active].requires_grad_(True)
        logits = model(images)
        guesses = logits.argmax(1)
        going = []
        for position, row in enumerate(active):
            if guesses[position] != labels[row]:
                if left[row] == 0:
                    continue
                left[row] -= 1
            going.append(position)
        if not going:
            break
        model.zero_grad()
        F.cross_entropy(logits, labels[active], reduction="sum").backward()
        assert images.grad is not None
        active = [active[position] for position in going]
        moved = ball.step(points[active], images.grad[going], config.step_ratio)
        points[active] = ball.project(moved, base[active])
        taken += len(active)
    return points, taken


def compare_atda(
    model: Classifier, train: TrainingSet, options: argparse.Namespace, device: torch.device
) -> tuple[Compared, list[str]]:
    """The search on some batches."""
    config = atda.Config(radius=options.radius)
    search = ProjectedGradient(
        Ball(config.radius, config.norm), config.steps, config.step_ratio, "float32"
    )
    plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format).eval()
    count = max(BATCH, options.images // BATCH * BATCH)
    parts = torch.arange(count, device=device).split(BATCH)
    generator = torch.Generator().manual_seed(options.seed)
    batches = []
    for part in parts:
        base = train.pixels(part)
        batches.append((base, train.labels[part], search.ball.random_start(base, generator)))
    plain_batches = [(a.contiguous(), b, c.contiguous()) for a, b, c in batches]

    def ours() -> list[tuple[Tensor, int]]:
        results = []
        for base, labels, start in batches:
            stop = atda.EarlyStop(labels, 1)
            points = search.perturb_batch(folded(model), base, labels, start, stop)
            results.append((points, stop.steps))
        return results

    def naive() -> list[tuple[Tensor, int]]:
        return [naive_search(plain, *batch, config, 1) for batch in plain_batches]

    compared = compare(
        f"ATDA: up to {config.steps} steps on {count} images", ours, naive, options, device
    )
    pairs = list(zip(ours(), naive(), strict=True))
    apart = torch.cat([(one[0] - two[0]).flatten(1).norm(dim=1) for one, two in pairs])
    steps = [sum(taken for _, taken in side) / count for side in zip(*pairs, strict=True)]
    return compared, [
        f"ATDA: radius {config.radius:g}, tau 1; mean steps {steps[0]:.3f} here and "
        f"{steps[1]:.3f} there; {float((apart > 0.01 * config.radius).float().mean()):.2%} of the "
        "images end over a hundredth of the radius apart."
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    device = prepare(options)
    results = []
    if "epic" in options.parts:
        results.append(compare_epic(options, device))
    if {"friends", "atda"} & set(options.parts):
        dataset = grey_dataset(options)
        model = trained(dataset, options.epochs, options.seed, device)
        train = state_of(model, dataset, options.epochs, device).train
        for name, part in (("friends", compare_friends), ("atda", compare_atda)):
            if name in options.parts:
                results.append(part(model, train, options, device))
    show(
        "Three defenses against the naive forms",
        ["what", "ours, s (median)", "range", "naive, s (median)", "range", "ratio"],
        [compared.row() for compared, _ in results],
        [note for _, notes in results for note in notes],
        device,
        markdown=options.markdown,
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = parser(__doc__)
    names = ("epic", "friends", "atda")
    options.add_argument("--parts", nargs="+", choices=names, default=list(names))
    options.add_argument("--epochs", type=int, default=3, help="of training before the passes")
    options.add_argument("--images", type=int, default=1280, help="for FRIENDS and ATDA")
    options.add_argument("--radius", type=float, default=2.0, help="of ATDA's ball; MNIST is easy")
    options.add_argument("--class-size", type=int, default=5000, help="for EPIC")
    options.add_argument("--naive-classes", type=int, default=2, help="timed with submodlib, of 10")
    options.add_argument(
        "--repeats", type=int, default=2, help="of ours, before and after the naive"
    )
    options.add_argument("--naive-repeats", type=int, default=2)
    return options.parse_args(arguments)


if __name__ == "__main__":
    main()
