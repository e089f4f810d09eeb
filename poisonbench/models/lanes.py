"""Passes of a frozen model side by side on a CPU.

Passes are small, so that their activations stay in a cache, and so small that a second thread on
the same pass waits most of the time. Here each of PyTorch's threads does passes of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from poisonbench.models.classifier import Classifier
from poisonbench.models.folding import folded

Part = TypeVar("Part")
Result = TypeVar("Result")


def in_lanes(
    model: Classifier, parts: Sequence[Part], work: Callable[[Classifier, Part], Result]
) -> list[Result]:
    """``work(network, part)`` for each part, in order.

    On a GPU, or with one thread, one part after the other. With more parts than threads, what a
    part gives does not depend on the threads; threads that share a part may round otherwise.

    Args:
        model: folded for ``work``, once for each lane: copies keep buffers.
        parts: independent of each other.
        work: draws no random numbers and waits for nobody.

    Raises:
        Exception: the first that ``work`` raised, in the order of the parts.
    """
    threads = torch.get_num_threads()
    count = 1 if model.mean.is_cuda else min(threads, len(parts))
    if count <= 1:
        network = folded(model)
        return [work(network, part) for part in parts]
    copies = [folded(model) for _ in range(count)]
    grads = torch.is_grad_enabled()

    def lane(number: int) -> list[Result]:
        # Both are a thread's own, and a new thread has neither.
        torch.set_num_threads(threads // count)
        with torch.set_grad_enabled(grads):
            return [work(copies[number], part) for part in parts[number::count]]

    try:
        with ThreadPoolExecutor(count) as pool:
            found = list(pool.map(lane, range(count)))
    finally:
        # New threads take over the number that was set last, whoever set it.
        torch.set_num_threads(threads)
    return [found[place % count][place // count] for place in range(len(parts))]
