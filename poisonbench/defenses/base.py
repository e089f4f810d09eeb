'''The contract of a defense: all that is needed to write one.

A defense is one module, known by a :class:`~poisonbench.entries.DefenseEntry`: a row of the
registry or, of other people's, what the module holds as ENTRY (docs/own-methods.md). The module
holds

Config    a frozen, keyword-only dataclass that derives from ``BaseConfig``. Each field is a
          :func:`~poisonbench.core.settings.setting`: an option of the command line, a parameter of
          the Python API and part of what names the run. It is a bool, int, float, str or
          ``Literal``, one of them or None, or a tuple of one. Defaults are the paper's, for
          CIFAR-10.
PROFILES  if there, settings by profile and preset, ``{"paper": {"mnist": {"steps": 40}}}``. "paper"
          holds unless ``--profile`` names another. A data set's presets apply one after the other.
VERSION   a whole number, raised by hand when the same settings come to give other results; runs
          are then done anew.
build     ``build(config, recipe)`` returns a :class:`Defense` for one run, which trains by that
          recipe; ValueError where the two do not go together. A class that derives from
          :class:`Defense` is one: its ``config`` and ``recipe`` are these.
RECIPE_CHANGES  if there, what a profile changes in the training recipe, as ``PROFILES``.
work      if there, ``work(config, recipe, sizes)`` says what it costs beyond plain training
          (``core/work.py``): which images pass which network, for ``sweep plan --estimate``.

A defense edits the one training loop, which every method shares, in the hooks of :class:`Defense`.
It needs none; a run calls them in this order:

check_run(scenario, given)             once, before a poison is crafted: refuse a scenario (scratch,
                                       transfer, finetune) or settings that make no sense
extend(train, validation)              once: a split with rows added at its end
pretraining()                          where the network is pretrained on clean data: the defense
                                       under which that is done
start_epoch(state)                     before each epoch: its training set, ``state.train`` or its
                                       ``with_images(images)``, ``with_keep(rows)``
perturb_batch(state, images, labels)   for each batch (B, C, H, W), (B,), after augmentation: the
                                       images that it is fitted on
batch_loss(state, logits, labels)      for each batch: the loss of the logits (B, K), a scalar

Units       Images are in [0, 1], not normalised (networks normalise); uint8 in a split, float32 in
            arithmetic: ``train.pixels(rows)``. Labels are int64 and stay as they are. A method that
            takes images out of [0, 1] on purpose says ``keeps_range = False`` in its class.
Seen        :class:`TrainingState`: ``epoch`` and ``step`` (both from 0), ``model`` in training,
            ``train`` and the ``original`` training set, the clean ``validation`` split. Not seen:
            the test split, which images are poisoned, the attack. Its tensors stay as they are:
            work on clones.
Randomness  comes from ``state.generator(purpose)`` alone, on the CPU and seeded by trial, epoch
            and step: draw there, then ``send`` (``core/devices.py``), which does not wait
            for a GPU. Initial weights, batches and augmentation are those of every defense of the
            trial.
Model       ``state.model`` is in train mode and must be left as it is. For passes of a frozen one
            take ``models/folding.py``'s copy. ``state.train_copy`` trains another network.
Minutes     of work before an epoch go through ``state.long_steps``: shown, interrupted, continued.
Memory      One instance serves one run. What must last goes into ``self.memory`` as tensors, which
            checkpoints save: a killed run resumes to the same bytes. Nothing else is kept. ``keep``
            and ``selected`` in it go into the record. Everything is on the images' device; passes
            of ``pass_size`` images (``models/classifier.py``) keep what is held at once small.
Figures     ``state.note({...})`` adds a row of JSON values to the record; numbers may be numpy's.
            ``classes_spared`` and ``classes_emptied`` in it are lists of classes that the record
            warns of: kept whole by a filter, or emptied.
Errors      ValueError from Config, ``build`` and ``check_run``, DivergedError
            (``poisonbench.core.errors``) for numbers that are not finite in a hook, each with what
            was expected, what came and what to do.

The harness does the rest: it reads the options, names the run by them, crafts or finds the poison,
trains, evaluates on the test split once, after the last epoch, and keeps a record.

A whole defense::

    """Blur: train on images that are blended with their mean pixel."""

    from dataclasses import dataclass

    from torch import Tensor

    from poisonbench.core.settings import BaseConfig, Profiles, setting
    from poisonbench.defenses.base import Defense, TrainingState

    VERSION = 1
    PROFILES: Profiles = {"paper": {}}


    @dataclass(frozen=True, kw_only=True)
    class Config(BaseConfig):
        share: float = setting(0.5, "Share of the mean pixel.", low=0, under=1)


    class Blur(Defense):
        config: Config

        def perturb_batch(self, state: TrainingState, images: Tensor, labels: Tensor) -> Tensor:
            return images.lerp(images.mean((2, 3), keepdim=True), self.config.share)


    build = Blur
'''

from poisonbench.training.recipe import Recipe
from poisonbench.training.state import Defense, Oracle, TrainingSet, TrainingState

__all__ = ["Defense", "Oracle", "Recipe", "TrainingSet", "TrainingState"]
