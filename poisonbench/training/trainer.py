"""THE training loop: every method trains here, so their columns differ by the defense alone.

Initial weights, batch order and augmentation depend on (seed, trial, epoch) and never on the
defense (common random numbers). The whole split lies on the device as uint8 and is indexed; plain
training waits for the device once an epoch, for the loss.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from poisonbench.core.devices import is_accelerator
from poisonbench.core.errors import (
    AbortedError,
    DivergedError,
    InterruptedRunError,
    check_returned,
)
from poisonbench.core.progress import Reporter, silent
from poisonbench.core.seeds import Seeds
from poisonbench.data.splits import Split, digest_tensors
from poisonbench.models.classifier import Classifier
from poisonbench.models.cpu.training_forward import quick_forward
from poisonbench.training.augmentation import CropFlip
from poisonbench.training.checkpoint import Checkpoint, Snapshot, part, under
from poisonbench.training.evaluation import accuracy, head_accuracy, outputs_by_pass
from poisonbench.training.hook_checks import (
    check_batch,
    check_epoch,
    check_memory,
    check_parameters,
    check_range,
    check_rows,
    check_untouched,
    extremes_of,
    plain_note,
    versions,
)
from poisonbench.training.long_steps import LongSteps
from poisonbench.training.precision import autocast, network_precision
from poisonbench.training.recalibration import check_recalibration, recalibrate_on
from poisonbench.training.recipe import Recipe
from poisonbench.training.state import (
    CopyTraining,
    Defense,
    FitResult,
    TrainingSet,
    TrainingState,
)


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """How and where networks are trained, and who hears of it; may train several."""

    recipe: Recipe
    seeds: Seeds
    device: torch.device
    #: Where to save and resume; None does neither.
    checkpoint: Checkpoint | None = None
    #: Told of every batch.
    report: Reporter = silent
    #: Asked after every batch; true saves a checkpoint and stops.
    should_stop: Callable[[], bool] = lambda: False
    #: The phase's, in progress reports.
    name: str = "training"
    #: How a copy is trained that a defense asks for; where copies are kept, it may be read instead.
    train_copy: CopyTraining = lambda purpose, model, train, fit: fit()

    def fit(
        self,
        model: Classifier,
        train: Split,
        validation: Split,
        defense: Defense | None = None,
        num_given: int | None = None,
    ) -> FitResult:
        """Train a model in place and return how it went.

        The model is moved to the device, channels last. The validation split is clean and trusted,
        for the curve and for defenses that use it. ``num_given`` are the training images before
        those that the defense has added, by default all.

        Raises:
            UsageError: a hook of the defense returned or left what its contract does not have.
            DivergedError: the loss or the network's outputs stopped being finite, or a defense left
                nothing to train on; says in which epoch.
            InterruptedRunError: stopped by ``should_stop`` with a checkpoint saved.
            AbortedError: stopped by ``should_stop`` where there is no checkpoint.
        """
        num_given = len(train) if num_given is None else num_given
        run = _Run(self, model, train, validation, defense or Defense(), num_given)
        try:
            return run.fit()
        except DivergedError as error:
            error.epoch = run.epoch + 1
            raise


class _Run:
    """One call of :meth:`Trainer.fit`: its state between two batches."""

    def __init__(
        self,
        trainer: Trainer,
        model: Classifier,
        train: Split,
        validation: Split,
        defense: Defense,
        num_given: int,
    ) -> None:
        self.trainer, self.defense = trainer, defense
        self.recipe, self.seeds = trainer.recipe, trainer.seeds
        self.device, self.checkpoint = trainer.device, trainer.checkpoint
        self.result = FitResult(seconds={"training": 0.0, "defense": 0.0, "validation": 0.0})
        self.result.digests["initial_weights"] = digest_tensors(*model.state_dict().values())
        self.model = model.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        split = train.to(self.device)
        self.original = TrainingSet(split.images, split.labels)
        self.train = self.original
        self.validation = validation.to(self.device)
        self.recalibration = (self.model, self.validation, self.recipe.recalibrate, self.seeds)
        self.given = (split.images, split.labels, self.validation.images, self.validation.labels)
        self.versions, self.num_given = versions(self.given), num_given
        self.selected: Tensor | None = None
        #: Those done whose results the run's checkpoint does not have yet.
        self.long_steps: list[LongSteps] = []
        #: Of the run's first batch: its extremes, where a defense changes it, and whether its loss
        #: is not finite where its logits are.
        self.first_pixels, self.breaks_loss = torch.zeros(2), torch.tensor(False)
        self.validation_features: list[Tensor] | None = None
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=self.recipe.learning_rate,
            momentum=self.recipe.momentum,
            nesterov=self.recipe.momentum > 0,
            weight_decay=self.recipe.weight_decay,
        )
        self.parameters = tuple(self.model.parameters())
        self.precision = network_precision(self.device, self.recipe.precision)
        self.epoch = self.step = 0
        self.loss_sum = torch.zeros((), device=self.device, dtype=torch.float64)
        self.clock = self.saved_at = time.monotonic()

    def fit(self) -> FitResult:
        check_recalibration(*self.recalibration)
        resumed = self._resume()
        while self.epoch < self.recipe.epochs:
            if not resumed:
                self._spend("training")
                train = self.defense.start_epoch(self._state())
                check_epoch(train, self.original, keeps_range=self.defense.keeps_range)
                self.train = train
                self._check_left()
                self._spend("defense")
            resumed = False
            self._train_epoch()
            self._end_epoch()
        return self.result

    def _check_left(self) -> None:
        """What the hooks left: a memory that can be kept, and what they were given as it was.

        Called where a fault should not cost more training, and before anything is kept.
        """
        name, memory = self.trainer.name, self.defense.memory
        check_untouched(name, self.given, self.versions)
        check_parameters(name, self.model, self.parameters)
        check_memory(name, memory, self.num_given)
        selected = memory.get("selected")
        # A GPU is waited for, so once for a choice of rows.
        if selected is not None and selected is not self.selected:
            check_rows(name, selected, self.num_given)
        self.selected = selected

    def _train_epoch(self) -> None:
        self.model.train()
        batches, augment = self._batches(), self._augmentation()
        recipe, num_steps = self.recipe, math.ceil(len(self.original) / self.recipe.batch_size)
        # Where no defense looks at batches, nobody is shown them: the loop is plain training's.
        perturbs = type(self.defense).perturb_batch is not Defense.perturb_batch
        forward: Callable[[Tensor], Tensor] = self.model
        if not is_accelerator(self.device) and self.precision is torch.float32:
            height, width = self.original.images.shape[2:]
            forward = quick_forward(self.model, (height, width))
        while self.step < len(batches):
            rows = batches[self.step]
            images, labels = self.train.pixels(rows), self.train.labels[rows]
            if augment is not None:
                images = augment(images, rows)
            state = self._state()
            if perturbs:
                given, before = images, versions([labels])
                images = self.defense.perturb_batch(state, images, labels)
                check_batch(images, given)
                check_untouched("perturb_batch", [labels], before)
                if self.step == 0:
                    check_parameters(self.trainer.name, self.model, self.parameters)
                if self.epoch == self.step == 0:
                    self.first_pixels = extremes_of(images)
            with autocast(self.device, self.precision):
                logits = forward(images)
            loss = self.defense.batch_loss(state, logits.float(), labels)
            fits = isinstance(loss, Tensor) and loss.ndim == 0 and loss.requires_grad  # type: ignore[redundant-expr]
            check_returned("batch_loss", fits, "a scalar tensor with a gradient", loss)
            if self.epoch == self.step == 0:
                self.breaks_loss = logits.isfinite().all() & ~loss.isfinite()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            # In its middle, so that the last step of one-cycle still moves the weights.
            rate = recipe.rate_at(self.epoch + (self.step + 0.5) / len(batches))
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            self.loss_sum += loss.detach() * len(rows)
            self.step += 1
            if self.step == 1:
                self._check_left()
            self.trainer.report(
                self.trainer.name,
                self.epoch * num_steps + self.step,
                recipe.epochs * num_steps,
                f"epoch {self.epoch + 1}/{recipe.epochs}",
            )
            self._save_if_due(self.trainer.should_stop())

    def _end_epoch(self) -> None:
        self._check_left()
        if self.epoch == 0 and self.defense.keeps_range:
            check_range("perturb_batch", self.first_pixels)
        kept = len(self.train) if self.train.keep is None else int(self.train.keep.sum())
        loss = float(self.loss_sum) / kept
        if not math.isfinite(loss):
            raise DivergedError(
                f"expected a finite training loss, got {loss} in epoch {self.epoch + 1}; "
                f"{self._remedy()}"
            )
        self._spend("training")
        if self.recipe.recalibrate and self.epoch + 1 == self.recipe.epochs:
            recalibrate_on(*self.recalibration)
            self.validation_features = None
            self._spend("defense")
        row = {"epoch": self.epoch + 1, "images": kept, "loss": loss}
        reached = self._validation_accuracy()
        if all(reached > earlier["validation_accuracy"] for earlier in self.result.curve):
            self.result.peak = {n: t.clone() for n, t in self.model.state_dict().items()}
        self.result.curve.append(row | {"validation_accuracy": reached})
        self._spend("validation")
        self.epoch, self.step = self.epoch + 1, 0
        self.loss_sum.zero_()

    def _remedy(self) -> str:
        """What to do about a loss that is not finite, by the hook that began it where that shows.

        Of batches the run's first tells: later ones may come of weights that are not finite.
        """
        if not self.train.images.sum().isfinite():
            return "mend start_epoch, whose images are not finite"
        if not self.first_pixels.isfinite().all():
            return "mend perturb_batch, whose first images are not finite"
        if self.breaks_loss:
            return "mend batch_loss, whose first loss is not finite"
        return "lower --learning-rate"

    def _validation_accuracy(self) -> float:
        if not self.model.has_fixed_features:
            return accuracy(self.model, self.validation)
        if self.validation_features is None:
            images, embed = self.validation.images, self.model.embed
            self.validation_features = outputs_by_pass(self.model, embed, images)
        return head_accuracy(self.model, self.validation_features, self.validation.labels)

    def _batches(self) -> list[Tensor]:
        """The epoch's batches of rows. Dropped rows leave the order of the others as it was.

        A last row alone joins the batch before it, if the network cannot be trained on one image.
        """
        generator = self.seeds.generator("batches", self.epoch)
        order = torch.randperm(len(self.original), generator=generator)
        if self.train.keep is not None:
            order = order[self.train.keep.cpu()[order]]
        if len(order) == 0:
            raise DivergedError(
                f"expected images to train on in epoch {self.epoch + 1}, got none: the defense "
                "dropped them all; loosen its settings"
            )
        batches = list(order.to(self.device).split(self.recipe.batch_size))
        if len(batches[-1]) == 1 and not self._trains_on_one(batches[-1]):
            if len(batches) == 1:
                raise DivergedError(
                    f"expected two images to train on in epoch {self.epoch + 1}, as batch norm "
                    "takes no statistics of one value, got one; bring more, or loosen the defense"
                )
            batches[-2:] = [torch.cat(batches[-2:])]
        if self.epoch == 0:
            self.result.digests["first_batch"] = digest_tensors(batches[0])
        return batches

    def _trains_on_one(self, row: Tensor) -> bool:
        """Whether the network, in train mode, takes a batch of one image, of the row (1,).

        Batch norm does not where its maps are of one pixel.
        """
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        try:
            with torch.no_grad():
                functional_call(self.model, buffers, (self.train.pixels(row),))
        except ValueError:
            return False
        return True

    def _augmentation(self) -> CropFlip | None:
        if self.recipe.augment == "none":
            return None
        generator = self.seeds.generator("augmentation", self.epoch)
        return CropFlip.draw(len(self.original), generator, self.device)

    def _state(self) -> TrainingState:
        epoch, step = self.epoch, self.step
        return TrainingState(
            epoch=epoch,
            step=step,
            model=self.model,
            original=self.original,
            train=self.train,
            validation=self.validation,
            generator=lambda purpose: self.seeds.generator("defense", purpose, epoch, step),
            note=lambda row: self._note(epoch, row),
            train_copy=self._train_copy,
            long_steps=self._long_steps,
        )

    def _note(self, epoch: int, row: dict[str, Any]) -> None:
        plain = plain_note(self.trainer.name, row, self.model.head.out_features)
        self.result.notes.append({"epoch": epoch, **plain})

    def _train_copy(self, purpose: str, train: Split) -> Classifier:
        self._spend("defense")
        model: Classifier = copy.deepcopy(self.model)
        trainer = replace(
            self.trainer,
            seeds=Seeds(self.seeds.seed("defense", purpose), self.seeds.trial),
            checkpoint=self.checkpoint.part(purpose) if self.checkpoint else None,
            name=f"{self.trainer.name}: {purpose}",
        )
        try:
            result = self.trainer.train_copy(
                purpose, model, train, lambda: trainer.fit(model, train, self.validation)
            )
        except DivergedError as error:
            # The copy's epochs are not the run's.
            raise DivergedError(
                f"the copy trained for {purpose}, in its epoch {error.epoch}: {error}"
            ) from None
        # The parts' clocks instead of this one: they know the sessions before an interruption.
        self.result.seconds["defense"] += sum(result.seconds.values())
        self.result.interruptions += result.interruptions
        self.clock = time.monotonic()
        return model

    def _long_steps(self, purpose: str, total: int, tensors: Mapping[str, Tensor]) -> Iterator[int]:
        steps = LongSteps(
            name=f"{self.trainer.name}: {purpose}",
            epoch=self.epoch,
            report=self.trainer.report,
            should_stop=self.trainer.should_stop,
            checkpoint=self.checkpoint.part(purpose) if self.checkpoint else None,
        )
        yield from steps(total, tensors)
        self.result.seconds["defense"] += steps.seconds
        self.result.interruptions += steps.interruptions
        self.long_steps.append(steps)

    def _spend(self, phase: str) -> None:
        """Book the time since the last booking, after the device has done its work."""
        if is_accelerator(self.device):
            torch.get_device_module(self.device).synchronize(self.device)
        now = time.monotonic()
        self.result.seconds[phase] += now - self.clock
        self.clock = now

    def _save_if_due(self, stop: bool) -> None:
        if self.checkpoint is None:
            if stop:
                raise AbortedError("interrupted; nothing was written, run it again")
            return
        now = time.monotonic()
        if stop or now - self.saved_at >= self.checkpoint.every:
            self._check_left()
            self._spend("training")
            self.result.interruptions += stop
            self.checkpoint.save(self._snapshot(), self.original)
            self.saved_at = now
            while self.long_steps:
                self.long_steps.pop().discard()
        if stop:
            raise InterruptedRunError(
                f"interrupted in epoch {self.epoch + 1} of {self.recipe.epochs} with a checkpoint; "
                f"run the same command to continue ({self.checkpoint.where()})"
            )

    def _snapshot(self) -> Snapshot:
        position = {"epoch": self.epoch, "step": self.step, **vars(self.result)}
        peak = position.pop("peak")
        states = {name: self.optimizer.state[p] for name, p in self.model.named_parameters()}
        momenta = {n: s["momentum_buffer"] for n, s in states.items() if "momentum_buffer" in s}
        tensors = {
            "loss_sum": self.loss_sum,
            **under("model", self.model.state_dict()),
            **under("defense", self.defense.memory),
            **under("peak", peak),
            **under("momentum", momenta),
        }
        return Snapshot(position, tensors, None if self.train is self.original else self.train)

    def _resume(self) -> bool:
        """Continue from the checkpoint if there is one; true when that is inside an epoch."""
        snapshot = self.checkpoint.load(self.original) if self.checkpoint else None
        if snapshot is None:
            return False
        position, tensors = snapshot.position, snapshot.tensors
        self.epoch, self.step = position["epoch"], position["step"]
        names = [f.name for f in fields(FitResult) if f.name != "peak"]
        peak = {name: t.to(self.device) for name, t in part("peak", tensors).items()}
        self.result = FitResult(**{name: position[name] for name in names}, peak=peak)
        self.loss_sum.copy_(tensors["loss_sum"])
        self.model.load_state_dict(part("model", tensors))
        memory = part("defense", tensors)
        self.defense.memory = {name: tensor.to(self.device) for name, tensor in memory.items()}
        momenta = part("momentum", tensors)
        for name, parameter in self.model.named_parameters():
            if name in momenta:
                buffer = torch.empty_like(parameter).copy_(momenta[name])
                self.optimizer.state[parameter]["momentum_buffer"] = buffer
        self.train = snapshot.train if snapshot.train is not None else self.original
        return True
