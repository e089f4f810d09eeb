"""Minutes of a defense's work between two epochs, step by step: shown, stopped and continued."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from poisonbench.core.errors import AbortedError, InterruptedRunError
from poisonbench.core.progress import Reporter
from poisonbench.training.checkpoint import Checkpoint


@dataclass
class LongSteps:
    """The steps of one purpose in one epoch of a run, and what they took in earlier processes."""

    #: The purpose, in progress reports and messages.
    name: str
    epoch: int
    report: Reporter
    #: Asked after every step; true saves and stops.
    should_stop: Callable[[], bool]
    #: Where to save and resume; None does neither.
    checkpoint: Checkpoint | None
    #: Before the last interruption.
    seconds: float = field(default=0.0, init=False)
    interruptions: int = field(default=0, init=False)

    def __call__(self, total: int, tensors: Mapping[str, Tensor]) -> Iterator[int]:
        """Yield the numbers of the steps still to do, of ``total``.

        ``tensors`` hold all that the steps have made: they are saved once in
        ``Checkpoint.every`` seconds and given their saved values, in place, before the first step.

        Raises:
            InterruptedRunError: stopped by ``should_stop``, saved.
            AbortedError: stopped where there is no checkpoint.
        """
        done = self._resume(total, tensors)
        clock = time.monotonic() - self.seconds
        saved_at = time.monotonic()
        self.report(self.name, done, total)
        while done < total:
            yield done
            done += 1
            self.report(self.name, done, total)
            stop, now = self.should_stop(), time.monotonic()
            if self.checkpoint is None:
                if stop:
                    raise AbortedError("interrupted; nothing was written, run it again")
                continue
            # The last one too: it is long until the run itself is saved.
            if stop or now - saved_at >= self.checkpoint.every or done == total:
                position = {
                    "epoch": self.epoch,
                    "done": done,
                    "total": total,
                    "seconds": now - clock,
                    "interruptions": self.interruptions + stop,
                }
                self.checkpoint.write(position, dict(tensors))
                saved_at = time.monotonic()
            if stop:
                raise InterruptedRunError(
                    f"interrupted in {self.name}, step {done} of {total}, with a checkpoint; "
                    f"run the same command to continue ({self.checkpoint.where()})"
                )

    def discard(self) -> None:
        """Remove what was saved: another checkpoint has what the steps made."""
        if self.checkpoint is not None:
            self.checkpoint.discard()

    def _resume(self, total: int, tensors: Mapping[str, Tensor]) -> int:
        """How many steps are done; their tensors are copied into the given ones."""
        state = self.checkpoint.read() if self.checkpoint else None
        if state is None:
            return 0
        position, saved = state
        shapes = {name: (t.shape, t.dtype) for name, t in tensors.items()}
        if (position["epoch"], position.get("total")) != (self.epoch, total) or shapes != {
            name: (t.shape, t.dtype) for name, t in saved.items()
        }:
            return 0
        for name, tensor in tensors.items():
            tensor.copy_(saved[name])
        self.seconds, self.interruptions = position["seconds"], position["interruptions"]
        return int(position["done"])
