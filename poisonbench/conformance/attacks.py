"""The promises of an attack, each held to by crafting."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from poisonbench.attacks.base import (
    AttackCheckpoint,
    AttackTask,
    LabelledImages,
    TargetedTask,
    TriggerTask,
)
from poisonbench.conformance.check import ConformanceError, expect, expect_resumed
from poisonbench.conformance.methods import MethodChecks
from poisonbench.conformance.problem import (
    CPU,
    NUM_CLASSES,
    frozen_network,
    global_generators_kept,
    images_of_patterns,
    other_global_state,
    tiny_network,
)
from poisonbench.data.budget import (
    TOLERANCE,
    bound_fault,
    outside,
    overstep,
    quantise,
    rounding_distance,
)
from poisonbench.data.splits import Split
from poisonbench.entries import AttackEntry
from poisonbench.models.classifier import Classifier

#: At most as many checkpoints, spread evenly, are stops.
STOPS = 20


class _StoppedAttackError(Exception):
    """An attack was stopped after a checkpoint."""


#: A position, tensors and the generators' states.
_Saved = tuple[dict[str, Any], dict[str, Tensor], list[Tensor]]


class _Checkpoint(AttackCheckpoint):
    """Saves after each step, in memory, and stops after one of them."""

    def __init__(
        self, stop_after: int, generators: list[torch.Generator], saved: _Saved | None = None
    ) -> None:
        self.stop_after, self.generators, self.saved = stop_after, generators, saved
        self.calls = 0

    def load(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        if self.saved is None:
            return None
        position, tensors, states = self.saved
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state)
        # Copies: what an attack does to them must not reach the next one that loads.
        return json.loads(json.dumps(position)), {n: t.clone() for n, t in tensors.items()}

    def save_if_due(self, position: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        plain = json.loads(json.dumps(position))
        # An attack that saves before each step saves what it has just loaded: no step was done.
        if self.saved is not None and _same(self.saved, plain, tensors):
            return
        self.calls += 1
        if self.calls == self.stop_after:
            copies = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
            states = [generator.get_state() for generator in self.generators]
            self.saved = (plain, copies, states)
            raise _StoppedAttackError


def _same(saved: _Saved, position: dict[str, Any], tensors: dict[str, Tensor]) -> bool:
    return (
        saved[0] == position
        and saved[1].keys() == tensors.keys()
        and all(torch.equal(saved[1][name], tensor.cpu()) for name, tensor in tensors.items())
    )


class AttackChecks(MethodChecks):
    """An attack, as it is called to craft: untargeted, targeted, or with a trigger."""

    def _once(self, device: torch.device) -> list[Tensor]:
        return [self._craft(self._task(device=device))]

    @cached_property
    def _result(self) -> list[Tensor]:
        return self._once(CPU)

    def _task(self, seed: int = 0, device: torch.device = CPU) -> AttackTask | TargetedTask:
        assert isinstance(self._entry, AttackEntry)
        train = images_of_patterns(64, 0).to(device)

        def surrogate(number: int) -> Classifier:
            return frozen_network(number).to(device)

        if not self._entry.scenario:
            validation = images_of_patterns(16, 1).to(device)
            task = AttackTask(
                images=train.images.float() / 255,
                labels=train.labels.clone(),
                num_classes=NUM_CLASSES,
                report=self._report,
                validation=LabelledImages(validation.images.float() / 255, validation.labels),
                surrogate=lambda: surrogate(0),
                untrained=lambda: tiny_network(seed).train().to(device),
                generator=torch.Generator().manual_seed(seed),
            )
            if not self._entry.has_trigger:
                return task
            values = {field.name: getattr(task, field.name) for field in fields(task)}
            return TriggerTask(
                **values,
                rows=torch.arange(len(train), device=device),
                train=train,
                trained=lambda number, poisons: surrogate(number),
                stamp=partial(self._stamp, seed),
            )
        intended = torch.tensor([1, 2], device=device)
        rows = torch.stack([(train.labels == label).nonzero()[:4, 0] for label in intended])
        return TargetedTask(
            images=train.images[rows].float() / 255,
            labels=train.labels[rows],
            num_classes=NUM_CLASSES,
            report=self._report,
            rows=rows,
            targets=images_of_patterns(2, 2).images.to(device).float() / 255,
            intended=intended,
            train=train,
            epochs=3,
            snapshots=lambda number, epochs: [surrogate(100 * number + end) for end in epochs],
            generators=[torch.Generator().manual_seed(seed + target) for target in range(2)],
        )

    @property
    def _learns(self) -> bool:
        return isinstance(self._entry, AttackEntry) and self._entry.learns_trigger

    @property
    def _chooses(self) -> bool:
        return isinstance(self._entry, AttackEntry) and self._entry.chooses_images

    def _choose(self, task: TriggerTask) -> None:
        count = len(task.images) // 2
        chosen: Any = self._module.choose(task, self._build_config, count)
        fits = isinstance(chosen, Tensor) and chosen.shape == (count,)
        expect(
            fits
            and chosen.dtype is torch.int64
            and chosen.tolist() == sorted(set(chosen.tolist()) & set(range(len(task.images)))),
            f"{count} of {len(task.images)} images, as int64 in rising order, from choose",
            chosen,
            "return each chosen image's place among task.images once",
        )

    def _stamp(self, seed: int, images: Tensor) -> Tensor:
        source: Any = torch.Generator().manual_seed(seed)
        if self._learns:
            source = torch.zeros_like(images[0])
        stamped: Tensor = self._module.stamp(images, self._build_config, source)
        return stamped

    def _report(self, done: int, total: int) -> None:
        self._progress = (done, total)

    def _craft(self, task: AttackTask | TargetedTask) -> Tensor:
        self._progress = (0, 1)
        if isinstance(task, TriggerTask) and self._learns:
            task = replace(task, pattern=self._module.learn(task, self._build_config))
        if isinstance(task, TriggerTask) and self._chooses:
            self._choose(task)
        poisons: Any = self._module.craft(task, self._build_config)
        shape = tuple(task.images.shape)
        fits = isinstance(poisons, Tensor) and tuple(poisons.shape) == shape
        expect(
            fits and poisons.dtype is torch.float32,
            f"float32 poisons of shape {shape}",
            (tuple(poisons.shape), poisons.dtype) if isinstance(poisons, Tensor) else poisons,
            "return one poison for each of task.images",
        )
        assert isinstance(poisons, Tensor)
        return poisons

    def determinism_by_seed(self) -> None:
        """The same seed gives the same bytes."""
        first = self._result[0]
        with other_global_state():
            second = self._craft(self._task())
        expect(
            torch.equal(first, second),
            "the same poisons from the same seed",
            "others in a second call",
            "draw from the task's generators alone, and keep nothing between two calls",
        )

    def global_generator_untouched(self) -> None:
        """No number is drawn from torch's, numpy's or Python's global generator."""
        with global_generators_kept():
            self._craft(self._task())

    def inputs_not_edited(self) -> None:
        """The task's images and labels, with those of its splits, stay as they are."""
        task = self._task()
        tensors = list(_tensors_of(task))
        before = [tensor.clone() for tensor in tensors]
        self._craft(task)
        expect(
            all(map(torch.equal, before, tensors)),
            "the task's images and labels as they were",
            "other values in place",
            "work on task.images.clone(), or with functions whose names do not end in _",
        )

    def budget_after_rounding(self) -> None:
        """Poisons in [0, 1] are within the budget before and after the rounding to 256 levels."""
        task, config = self._task(), self._build_config
        poisons, clean = self._result[0].flatten(0, -4), task.images.flatten(0, -4)
        base, norm = (clean * 255).round().to(torch.uint8), config.norm
        if fault := bound_fault(config):
            raise ConformanceError(f"{fault}; mend Config")
        remedy = "hold the change to config.budget, then the image to [0, 1]"
        over = overstep(poisons, base, config.budget, norm)
        expect(
            over <= TOLERANCE.get(norm, 0) and outside(poisons) <= TOLERANCE["linf"],
            f"poisons in [0, 1] within the {norm} budget {config.budget}",
            f"{over:.3g} beyond the budget and {outside(poisons):.3g} grey levels beyond [0, 1]",
            remedy,
        )
        rounded = quantise(poisons, base, config.budget, norm).float() / 255
        allowed = TOLERANCE.get(norm, 0) + (
            rounding_distance(clean[0].numel()) if norm == "l2" else 0
        )
        over = overstep(rounded, base, config.budget, norm)
        expect(over <= allowed, f"the {norm} budget after rounding", f"{over:.3g} more", remedy)

    def finite_record(self) -> None:
        """Poisons are finite and in [0, 1], detached, and progress is reported."""
        poisons = self._result[0]
        expect(
            bool(poisons.isfinite().all())
            and 0 <= float(poisons.min()) <= float(poisons.max()) <= 1,
            "finite poisons in [0, 1]",
            f"{float(poisons.min())} to {float(poisons.max())}",
            "clamp to [0, 1]",
        )
        expect(not poisons.requires_grad, "poisons without a graph", "one", "detach them")
        done, total = self._progress
        # An attack may end early, when it has reached what it is after.
        expect(
            0 < done <= total,
            "task.report(done, total) after each step",
            (done, total),
            "report each step, with at most the total",
        )

    def resume_to_the_same_bytes(self) -> None:
        """An attack that saves checkpoints is stopped after each and ends in the same bytes."""
        task = self._task()
        checkpoint = _Checkpoint(0, generators_of(task))
        whole = self._craft(replace(task, checkpoint=checkpoint))
        stops = [*range(1, checkpoint.calls + 1, max(1, checkpoint.calls // STOPS))]
        expect_resumed(
            stops,
            lambda some: torch.equal(self._continued(some), whole),
            "the same poisons",
            "give save_if_due all that the next step depends on",
        )

    def _continued(self, stops: Sequence[int]) -> Tensor:
        """The poisons of one attack that is stopped at these checkpoints."""
        saved = None
        for before, stop in pairwise((0, *stops)):
            task = self._task()
            checkpoint = _Checkpoint(stop - before, generators_of(task), saved)
            with suppress(_StoppedAttackError):
                self._craft(replace(task, checkpoint=checkpoint))
            saved = checkpoint.saved
        task = self._task()
        return self._craft(replace(task, checkpoint=_Checkpoint(0, generators_of(task), saved)))


def generators_of(task: AttackTask | TargetedTask) -> list[torch.Generator]:
    """The generators that a task has."""
    return [task.generator] if isinstance(task, AttackTask) else list(task.generators)


def _tensors_of(task: AttackTask | TargetedTask) -> Iterator[Tensor]:
    """A task's tensors, and the images and labels of the splits in it."""
    for value in (getattr(task, field.name) for field in fields(task)):
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (LabelledImages, Split)):
            yield from (value.images, value.labels)
