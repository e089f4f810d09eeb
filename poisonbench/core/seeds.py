"""Randomness as a declared dependency.

A seed is the sha256 of a purpose and of the parts it may depend on, and of nothing else. Purposes
that all defenses must share (initial weights, batches, augmentation) simply do not name the
defense, so two columns of a table differ by the defense alone (common random numbers).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def seed_for(root: int, purpose: str, *parts: str | int) -> int:
    """A 63-bit seed for a purpose and the named parts it may depend on."""
    text = json.dumps([root, purpose, *parts], separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_for(root: int, purpose: str, *parts: str | int) -> torch.Generator:
    """A CPU generator with :func:`seed_for`'s seed; draws move to the device afterwards."""
    import torch

    return torch.Generator().manual_seed(seed_for(root, purpose, *parts))


@dataclass(frozen=True)
class Seeds:
    """The root seed and the trial: all that a training run's randomness depends on."""

    root: int = 0
    trial: int = 0

    def generator(self, purpose: str, *parts: str | int) -> torch.Generator:
        """A CPU generator for one purpose of this trial."""
        return generator_for(self.root, purpose, self.trial, *parts)

    def seed(self, purpose: str, *parts: str | int) -> int:
        """The seed behind :meth:`generator`."""
        return seed_for(self.root, purpose, self.trial, *parts)
