"""The global generators, which only other people's code draws from; looking draws nothing."""

import random
from typing import Any

import numpy as np
import torch


def states() -> dict[str, Any]:
    """By library, the state of its global generator as values that can be compared."""
    numpy_state: Any = np.random.get_state()
    _, words, *rest = numpy_state
    return {
        "torch": torch.get_rng_state().tolist(),
        "random": random.getstate(),
        "numpy": (words.tolist(), *rest),
    }


def drawn_from(before: dict[str, Any]) -> list[str]:
    """The libraries whose generators have another state than before."""
    return [library for library, state in states().items() if state != before[library]]
