"""Hold a method, a network or a data set to its contract, in the manner of ``check_estimator``.

Each check runs the real training loop, or the attack, on a tiny problem. From pytest::

    @pytest.mark.parametrize("check", checks_of("gray"), ids=str)
    def test_it_conforms(check):
        check()
"""

import ast
import inspect
import json
import math
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from poisonbench import registry
from poisonbench.attacks.base import (
    AttackCheckpoint,
    AttackTask,
    LabelledImages,
    TargetedTask,
    TriggerTask,
)
from poisonbench.core.errors import InterruptedRunError, UsageError
from poisonbench.core.seeds import Seeds
from poisonbench.core.settings import did_you_mean, options_of
from poisonbench.data.budget import TOLERANCE, outside, overstep, quantise, rounding_distance
from poisonbench.data.splits import Split, digest_tensors
from poisonbench.entries import AttackEntry, DatasetEntry, DefenseEntry, Entry, NetworkEntry
from poisonbench.models.classifier import Classifier, initialise
from poisonbench.plugins import entries_of_file
from poisonbench.training.checkpoint import Checkpoint
from poisonbench.training.recipe import Recipe
from poisonbench.training.state import Defense, FitResult, Oracle
from poisonbench.training.trainer import Trainer

SHAPE, NUM_CLASSES = (3, 16, 16), 4
RECIPE = Recipe(epochs=3, batch_size=16, milestones=(2,), augment="none", precision="float32")
#: Batches of a run of three epochs on 64 images; a defense that trains a copy has more.
STEPS = 12
#: Settings that are numbers of repetitions, which a check needs few of.
REPETITIONS = (
    *("steps", "restarts", "surrogates", "rounds", "epochs_per_round", "batches", "draws"),
    *("noise_steps", "adversary_steps"),
)
#: A method that takes as many times longer than plain training is reported.
SLOWEST = 200
#: Parts of the package from which test images, poisons' rows or other runs can be had.
OUT_OF_REACH = (
    *("poisonbench.runs", "poisonbench.api", "poisonbench.results", "poisonbench.sweep"),
    *("poisonbench.tables", "poisonbench.cli", "poisonbench.data.sources"),
    *("poisonbench.data.artefacts", "poisonbench.data.sample", "poisonbench.data.standard"),
)
#: Names with which one looks into the caller's variables.
INSPECTION = {"_getframe", "currentframe", "get_objects", "get_referrers", "stack", "f_back"}


class ConformanceError(AssertionError):
    """What was expected, what came, what to do."""


@dataclass(frozen=True)
class Check:
    """One promise of the contract, which a call holds something to.

    Raises:
        ConformanceError: on the call, if it is broken.
    """

    name: str
    run: Callable[[], None]

    def __str__(self) -> str:
        return self.name

    def __call__(self) -> None:
        """Hold it to the promise."""
        self.run()


def checks_of(subject: str | Path | Entry, **settings: Any) -> list[Check]:
    """The checks of a name, a Python file with one entry, or an entry.

    Args:
        subject: what is to be checked.
        settings: of a method; others are its defaults, with few repetitions.

    Raises:
        UsageError: an unknown name, a broken plug-in, or a setting that it lacks.
    """
    entry = subject if isinstance(subject, Entry) else entry_of(str(subject))
    module = entry.load()
    if isinstance(entry, DefenseEntry):
        return _named(_DefenseChecks(entry, module, _config(entry, module, settings)))
    if isinstance(entry, AttackEntry):
        return _named(_AttackChecks(entry, module, _config(entry, module, settings)))
    if isinstance(entry, NetworkEntry):
        return _named(_NetworkChecks(entry, module))
    assert isinstance(entry, DatasetEntry)
    return _named(_DatasetChecks(entry, module))


def check_method(subject: str | Path | Entry, **settings: Any) -> None:
    """Run all checks; ConformanceError for the first promise that is broken."""
    for check in checks_of(subject, **settings):
        check()


def entry_of(text: str) -> Entry:
    """The entry of a name, or the one of a file.

    Raises:
        UsageError: there is none, or more than one.
    """
    if text.endswith(".py"):
        entries = entries_of_file(Path(text))
        if len(entries) > 1:
            several = ", ".join(entry.name for entry in entries)
            raise UsageError(f"expected a file with one entry, got {text} with {several}; split it")
        return entries[0]
    tables: list[registry.EntryTable[Any]] = [
        registry.attacks(),
        registry.defenses(),
        registry.networks(),
        registry.datasets(),
    ]
    for table in tables:
        if text in table or text in registry.faults(table):
            entry: Entry = registry.find("something to check", table, text)
            return entry
    names = [name for table in tables for name in table]
    raise UsageError(
        "expected a name of `poisonbench list`, or a file that ends in .py, got "
        f"{text!r}{did_you_mean(text, names)}"
    )


def _named(checks: object) -> list[Check]:
    """A check for each public method, in the order of their names in the class."""
    names = dict.fromkeys(
        name for kind in reversed(type(checks).__mro__) for name in vars(kind) if name[0] != "_"
    )
    return [
        Check(name.replace("_", "-"), method)
        for name in names
        if inspect.ismethod(method := getattr(checks, name))
    ]


def _config(entry: Entry, module: ModuleType, settings: Mapping[str, Any]) -> Any:
    config = module.Config()
    for name in REPETITIONS:
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 2 and name not in settings:
            config = replace(config, **{name: 2})
    try:
        return replace(config, **settings)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{entry.name}: {error}") from None


def _expect(holds: bool, expected: str, got: object, remedy: str) -> None:
    if not holds:
        raise ConformanceError(f"expected {expected}, got {got}; {remedy}")


# The tiny problem


def _split(size: int, seed: int) -> Split:
    """A pattern a class under noise."""
    patterns = torch.randint(
        0, 160, (NUM_CLASSES, *SHAPE), generator=torch.Generator().manual_seed(99)
    )
    noise = torch.randint(0, 96, (size, *SHAPE), generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(size) % NUM_CLASSES
    return Split((patterns[labels] + noise).to(torch.uint8), labels)


def _network(seed: int = 0) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        features = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()
        )
        model = Classifier(features, nn.Linear(6 * 7 * 7, NUM_CLASSES), (0.4,) * 3, (0.2,) * 3)
    initialise(model, torch.Generator().manual_seed(seed))
    return model


@contextmanager
def _global_generators_kept() -> Iterator[None]:
    """Raise if the block has used a global generator."""

    def states() -> tuple[Any, ...]:
        numpy_state: Any = np.random.get_state()
        return torch.get_rng_state().tolist(), random.getstate(), numpy_state[1].tolist()

    before = states()
    yield
    for library, first, second in zip(("torch", "random", "numpy"), before, states(), strict=True):
        _expect(
            first == second,
            "the global generators as they were",
            f"numbers drawn from {library}'s",
            "draw from the generator that the state or task has, as generator=...",
        )


def _finite_json(value: Any, where: str) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConformanceError(
            f"expected finite JSON values in {where}, got {value!r:.80} ({error}); note finite "
            "numbers as Python's, by float() or int()"
        ) from None


class _MethodChecks:
    """What attacks and defenses have in common: options, and what their code reaches."""

    def __init__(self, entry: Entry, module: ModuleType, config: Any) -> None:
        self._entry, self._module, self._build_config = entry, module, config

    def options(self) -> None:
        """Each setting has a help text, and each number bounds."""
        for field, option in zip(
            fields(self._module.Config), options_of(self._module.Config), strict=True
        ):
            _expect(
                bool(option.help),
                f"a help text of {option.name}",
                "none",
                'declare it as setting(default, "What it is.", low=...)',
            )
            kinds = {option.kind, *get_args(option.kind)}
            bounds = field.metadata.get("bounds")
            _expect(
                not kinds & {int, float}
                or (bounds is not None and str(bounds) != "")
                or self._refuses(option.name),
                f"bounds of the number {option.name}",
                "none",
                "give setting(...) low, over, high or under",
            )
        assert is_dataclass(self._module.Config)

    def _refuses(self, name: str) -> bool:
        """Whether the config has a check of its own, which refuses a number far below all."""
        try:
            replace(self._build_config, **{name: -(10**9)})
        except ValueError:
            return True
        return False

    def test_split_and_poison_rows_out_of_reach(self) -> None:
        """The code neither reads data, poisons or records nor looks into its callers."""
        for node in ast.walk(ast.parse(inspect.getsource(self._module))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Attribute) and node.attr in INSPECTION:
                names = ["frames"] if node.attr != "stack" else []
            reached = [name for name in names if name == "frames" or name.startswith(OUT_OF_REACH)]
            _expect(
                not reached,
                "code that sees what the state or task holds",
                f"{', '.join(reached)} in line {getattr(node, 'lineno', '?')}",
                "take images from the state or task alone",
            )


class _DefenseChecks(_MethodChecks):
    def _fit(
        self,
        *,
        checkpoint: Checkpoint | None = None,
        stop_after: int | None = None,
        defense: Defense | None = None,
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
            device=torch.device("cpu"),
            checkpoint=checkpoint,
            should_stop=should_stop,
        )
        model, train, validation = _network(), _split(64, 0), _split(16, 1)
        extended = defense.extend(train, validation)
        result = trainer.fit(model, extended, validation, defense)
        return dict(model.state_dict()), result, defense, batches

    def _build(self) -> Defense:
        defense = self._module.build(self._build_config, RECIPE)
        _expect(
            isinstance(defense, Defense) and hasattr(defense, "memory"),
            "a Defense from build, whose __init__ calls super().__init__()",
            type(defense).__name__,
            "derive it from poisonbench.defenses.base.Defense",
        )
        # As a run does.
        if isinstance(defense, Oracle):
            defense.reveal(torch.arange(64) % 8 == 0)
        return defense  # type: ignore[no-any-return]

    def determinism_by_seed(self) -> None:
        """The same seed gives the same bytes."""
        first, result, _, _ = self._fit()
        second, again, _, _ = self._fit()
        same = all(torch.equal(first[key], second[key]) for key in first)
        _expect(
            same and result.notes == again.notes,
            "the same weights and notes from the same seed",
            "others in a second run",
            "draw from state.generator(purpose) alone, and keep nothing between two instances",
        )

    def global_generator_untouched(self) -> None:
        """No number is drawn from torch's, numpy's or Python's global generator."""
        with _global_generators_kept():
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
            tensors = [t for argument in arguments for t in _tensors_of(argument)]
            before = [tensor.detach().clone() for tensor in tensors]
            returned = hook(*arguments)
            same = all(map(torch.equal, before, tensors))
            _expect(
                same,
                f"what {name} is given as it was",
                "other values in place",
                "work on images.clone(), or with functions whose names do not end in _",
            )
            return returned

        return watched

    def labels_kept(self) -> None:
        """The training set of an epoch has the labels that it was given, added rows apart."""
        defense = self._build()
        train = _split(64, 0)
        extended = defense.extend(train, _split(16, 1))
        _expect(
            torch.equal(extended.labels[:64], train.labels),
            "the labels of the training split first in what extend returns",
            "others",
            "add rows at the end and change no label",
        )
        self._run_or_fail()

    def _run_or_fail(self) -> tuple[FitResult, Defense]:
        try:
            _, result, defense, _ = self._fit()
        except UsageError as error:
            raise ConformanceError(str(error)) from None
        return result, defense

    def resume_to_the_same_bytes(self) -> None:
        """A run that is stopped after any step and continued ends in the same bytes."""
        weights, result, _, batches = self._fit()
        for stop in range(1, batches, max(1, batches // STEPS)):
            with tempfile.TemporaryDirectory() as folder:
                checkpoint = Checkpoint(Path(folder), "run")
                try:
                    self._fit(checkpoint=checkpoint, stop_after=stop)
                except InterruptedRunError:
                    continued, again, _, _ = self._fit(checkpoint=checkpoint)
                else:
                    continue
            same = all(torch.equal(weights[key], continued[key]) for key in weights)
            _expect(
                same and result.notes == again.notes,
                "the same weights and notes from a run stopped and continued",
                f"others after a stop at batch {stop}",
                "keep what must last as tensors in self.memory, and nowhere else",
            )

    def finite_record(self) -> None:
        """What goes into the record is finite and plain."""
        result, defense = self._run_or_fail()
        _finite_json(result.notes, "state.note")
        _expect(
            all(math.isfinite(row["loss"]) for row in result.curve),
            "a finite training loss",
            [row["loss"] for row in result.curve],
            "look at batch_loss and perturb_batch",
        )
        keep = defense.memory.get("keep")
        _expect(
            keep is None or (keep.dtype is torch.bool and keep.ndim == 1),
            'memory["keep"] of shape (N,) torch.bool',
            keep if keep is None else (tuple(keep.shape), keep.dtype),
            "keep a mask of the rows",
        )

    def memory(self) -> None:
        """What lasts is tensors in ``memory``, no more than sixteen times the images."""
        _, defense = self._run_or_fail()
        memory: dict[str, Any] = dict(defense.memory)
        wrong = [name for name, value in memory.items() if not isinstance(value, Tensor)]
        _expect(not wrong, "tensors in self.memory", wrong, "make tensors of them")
        size = sum(tensor.nbytes for tensor in defense.memory.values())
        most = 16 * 4 * 64 * math.prod(SHAPE)
        _expect(
            size <= most,
            f"at most {most} bytes in self.memory for 64 images",
            size,
            "keep rows and numbers, not every batch",
        )

    def speed(self) -> None:
        """The time beside plain training's."""
        start = time.process_time()
        self._fit(defense=Defense())
        plain = time.process_time() - start
        self._fit()
        seconds = time.process_time() - start - plain
        _expect(
            seconds <= SLOWEST * plain + 5,
            f"at most {SLOWEST} times plain training's {plain:.2f} s and 5 s",
            f"{seconds:.1f} s",
            "pass many images at once and index tensors instead of looping over images",
        )


def _tensors_of(value: Any) -> list[Tensor]:
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


class _StoppedAttackError(Exception):
    """An attack was stopped after a checkpoint."""


class _Checkpoint(AttackCheckpoint):
    """Saves after each step, in memory, and stops after one of them."""

    def __init__(self, stop_after: int, generators: list[torch.Generator]) -> None:
        self.stop_after, self.generators = stop_after, generators
        self.saved: tuple[dict[str, Any], dict[str, Tensor], list[Tensor]] | None = None
        self.calls = 0

    def load(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        if self.saved is None:
            return None
        position, tensors, states = self.saved
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state)
        return position, tensors

    def save_if_due(self, position: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.calls += 1
        if self.calls == self.stop_after:
            copies = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
            states = [generator.get_state() for generator in self.generators]
            self.saved = (json.loads(json.dumps(position)), copies, states)
            raise _StoppedAttackError


class _AttackChecks(_MethodChecks):
    def _task(self, seed: int = 0) -> AttackTask | TargetedTask:
        assert isinstance(self._entry, AttackEntry)
        train = _split(64, 0)
        if not self._entry.scenario:
            validation = _split(16, 1)
            task = AttackTask(
                images=train.images.float() / 255,
                labels=train.labels.clone(),
                num_classes=NUM_CLASSES,
                report=self._report,
                validation=LabelledImages(validation.images.float() / 255, validation.labels),
                surrogate=lambda: _frozen(0),
                untrained=lambda: _network(seed).train(),
                generator=torch.Generator().manual_seed(seed),
            )
            if not self._entry.has_trigger:
                return task
            values = {field.name: getattr(task, field.name) for field in fields(task)}
            return TriggerTask(**values, stamp=partial(self._stamp, seed))
        intended = torch.tensor([1, 2])
        rows = torch.stack([(train.labels == label).nonzero()[:4, 0] for label in intended])
        return TargetedTask(
            images=train.images[rows].float() / 255,
            labels=train.labels[rows],
            num_classes=NUM_CLASSES,
            report=self._report,
            rows=rows,
            targets=_split(2, 2).images.float() / 255,
            intended=intended,
            train=train,
            epochs=3,
            snapshots=lambda number, epochs: [_frozen(100 * number + end) for end in epochs],
            generators=[torch.Generator().manual_seed(seed + target) for target in range(2)],
        )

    def _stamp(self, seed: int, images: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        stamped: Tensor = self._module.stamp(images, self._build_config, generator)
        return stamped

    def _report(self, done: int, total: int) -> None:
        self._progress = (done, total)

    def _craft(self, task: AttackTask | TargetedTask) -> Tensor:
        self._progress = (0, 1)
        poisons: Any = self._module.craft(task, self._build_config)
        shape = tuple(task.images.shape)
        fits = isinstance(poisons, Tensor) and tuple(poisons.shape) == shape
        _expect(
            fits and poisons.dtype is torch.float32,
            f"float32 poisons of shape {shape}",
            (tuple(poisons.shape), poisons.dtype) if isinstance(poisons, Tensor) else poisons,
            "return one poison for each of task.images",
        )
        assert isinstance(poisons, Tensor)
        return poisons

    def determinism_by_seed(self) -> None:
        """The same seed gives the same bytes."""
        same = torch.equal(self._craft(self._task()), self._craft(self._task()))
        _expect(
            same,
            "the same poisons from the same seed",
            "others in a second call",
            "draw from the task's generators alone, and keep nothing between two calls",
        )

    def global_generator_untouched(self) -> None:
        """No number is drawn from torch's, numpy's or Python's global generator."""
        with _global_generators_kept():
            self._craft(self._task())

    def inputs_not_edited(self) -> None:
        """The task's images and labels stay as they are."""
        task = self._task()
        tensors = [
            value
            for field in fields(task)
            if isinstance(value := getattr(task, field.name), Tensor)
        ]
        before = [tensor.clone() for tensor in tensors]
        self._craft(task)
        _expect(
            all(map(torch.equal, before, tensors)),
            "the task's images and labels as they were",
            "other values in place",
            "work on task.images.clone(), or with functions whose names do not end in _",
        )

    def budget_after_rounding(self) -> None:
        """Poisons in [0, 1] are within the budget before and after the rounding to 256 levels."""
        task, config = self._task(), self._build_config
        poisons, clean = self._craft(task).flatten(0, -4), task.images.flatten(0, -4)
        base, norm = (clean * 255).round().to(torch.uint8), config.norm
        remedy = "hold the change to config.budget, then the image to [0, 1]"
        over = overstep(poisons, base, config.budget, norm)
        _expect(
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
        _expect(over <= allowed, f"the {norm} budget after rounding", f"{over:.3g} more", remedy)

    def finite_record(self) -> None:
        """Poisons are finite and in [0, 1], detached, and progress is reported."""
        poisons = self._craft(self._task())
        _expect(
            bool(poisons.isfinite().all())
            and 0 <= float(poisons.min()) <= float(poisons.max()) <= 1,
            "finite poisons in [0, 1]",
            f"{float(poisons.min())} to {float(poisons.max())}",
            "clamp to [0, 1]",
        )
        _expect(not poisons.requires_grad, "poisons without a graph", "one", "detach them")
        done, total = self._progress
        # An attack may end early, when it has reached what it is after.
        _expect(
            0 < done <= total,
            "task.report(done, total) after each step",
            (done, total),
            "report each step, with at most the total",
        )

    def resume_to_the_same_bytes(self) -> None:
        """An attack that saves checkpoints continues from any to the same bytes."""
        whole, stop = self._craft(self._task()), 1
        while stop <= 20:
            task = self._task()
            checkpoint = _Checkpoint(stop, _generators_of(task))
            try:
                self._craft(replace(task, checkpoint=checkpoint))
                return
            except _StoppedAttackError:
                task = self._task()
            resumed = _Checkpoint(0, _generators_of(task))
            resumed.saved = checkpoint.saved
            _expect(
                torch.equal(self._craft(replace(task, checkpoint=resumed)), whole),
                "the same poisons from an attack stopped and continued",
                f"others after a stop at checkpoint {stop}",
                "give save_if_due all that the next step depends on",
            )
            stop += 1

    def speed(self) -> None:
        """The time beside plain training's of three epochs on the same images."""
        start = time.process_time()
        trainer = Trainer(recipe=RECIPE, seeds=Seeds(), device=torch.device("cpu"))
        trainer.fit(_network(), _split(64, 0), _split(16, 1))
        plain = time.process_time() - start
        self._craft(self._task())
        seconds = time.process_time() - start - plain
        _expect(
            seconds <= SLOWEST * plain + 5,
            f"at most {SLOWEST} times plain training's {plain:.2f} s and 5 s",
            f"{seconds:.1f} s",
            "pass many images at once and index tensors instead of looping over images",
        )


def _frozen(seed: int) -> Classifier:
    return _network(seed).eval().requires_grad_(False)


def _generators_of(task: AttackTask | TargetedTask) -> list[torch.Generator]:
    return [task.generator] if isinstance(task, AttackTask) else list(task.generators)


class _NetworkChecks:
    """A network: features of the shape that it says, and weights by the seed."""

    def __init__(self, entry: NetworkEntry, module: ModuleType) -> None:
        self._entry, self._builder = entry, getattr(module, entry.builder)

    def _layers(self, shape: tuple[int, int, int]) -> tuple[nn.Module, int]:
        with torch.random.fork_rng(devices=[]):
            layers: tuple[nn.Module, int] = self._builder(*shape)
        return layers

    def feature_shape(self) -> None:
        """(B, C, H, W) become (B, F), for grey and colour images."""
        for shape in ((1, 28, 28), (3, 32, 32)):
            layers, width = self._layers(shape)
            got = tuple(layers.eval()(torch.zeros(2, *shape)).shape)
            _expect(
                got == (2, width), f"features (2, {width}) of {shape}", got, "end in nn.Flatten()"
            )

    def determinism_by_seed(self) -> None:
        """The same generator gives the same initial weights."""
        digests = []
        for _ in range(2):
            layers, _width = self._layers((3, 32, 32))
            initialise(layers, torch.Generator().manual_seed(0))
            digests.append(digest_tensors(*layers.state_dict().values()))
        _expect(
            digests[0] == digests[1],
            "the same initial weights from the same seed",
            "others",
            "use layers of convolution, batch norm and linear kind, or constant parameters",
        )

    def gradient(self) -> None:
        """Every weight has a finite gradient."""
        layers, _ = self._layers((3, 32, 32))
        layers(
            torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        ).sum().backward()
        bad = [
            n for n, p in layers.named_parameters() if p.grad is None or not p.grad.isfinite().all()
        ]
        _expect(
            not bad, "a finite gradient of every weight", bad, "remove layers that are not used"
        )


class _DatasetChecks:
    """A data set: the same images each time, and labels of its classes."""

    def __init__(self, entry: DatasetEntry, module: ModuleType) -> None:
        self._entry, self._module = entry, module

    def _load(self) -> Any:
        from poisonbench.core.folders import data_folder

        if self._entry.takes_path:
            raise UsageError(f"expected a data set without a path, got {self._entry.pattern}")
        return self._module.load(self._entry.name, Path(), data_folder())

    def determinism(self) -> None:
        """Two calls give the same images, and no global generator is used."""
        with _global_generators_kept():
            first, second = self._load(), self._load()
        same = first.train.digest() == second.train.digest()
        _expect(same, "the same images from a second call", "others", "draw by a fixed seed")

    def labels(self) -> None:
        """Every class has images in both splits."""
        raw = self._load()
        count = len(raw.class_names)
        for split in (raw.train, raw.test):
            present = sorted(set(split.labels.tolist()))
            _expect(
                present == list(range(count)), f"labels 0..{count - 1}", present, "mend class_names"
            )
