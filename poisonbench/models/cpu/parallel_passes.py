"""Passes of a frozen model side by side on a CPU.

Passes are small, so that their activations stay in a cache, and so small that a second thread on
the same pass waits most of the time. Here each of PyTorch's threads does passes of its own.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TypeVar

import torch

from poisonbench.core.devices import is_accelerator
from poisonbench.models.classifier import Classifier
from poisonbench.models.folding import folded

#: Each holds a copy of the model and the activations of a pass.
MOST_THREADS = 8

Part = TypeVar("Part")
Result = TypeVar("Result")


def in_parallel(
    model: Classifier, parts: Sequence[Part], work: Callable[[Classifier, Part], Result]
) -> list[Result]:
    """Call ``work(network, part)`` for each part; the results in order.

    On a GPU, or with one thread, one part after the other. With at least as many parts as threads,
    what a part gives does not depend on the threads; threads that share one may round otherwise.

    The model is folded for ``work`` once for each thread, as copies keep buffers. ``work`` draws no
    random numbers, waits for nobody and sets autocast itself; where it raises, the other threads
    end with the part that they are at, as they do at Ctrl-C.
    """
    threads = torch.get_num_threads()
    count = 1 if is_accelerator(model.mean.device) else min(threads, len(parts), MOST_THREADS)
    if count <= 1:
        network = folded(model)
        return [work(network, part) for part in parts]
    copies = [folded(model) for _ in range(count)]
    grads, stop = torch.is_grad_enabled(), Event()

    def thread(number: int) -> list[Result]:
        # Both are a thread's own, and a new thread has neither.
        torch.set_num_threads(threads // count)
        results = []
        with torch.set_grad_enabled(grads):
            for part in parts[number::count]:
                if stop.is_set():
                    break
                try:
                    results.append(work(copies[number], part))
                except BaseException:
                    stop.set()
                    raise
        return results

    try:
        with ThreadPoolExecutor(count) as pool:
            try:
                results = list(pool.map(thread, range(count)))
            finally:
                # Leaving the pool waits for its threads; all is done unless something was raised.
                stop.set()
    finally:
        # New threads take over the number that was set last, whoever set it.
        torch.set_num_threads(threads)
    return [results[number % count][number // count] for number in range(len(parts))]
