"""The promises of a defense, each held to by runs of the real training loop."""

import math
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from poisonbench.conformance.check import ConformanceError, expect, expect_resumed
from poisonbench.conformance.methods import MethodChecks
from poisonbench.conformance.problem import (
    CPU,
    NUM_CLASSES,
    RECIPE,
    SHAPE,
    global_generators_kept,
    images_of_patterns,
    other_global_state,
    tiny_network,
)
from poisonbench.core.errors import DivergedError, InterruptedRunError, UsageError
from poisonbench.core.seeds import Seeds
from poisonbench.training.checkpoint import Checkpoint
from poisonbench.training.hook_checks import extended, misnamed_hooks
from poisonbench.training.state import Defense, FitResult, Oracle
from poisonbench.training.trainer import Trainer

#: Batches of a run of three epochs on 64 images; a defense that trains a copy has more.
STEPS = 12


class DefenseChecks(MethodChecks):
    """A defense; of one that pretrains in a way of its own, what it pretrains with."""

    def _once(self, device: torch.device) -> list[Tensor]:
        return list(self._fit(device=device)[0].values())

    @cached_property
    def _whole(self) -> tuple[dict[str, Tensor], FitResult, Defense, int]:
        return self._fit()

    @property
    def _result(self) -> list[Tensor]:
        return list(self._whole[0].values())

    def _fit(
        self,
        *,
        checkpoint: Checkpoint | None = None,
        stop_after: int | None = None,
        defense: Defense | None = None,
        device: torch.device = CPU,
    ) -> tuple[dict[str, Tensor], FitResult, Defense, int]:
        """Weights, the result, the defense and the number of batches of a run."""
        defense = self._build() if defense is None else defense
        batches = 0

        def should_stop() -> bool:
            nonlocal batches
            batches += 1
            return batches == stop_after

        trainer = Trainer(
            recipe=RECIPE,
            seeds=Seeds(),
            device=device,
            checkpoint=checkpoint,
            should_stop=should_stop,
        )
        model, train, validation = (
            tiny_network(),
            images_of_patterns(64, 0),
            images_of_patterns(16, 1),
        )
        try:
            split = extended(defense, train, validation, NUM_CLASSES)
            result = trainer.fit(model, split, validation, defense, len(train))
        except (UsageError, DivergedError) as error:
            raise ConformanceError(f"expected hooks that a run takes, got {error}") from None
        return dict(model.state_dict()), result, defense, batches

    def _build(self) -> Defense:
        defense = self._module.build(self._build_config, RECIPE)
        expect(
            isinstance(defense, Defense) and hasattr(defense, "memory"),
            "a Defense from build, whose __init__ calls super().__init__()",
            type(defense).__name__,
            "derive it from poisonbench.defenses.base.Defense",
        )
        defense = defense.pretraining() or defense
        # As a run does.
        if isinstance(defense, Oracle):
            defense.reveal(torch.arange(64) % 8 == 0)
        return defense  # type: ignore[no-any-return]

    def hooks(self) -> None:
        """No method's name is almost a hook's, which would never be called."""
        known = {name for name in vars(Defense) if not name.startswith("_")}
        almost = misnamed_hooks(self._build())
        expect(
            not almost,
            f"hooks by their names ({', '.join(sorted(known))})",
            ", ".join(almost),
            "rename what shall be called in training, or give a helper a _ in front",
        )

    def determinism_by_seed(self) -> None:
        """The same seed gives the same bytes."""
        first, result, _, _ = self._whole
        with other_global_state():
            second, again, _, _ = self._fit()
        same = all(torch.equal(first[key], second[key]) for key in first)
        expect(
            same and result.notes == again.notes,
            "the same weights and notes from the same seed",
            "others in a second run",
            "draw from state.generator(purpose) alone, and keep nothing between two instances",
        )

    def global_generator_untouched(self) -> None:
        """No number is drawn from torch's, numpy's or Python's global generator."""
        with global_generators_kept():
            self._fit()

    def inputs_not_edited(self) -> None:
        """Images, labels and splits that a hook is given stay as they are."""
        defense = self._build()
        given = partial(self._watched, defense)
        for name in ("extend", "start_epoch", "perturb_batch", "batch_loss"):
            if getattr(type(defense), name) is not getattr(Defense, name):
                setattr(defense, name, given(name, getattr(defense, name)))
        self._fit(defense=defense)

    def _watched(self, defense: Defense, name: str, hook: Callable[..., Any]) -> Any:
        def watched(*arguments: Any) -> Any:
            tensors = [t for argument in arguments for t in tensors_of(argument)]
            before = [tensor.detach().clone() for tensor in tensors]
            returned = hook(*arguments)
            same = all(map(torch.equal, before, tensors))
            expect(
                same,
                f"what {name} is given as it was",
                "other values in place",
                "work on images.clone(), or with functions whose names do not end in _",
            )
            return returned

        return watched

    def labels_kept(self) -> None:
        """The training set of an epoch has the labels that it was given, added rows apart."""
        # A run looks at them.
        _ = self._whole

    def resume_to_the_same_bytes(self) -> None:
        """A run that is stopped after each of its steps, or of a dozen, ends in the same bytes."""
        batches = self._whole[3]
        stops = [*range(1, batches, max(1, batches // STEPS))]
        expect_resumed(
            stops,
            self._continues,
            "the same weights and notes",
            "keep what must last as tensors in self.memory, and nowhere else",
        )

    def _continues(self, stops: Sequence[int]) -> bool:
        """Whether one run that is stopped at these batches ends as the whole one."""
        weights, result, _, _ = self._whole
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = Checkpoint(Path(folder), "run")
            for before, stop in pairwise((0, *stops)):
                with suppress(InterruptedRunError):
                    self._fit(checkpoint=checkpoint, stop_after=stop - before)
            continued, again, _, _ = self._fit(checkpoint=checkpoint)
        same = all(torch.equal(weights[key], continued[key]) for key in weights)
        return same and result.notes == again.notes

    def finite_record(self) -> None:
        """What goes into the record is finite and plain."""
        # A run looks at notes, and at the rows in the memory.
        _, result, _, _ = self._whole
        expect(
            all(math.isfinite(row["loss"]) for row in result.curve),
            "a finite training loss",
            [row["loss"] for row in result.curve],
            "look at batch_loss and perturb_batch",
        )

    def memory(self) -> None:
        """What lasts is tensors in ``memory``, no more than sixteen times the images."""
        # That they are tensors a run looks at.
        _, _, defense, _ = self._whole
        size = sum(tensor.nbytes for tensor in defense.memory.values())
        most = 16 * 4 * 64 * math.prod(SHAPE)
        expect(
            size <= most,
            f"at most {most} bytes in self.memory for 64 images",
            size,
            "keep rows and numbers, not every batch",
        )


def tensors_of(value: Any) -> list[Tensor]:
    """The images and labels in an argument of a hook."""
    if isinstance(value, Tensor):
        return [value]
    splits = [value, *(getattr(value, name, None) for name in ("original", "train", "validation"))]
    return [
        tensor
        for split in splits
        for name in ("images", "labels")
        if isinstance(tensor := getattr(split, name, None), Tensor)
    ]
