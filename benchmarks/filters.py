"""The filters on features: this package against scikit-learn, and how long each takes.

    python benchmarks/filters.py --markdown
    python benchmarks/filters.py --parts knn --rows 20000 --naive-rows 2000

Features are simulated: ten overlapping clusters of 512 dimensions after a ReLU, 50,000 rows, as a
ResNet-18 gives for CIFAR-10.

knn       all votes at k = 50 and at k = 5,000. Naive is ``KNeighborsClassifier`` by brute force at
          k = 50 on part of the rows, the rest in proportion: its time is the same for every row.
          It is not timed at k = 5,000. How far the two agree is measured on those rows.
spectral  scores of all classes. Naive is ``torch.linalg.svd`` of each class in float64.
l2        distances of all classes; naive is a loop over the rows.
memory    what the process held at most while k-NN ran, less what it held before.

Why it is fair: the same features, threads and machine, both timed in one run, ours half before and
half after the naive form.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from common import Timing, measure, parser, prepare, show
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits
from torch import Tensor

from poisonbench.defenses import deep_knn
from poisonbench.defenses.l2_centroid import distances_to_centroid
from poisonbench.defenses.spectral_signatures import spectral_scores

NUM_CLASSES = 10
SMALL_K = 50
HEADINGS = ["what", "ours, s (median)", "range", "naive, s (median)", "range", "ratio"]


def simulated_features(rows: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features (N, F) float32 and labels (N,): clusters that overlap a little."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % NUM_CLASSES
    centres = 0.3 * torch.randn(NUM_CLASSES, width, generator=generator)
    noise = torch.randn(rows, width, generator=generator)
    return (centres[labels] + noise).relu_(), labels


def row(what: str, ours: Timing, naive: Timing | None) -> list[str]:
    """Cells in the order of the headings."""
    cells = [what, f"{ours.median:.3g}", ours.spread]
    if naive is None:
        return [*cells, "", "", ""]
    return [*cells, f"{naive.median:.3g}", naive.spread, f"{naive.median / ours.median:.3g}"]


def compare_knn(
    features: Tensor, labels: Tensor, options: argparse.Namespace, device: torch.device
) -> tuple[list[list[str]], list[str]]:
    """Small k against scikit-learn, large k against small k, and memory."""
    large_k = len(labels) // NUM_CLASSES
    points = features.to(device), labels.to(device)

    def ours(k: int) -> Tensor:
        return deep_knn.neighbour_votes(*points, NUM_CLASSES, k, count_self=True)

    ours_before = measure(lambda: ours(SMALL_K), options.repeats, device)
    judge = KNeighborsClassifier(SMALL_K, algorithm="brute").fit(features, labels)
    part = features[: options.naive_rows].numpy()
    timed = measure(lambda: judge.predict(part), options.repeats, device)
    naive = Timing(tuple(len(labels) / len(part) * seconds for seconds in timed.seconds))
    ours_after = measure(lambda: ours(SMALL_K), options.repeats, device)
    small = Timing(ours_before.seconds + ours_after.seconds)
    with Peak() as peak:
        large = measure(lambda: ours(large_k), options.repeats, device)
    votes = ours(SMALL_K)[: options.naive_rows].argmax(1).cpu().numpy()
    agree = float((votes == judge.predict(part)).mean())
    rows = [
        row(f"k-NN, k = {SMALL_K}", small, naive),
        row(f"k-NN, k = {large_k}", large, None),
    ]
    return rows, [
        f"k-NN: scikit-learn on {len(part)} of {len(labels)} rows, the rest in proportion; the two "
        f"agree on {agree:.2%} of them. k = {large_k} takes {large.median / small.median:.2f} "
        f"times as long as k = {SMALL_K} and {peak.bytes / 2**20:.0f} MiB of memory."
    ]


class Peak:
    """The most memory of the process in a block, over what it had when the block began.

    Attributes:
        bytes: of resident memory, looked at a hundred times a second.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Peak:
        self.start = _resident()
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.done.is_set():
            self.bytes = max(self.bytes, _resident() - self.start)
            time.sleep(0.01)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def compare_plain(
    what: str,
    ours: Callable[[], object],
    naive: Callable[[], object],
    options: argparse.Namespace,
    device: torch.device,
) -> list[str]:
    """A line of the table for a filter that takes seconds."""
    ours()
    before = measure(ours, options.repeats, device)
    naive_timing = measure(naive, options.repeats, device)
    after = measure(ours, options.repeats, device)
    return row(what, Timing(before.seconds + after.seconds), naive_timing)


def naive_spectral(features: Tensor, labels: Tensor) -> list[Tensor]:
    """Scores of each class through a whole singular value decomposition."""
    scores = []
    for label in range(NUM_CLASSES):
        centred = features[labels == label].double()
        centred = centred - centred.mean(0)
        scores.append((centred @ torch.linalg.svd(centred, full_matrices=False).Vh[0]).square())
    return scores


def naive_distances(features: Tensor, labels: Tensor) -> list[Tensor]:
    """Distances to the centroids, row by row."""
    centroids = [features[labels == label].mean(0) for label in range(NUM_CLASSES)]
    pairs = zip(features, labels.tolist(), strict=True)
    return [(point - centroids[label]).square().sum() for point, label in pairs]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    device = prepare(options)
    features, labels = simulated_features(options.rows, options.width, options.seed)
    points = features.to(device), labels.to(device)
    rows: list[list[str]] = []
    notes: list[str] = []
    # scikit-learn's and NumPy's threads are as many as torch's.
    with threadpool_limits(torch.get_num_threads()):
        if "knn" in options.parts:
            rows, notes = compare_knn(features, labels, options, device)
        if "spectral" in options.parts:
            rows.append(
                compare_plain(
                    "spectral signatures",
                    lambda: [
                        spectral_scores(points[0][points[1] == c]) for c in range(NUM_CLASSES)
                    ],
                    lambda: naive_spectral(*points),
                    options,
                    device,
                )
            )
        if "l2" in options.parts:
            rows.append(
                compare_plain(
                    "L2 centroid",
                    lambda: distances_to_centroid(*points),
                    lambda: naive_distances(*points),
                    options,
                    device,
                )
            )
    title = f"Filters on {options.rows} x {options.width} features"
    show(title, HEADINGS, rows, notes, device, markdown=options.markdown)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = parser(__doc__, data=False)
    names = ("knn", "spectral", "l2")
    options.add_argument("--parts", nargs="+", choices=names, default=list(names))
    options.add_argument("--rows", type=int, default=50_000)
    options.add_argument("--width", type=int, default=512)
    options.add_argument("--naive-rows", type=int, default=5_000, help="timed with scikit-learn")
    options.add_argument(
        "--repeats", type=int, default=1, help="of ours, before and after the naive"
    )
    return options.parse_args(arguments)


if __name__ == "__main__":
    main()
