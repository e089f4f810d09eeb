'''The contract of an attack: all that is needed to write one.

An attack is one module, known by an :class:`~poisonbench.entries.AttackEntry`: a row of the
registry or, of other people's, what the module holds as ENTRY (docs/own-methods.md). The entry says
whether it is targeted or has a trigger and whether it wants surrogates. The module holds

Config    a frozen, keyword-only dataclass that derives from :class:`AttackConfig`. Each field is a
          :func:`~poisonbench.core.settings.setting`: an option of the command line, a parameter of
          the Python API and part of what names the poison. It is a bool, int, float, str or
          ``Literal``, one of them or None, or a tuple of one. Defaults are the paper's, for
          CIFAR-10. ``epsilon`` is there already; declare it again for another default. One whose
          budget is not L-infinity derives from :class:`BudgetConfig` or says its ``norm``.
PROFILES  if there, settings by profile and preset, ``{"paper": {"mnist": {"steps": 40}}}``. "paper"
          holds unless ``--profile`` names another. A data set's presets apply one after the other.
VERSION   a whole number, raised by hand when the same settings come to give other poisons, which
          are then crafted anew, and their runs done again. ``ADAPTIVE_VERSION``, if there, is that
          of poisons crafted with a defense in the loop.
craft     ``craft(task, config)`` returns float32 poisons in [0, 1], (P, C, H, W) for all images of
          an :class:`AttackTask`, the drawn ones of a :class:`TriggerTask`, or (T, P, C, H, W) of
          a :class:`TargetedTask`.
stamp     of a trigger, ``stamp(images, config, generator)`` returns images (N, C, H, W) in [0, 1]
          with the trigger on them; its Config derives from :class:`TriggerConfig`.
choose    of a trigger whose entry says ``chooses_images``, ``choose(task, config, count)`` returns
          which of the task's images become poisons, (count,) int64 in rising order; the task has
          all images of the target class then. Of others they are drawn.
RECIPE_CHANGES  if there, what a profile changes in the recipe of the surrogates, as ``PROFILES``.
work      if there, ``work(config, recipe, sizes)`` says what it costs (``core/work.py``): which
          images pass which network, for ``sweep plan --estimate``.

An untargeted attack lowers the accuracy of whoever trains on its poisons. It is crafted once, for
every training image, and runs draw the share that is poisoned. A targeted attack has one test image
taken for a class of its choice; it gets few base images a target, and T targets in one call. An
attack with a trigger has every image that bears the trigger taken for one class; it gets the share
of the training images that is poisoned. Test images are stamped when a victim is judged, and only
then; those of the target class do not count, and where ``config.source`` names a class only its own
do.

Units       Images, epsilon and steps are in pixels of [0, 1], not normalised: networks normalise.
Budget      ``config.budget`` in ``config.norm``: of linf no pixel may change by more, of l2 no
            image, of l0 no more pixels; a convolution has none. It is epsilon in linf, unless
            Config says else. What leaves it is said and clipped. Poisons are then rounded to 256
            grey levels, which may add to an L2 distance half a level a value.
Labels      Poisons keep theirs, but those of a trigger without ``clean_label``: the harness gives
            them the target class, and the artefact states it.
Seen        clean images and labels, and surrogates trained on clean data.
            Not seen: test images but the target, the victim's defense, weights and seeds. What an
            adaptive attack expects of a defense is ``task.assumed``.
Randomness  comes from the task's generators alone. They are on the CPU: draw there, then ``send``
            (``core/devices.py``), which does not wait for a GPU. What becomes of a target depends
            on its own rows and its own generator.
Memory      Everything is on the images' device. Networks get ``pass_size`` images at a time
            (``models/classifier.py``), frozen copies from ``models/folding.py`` being fastest.
Progress    ``task.report(done, total)`` after each step; a signal ends the attack there.
Checkpoint  An attack of more than minutes calls ``task.checkpoint.load()`` before its loop and
            ``save_if_due`` after each step; killed, it continues to the same bytes.
Errors      ValueError from Config; from ``craft`` UsageError for a task that it cannot do and
            DivergedError for numbers that are not finite (``poisonbench.core.errors``), each with
            what was expected, what came and what to do. ``warnings.warn`` of a weak poison.

The harness does the rest: it reads the options, names the poison by them, and if there is none of
that name calls ``craft`` once, checks, rounds and measures what it returns, and keeps it.

A whole attack::

    """Brighten: the higher an image's class, the brighter the image."""

    from dataclasses import dataclass

    from torch import Tensor

    from poisonbench.attacks.base import AttackConfig, AttackTask
    from poisonbench.core.settings import Profiles, setting

    VERSION = 1
    PROFILES: Profiles = {"paper": {"mnist": {"epsilon": 76 / 255}}}


    @dataclass(frozen=True, kw_only=True)
    class Config(AttackConfig):
        power: float = setting(1.0, "How fast brightness grows with the class.", over=0)


    def craft(task: AttackTask, config: Config) -> Tensor:
        share = (task.labels / task.num_classes) ** config.power
        task.report(1, 1)
        return (task.images + config.epsilon * share[:, None, None, None]).clamp(0, 1)
'''

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from poisonbench.core.settings import BaseConfig, setting
from poisonbench.data.splits import Split
from poisonbench.models.classifier import Classifier
from poisonbench.specs import Norm


@dataclass(frozen=True, kw_only=True)
class BudgetConfig(BaseConfig):
    """What the config of every attack derives from; one with an epsilon from AttackConfig."""

    @property
    def norm(self) -> Norm:
        """What the budget bounds: linf, l2, l0, or nothing of a convolution."""
        return "linf"

    @property
    def budget(self) -> float | None:
        """Bound of all that is done to an image, in the norm's unit; None of a convolution alone.

        It is in pixels of [0, 1] for linf and l2, and a number of pixels for l0.
        """
        return None


@dataclass(frozen=True, kw_only=True)
class AttackConfig(BudgetConfig):
    """What the config of an attack with an epsilon derives from."""

    epsilon: float = setting(8 / 255, "L-infinity budget, in pixels of [0, 1].", over=0, high=1)

    @property
    def budget(self) -> float:
        """Bound of all that is done to an image, in pixels of [0, 1]."""
        return self.epsilon


@dataclass(frozen=True, kw_only=True)
class TriggerConfig(BudgetConfig):
    """What the config of every attack with a trigger derives from."""

    target_class: int = setting(0, "Class that images with the trigger shall be given.", low=0)
    clean_label: bool = setting(
        False,
        "Poison images of the target class alone, which keep their label; by default images of all "
        "classes, which get it.",
    )
    control: bool = setting(
        False,
        "Leave the images as they are, and judge by the trigger all the same: what it does to a "
        "network that has seen no poison.",
        extension=True,
    )

    @property
    def keeps_labels(self) -> bool:
        """Whether poisons are images of the target class alone, with their own label."""
        return self.clean_label or self.control

    @property
    def budget(self) -> float:
        """L-infinity bound of all that is done to a poison, in [0, 1]: any change of a pixel."""
        return 1.0

    @property
    def test_budget(self) -> float:
        """That of all that is done to a test image: any change of a pixel."""
        return 1.0

    @property
    def source(self) -> int | None:
        """The class whose images shall be given the target class; None: all but that."""
        return None


class AttackCheckpoint:
    """A checkpoint of an attack in progress; this one keeps nothing.

    An attack that does not call :meth:`load` is ended by a signal with nothing saved.
    """

    def load(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """What was saved last: JSON values, and tensors on the CPU; None to start at the start.

        The task's generators are put back to where they were then.
        """
        return None

    def save_if_due(self, position: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Save when it is time to, and after a signal.

        Args:
            position: JSON values, by any name but "run".
            tensors: all that the next step depends on, but for the task and its generators.

        Raises:
            InterruptedRunError: saved after a signal; the same command continues.
        """


#: For whoever needs none.
NO_CHECKPOINT = AttackCheckpoint()


@dataclass(frozen=True)
class LabelledImages:
    """Images (N, C, H, W), float32 in [0, 1], on the device, and their labels (N,), int64."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True)
class Task:
    """What every attack may look at. There is no test split here, and no victim's defense."""

    #: The clean images that it may change, float32 in [0, 1], on the device.
    images: Tensor
    #: Their own labels, int64.
    labels: Tensor
    #: K.
    num_classes: int
    #: Called with (steps done, steps in all) to show progress.
    report: Callable[[int, int], None]
    #: Where an attack may save itself between two steps, with all its targets.
    checkpoint: AttackCheckpoint = NO_CHECKPOINT
    #: Settings of the defense that an adaptive attack's ``config.against`` names, its defaults for
    #: the data set; None where it names none.
    assumed: Any = None


@dataclass(frozen=True, kw_only=True)
class AttackTask(Task):
    """Everything an untargeted attack may look at: images (P, C, H, W), labels (P,)."""

    #: Clean images that are not among those, which the attacker trusts and may choose among its
    #: results by; no victim is trained or tested on them.
    validation: LabelledImages
    #: Returns the attacker's model, trained on clean data, in eval mode and frozen; an attack that
    #: needs none never calls it.
    surrogate: Callable[[], Classifier]
    #: Returns the attacker's network in train mode, with initial weights drawn from ``generator``:
    #: for an attack whose entry says ``trains_itself``.
    untrained: Callable[[], Classifier]
    #: On the CPU, the only source of randomness.
    generator: torch.Generator


@dataclass(frozen=True, kw_only=True)
class TriggerTask(AttackTask):
    """Everything an attack with a trigger may look at: the images drawn to be poisons.

    With ``clean_label`` they are of the target class alone.
    """

    #: (P,) int64, where the images lie in ``train``.
    rows: Tensor
    #: The clean training split, uint8, on the device.
    train: Split
    #: ``trained(number, poisons)`` gives the attacker's model of that number, trained from scratch
    #: with poisons (P, C, H, W) in [0, 1], rounded to grey levels, in the place of the task's
    #: images, or with None on clean data; in eval mode, frozen, on the device. Numbers differ in
    #: initial weights and batches.
    trained: Callable[[int, Tensor | None], Classifier]
    #: The module's stamp with this config, (N, C, H, W) in [0, 1] to the same: the one trigger that
    #: test images get.
    stamp: Callable[[Tensor], Tensor]
    #: What the module's ``learn(task, config)`` gave, (C, H, W) float32, where the entry says
    #: ``learns_trigger``; its ``stamp`` gets it in the place of a generator, and None before.
    pattern: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class TargetedTask(Task):
    """Everything a targeted attack may look at, for T targets at once: T attacks side by side.

    The base images are (T, P, C, H, W), their labels (T, P). No victim's seed, weight or batch is
    here. What a target's poisons become depends on that target's row of each tensor and on its
    generator alone, not on its neighbours.
    """

    #: (T, P) int64, where the images lie in ``train``.
    rows: Tensor
    #: (T, C, H, W) float32 in [0, 1], the test images that shall be misclassified.
    targets: Tensor
    #: (T,) int64, the classes that they shall be given.
    intended: Tensor
    #: The clean training split, uint8, on the device.
    train: Split
    #: Those of a full training of a surrogate.
    epochs: int
    #: ``snapshots(number, epochs)`` gives the attacker's model of that number after each of these
    #: numbers of epochs, trained on clean data; in eval mode, frozen, on the device. Numbers differ
    #: in initial weights and batches. All targets share them.
    snapshots: Callable[[int, Sequence[int]], list[Classifier]]
    #: T, on the CPU, the only source of randomness.
    generators: Sequence[torch.Generator]
