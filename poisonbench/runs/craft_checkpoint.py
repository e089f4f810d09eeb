"""An attack in progress: its checkpoint in the store, the clock, the signals and warnings."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from poisonbench.attacks.base import AttackCheckpoint
from poisonbench.core.errors import DivergedError, InterruptedRunError, check_returned
from poisonbench.data.budget import TOLERANCE, outside, overstep
from poisonbench.data.splits import Dataset
from poisonbench.results.store import CraftingCost
from poisonbench.runs.context import RunContext
from poisonbench.runs.method_settings import Settings

_GENERATOR = "task.generator."


def crafted_by(settings: Settings, task: Any, base: Tensor, say: Callable[[str], None]) -> Tensor:
    """What an attack makes of its task; its warnings are said, and whether it leaves its budget.

    ``base`` are the task's images as uint8. Half-precision images are made float32, as
    their own arithmetic tells no grey levels apart.

    Raises:
        UsageError: not as many images as the task has.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        images: Tensor = settings.module.craft(task, settings.config)
    for warning in caught:
        say(f"warning: {warning.message}")
    name = settings.entry.name
    shape = tuple(base.shape)
    fits = hasattr(images, "detach") and images.shape == shape and images.is_floating_point()
    # Sparse images, and those without values, cannot be rounded.
    fits = fits and images.layout is torch.strided and not images.is_meta
    check_returned(name, fits, f"floating-point images of shape {shape} from craft", images)
    images = images.detach()
    if torch.finfo(images.dtype).bits < 32:
        images = images.float()
    if text := _overstep_text(settings.config, images, base):
        say(f"warning: {name} leaves its budget, {text}; its poisons are clipped to it")
    return images


def _overstep_text(config: Any, images: Tensor, base: Tensor) -> str:
    """What the budget is and by how much images leave it or [0, 1]; empty if nowhere."""
    norm, budget = config.norm, config.budget
    beyond, out = overstep(images, base, budget, norm), outside(images)
    if norm == "linf":
        # One ball: both are grey levels.
        beyond, out = max(beyond, out), 0.0
    is_over = budget is not None and beyond > TOLERANCE[norm]
    if norm == "linf" and is_over:
        return f"{255 * budget:.4g}/255 around each image inside [0, 1], by up to {beyond:.3g}/255"
    if is_over:
        unit = "in L2" if norm == "l2" else "changed pixel(s)"
        return f"{budget:.4g} {unit} around each image, by up to {beyond:.3g}"
    if out > TOLERANCE["linf"]:
        return f"images inside [0, 1], by up to {out:.3g}/255"
    return ""


@contextmanager
def crafting(
    context: RunContext,
    dataset: Dataset,
    name: str,
    poison_id: str,
    generators: Sequence[torch.Generator],
) -> Iterator[CraftCheckpoint]:
    """The checkpoint of an attack, discarded once its poison is kept, or when it has diverged.

    What crafting took is kept, unless an earlier process did a part of it.
    """
    checkpoint, start = CraftCheckpoint(context, name, poison_id, generators), time.monotonic()
    try:
        yield checkpoint
    except DivergedError:
        checkpoint.file.discard()
        raise
    if not checkpoint.is_continued:
        seconds = time.monotonic() - start
        cost = CraftingCost(dataset.name, name, len(generators), seconds)
        context.store.write_crafting_cost(poison_id, cost)
    checkpoint.file.discard()


class CraftCheckpoint(AttackCheckpoint):
    """Saves an attack, and its task's generators, under the id of the poison that it makes.

    A state of another poison is ignored. Once the attack has asked for its state (``is_used``), a
    signal waits for the next save.
    """

    def __init__(
        self, context: RunContext, name: str, poison_id: str, generators: Sequence[torch.Generator]
    ) -> None:
        self.context, self.name = context, name
        self.generators = {f"{_GENERATOR}{n}": draws for n, draws in enumerate(generators)}
        self.file = context.checkpoint(poison_id)
        self.is_used = self.is_continued = False
        self._saved_at = time.monotonic()

    def report(self, done: int, total: int) -> None:
        """Pass progress on; a signal stops an attack that has nothing to save."""
        if not self.is_used:
            self.context.abort_if_stopping()
        self.context.report(self.name, done, total)

    def load(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Load as the base class does; a file that cannot be read is ignored, with a warning."""
        self.is_used = True
        self._saved_at = time.monotonic()
        state = self.file.read()
        if state is None or not self.generators.keys() <= state[1].keys():
            if self.file.exists():
                self.context.say(
                    f"warning: {self.file.folder}: expected a checkpoint of this {self.name} "
                    "poison, got a damaged file or another's; starting over"
                )
            return None
        position, tensors = state
        for name, generator in self.generators.items():
            generator.set_state(tensors.pop(name))
        self.is_continued = True
        self.context.say(f"continuing {self.name} from its checkpoint")
        return position, tensors

    def save_if_due(self, position: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Save as the base class does; it is time once in ``Checkpoint.every`` seconds.

        Raises:
            InterruptedRunError: saved after a signal.
            StoreError: the file cannot be written.
        """
        stop = self.context.stopping.is_set()
        if stop or time.monotonic() - self._saved_at >= self.file.every:
            draws = {name: generator.get_state() for name, generator in self.generators.items()}
            self.file.write(position, tensors | draws)
            self._saved_at = time.monotonic()
        if stop:
            raise InterruptedRunError(
                f"interrupted while crafting {self.name} with a checkpoint; "
                f"run the same command to continue ({self.file.where()})"
            )
