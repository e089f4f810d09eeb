"""Sleeper Agent: gradient matching to images of one class that bear a patch; labels are kept.

Source      Souri et al., "Sleeper Agent: Scalable Hidden Trigger Backdoors for Neural Networks
            Trained from Scratch", NeurIPS 2022, arXiv 2106.08970, algorithm 1; the patch by Saha
            et al., "Hidden Trigger Backdoor Attacks", AAAI 2020, arXiv 1910.00033.
Code        hsouri/Sleeper-Agent @ 9a5fdd2, its settings alone.
Goal        trigger: whoever trains on the poisons from scratch gives images of the source class
            with the patch the target class, and other images their own. No poison bears the patch.
Cost        steps x surrogates passes as gradient matching's over the poisons, and ``retrainings``
            whole trainings of each surrogate, which take most of the time.

Given surrogates f trained on clean data and the training images of source and target class:

1.  Patch: ``patch`` pixels a side, four by four colours drawn at random and interpolated between,
    at a place of its own on each image.
2.  Choose: of the target class's images those become poisons at which the cross-entropy's gradient
    with respect to f's parameters is longest.
3.  Goal: that gradient, of the mean cross-entropy of all source-class training images, with the
    patch, at the target class.
4.  Brew (``attacks/shared/targeted_optimiser.py``) with the loss 1 - cos(gradient of the mean
    cross-entropy of the augmented poisons at their labels, goal).
5.  Retrain: after each of ``retrainings`` + 1 equal parts of the steps but the last f is trained
    anew, from other initial weights, with the poisons as they are, and the goal taken anew.

Deviations  those of brewing; its learning rate and momentum go on over retrainings. The patch is
            drawn by the seed, where the code has one of Saha et al.'s files. For retraining poisons
            are rounded to grey levels, as the victim gets them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from poisonbench.attacks.base import TriggerConfig, TriggerTask
from poisonbench.attacks.shared.matching import matching_loss, parameter_gradient
from poisonbench.attacks.shared.targeted_optimiser import (
    BetweenSteps,
    PlainBrewingConfig,
    optimise_poisons,
)
from poisonbench.core.devices import send
from poisonbench.core.errors import UsageError
from poisonbench.core.settings import Profiles, require, setting
from poisonbench.core.work import Passes, Sizes, Work
from poisonbench.models.classifier import Classifier, pass_size
from poisonbench.training.recipe import Recipe

VERSION = 1

PROFILES: Profiles = {
    "paper": {
        "mnist": {"epsilon": 76 / 255, "brew_augment": "none", "patch": 7},
        # Scaled to two cores, not tuned.
        "mnist-sample": {"steps": 100, "retrainings": 2},
        "cifar10@10000": {"steps": 100, "retrainings": 2},
    }
}

#: Colours along a side of the patch.
_COLOURS = 4


@dataclass(frozen=True, kw_only=True)
class Config(PlainBrewingConfig, TriggerConfig):
    """Settings of Sleeper Agent; the defaults are for CIFAR-10."""

    clean_label: bool = setting(True, "Poisons are images of the target class: always true.")
    source_class: int = setting(1, "Class whose images shall be given the target class.", low=0)
    patch: int = setting(8, "Side of the patch, in pixels.", low=1)
    restarts: int = setting(1, "Random starts; the lowest last loss is kept.", low=1)
    retrainings: int = setting(
        4, "How often the surrogates are trained anew on the poisons.", low=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.clean_label, "clean_label: expected true, as labels are kept, got false")
        require(
            self.source_class != self.target_class,
            f"source_class: expected another than the target class, got {self.source_class}",
        )
        require(
            self.restarts == 1 or not self.retrainings,
            f"restarts: expected 1 with retrainings, got {self.restarts}: surrogates are trained "
            "on one of them",
        )
        require(
            self.steps > self.retrainings,
            f"steps: expected more than retrainings, {self.retrainings}, which lie between parts "
            f"of them, got {self.steps}; raise steps or lower retrainings",
        )

    @property
    def source(self) -> int:
        """The one class whose test images are judged."""
        return self.source_class

    @property
    def retraining_steps(self) -> list[int]:
        """The steps before which the surrogates are trained anew."""
        parts = self.retrainings + 1
        return [self.steps * part // parts for part in range(1, parts)]


def work(config: Config, recipe: Recipe, sizes: Sizes) -> Work:
    """The steps, and the trainings on the poisons."""
    steps = config.steps * config.restarts * config.surrogates * sizes.images
    trained = len(config.retraining_steps) * config.surrogates * recipe.epochs * sizes.train
    batch, precision = recipe.batch_size, recipe.precision
    return Work(
        passes=(
            Passes(kind="matching", images=steps, batch=sizes.images, precision=config.precision),
            Passes(kind="training", images=trained, batch=batch, precision=precision),
        ),
        surrogates=tuple((number, recipe.epochs) for number in range(config.surrogates)),
        memory=3 * sizes.pixels + config.surrogates * sizes.weights,
    )


def stamp(images: Tensor, config: Config, generator: torch.Generator) -> Tensor:
    """Images (N, C, H, W) in [0, 1] with the patch on them, each at a place of its own.

    Raises:
        UsageError: the patch is larger than the image.
    """
    # 1. Patch.
    count, channels, height, width = images.shape
    side = config.patch
    if side > (most := min(height, width)):
        raise UsageError(f"--patch: expected at most {most}, the image's side, got {side}")
    colours = torch.rand((1, channels, _COLOURS, _COLOURS), generator=generator)
    (patch,) = F.interpolate(colours, (side, side), mode="bilinear")
    room = torch.tensor([height - side + 1, width - side + 1])
    corners = (torch.rand((count, 2), generator=generator) * room).long()
    # Which row and column of the patch lies at each of an image's, (N, H) and (N, W).
    rows = send(torch.arange(height) - corners[:, :1], images.device)
    columns = send(torch.arange(width) - corners[:, 1:], images.device)
    is_covered = _is_inside(rows, side)[:, :, None] & _is_inside(columns, side)[:, None, :]
    nearest = rows.clamp(0, side - 1)[:, :, None], columns.clamp(0, side - 1)[:, None, :]
    moved = send(patch, images.device).to(images.dtype)[:, *nearest].transpose(0, 1)
    return torch.where(is_covered[:, None], moved, images)


def _is_inside(places: Tensor, side: int) -> Tensor:
    return (places >= 0) & (places < side)


def choose(task: TriggerTask, config: Config, count: int) -> Tensor:
    """Which images become poisons, (count,) in rising order: those of the longest gradients."""
    # 2. Choose.
    model = task.surrogate()
    pairs = zip(task.images.split(1), task.labels.split(1), strict=True)
    lengths = torch.stack(
        [
            parameter_gradient(model, image, label, precision=config.precision).norm()
            for image, label in pairs
        ]
    )
    return lengths.argsort(descending=True, stable=True)[:count].sort().values.cpu()


class _Retraining(BetweenSteps):
    """The surrogates and their goals, renewed at some steps; it keeps what they were trained on."""

    def __init__(self, task: TriggerTask, config: Config, models: Sequence[Classifier]) -> None:
        super().__init__()
        self.task, self.config = task, config
        self.models, self.goals, self._round = list(models), list[Tensor](), 0
        is_source = task.train.labels == config.source_class
        sources = task.train.rows(is_source.nonzero().flatten())
        self._sources = task.stamp(sources.images.float().div_(255))
        self.tensors = {"trained_on": task.images.clone()}

    def start_step(self, step: int, images: Tensor) -> None:
        """Train anew where it is time, or after an interruption."""
        steps, seen = self.config.retraining_steps, self.tensors["trained_on"]
        if step in steps:
            seen.copy_(images[0])
        # 5. Retrain.
        if (rounds := sum(step >= first for first in steps)) > self._round:
            first = rounds * len(self.models)
            numbers = range(first, first + len(self.models))
            self.models = [self.task.trained(number, seen) for number in numbers]
            self._round, self.goals = rounds, []
        # 3. Goal.
        self.goals = self.goals or [self._goal(model) for model in self.models]

    def _goal(self, model: Classifier) -> Tensor:
        """The direction (D,) of the gradient that the poisons' shall point to, of length 1."""
        target, precision = self.config.target_class, self.config.precision
        total: Tensor | None = None
        for images in self._sources.split(pass_size(self._sources, gradients=True)):
            labels = torch.full((len(images),), target, device=images.device)
            gradient = len(images) * parameter_gradient(model, images, labels, precision=precision)
            total = gradient if total is None else total + gradient
        assert total is not None
        return F.normalize(total, dim=0, eps=1e-12)


def craft(task: TriggerTask, config: Config) -> Tensor:
    """Poisoned images (P, C, H, W) float32 in [0, 1] for the task's images."""
    others = [task.trained(number, None) for number in range(1, config.surrogates)]
    models = [task.surrogate(), *others]
    retraining = _Retraining(task, config, models)

    # 4. Brew.
    def objective(number: int, images: Tensor, targets: Tensor) -> Tensor:
        model, goal = retraining.models[number], retraining.goals[number]
        losses = []
        for poisons in images:
            gradient = parameter_gradient(
                model, poisons, task.labels, create_graph=True, precision=config.precision
            )
            losses.append(matching_loss(gradient, goal))
        return torch.stack(losses)

    return optimise_poisons(task, config, objective, models, between=retraining)[0]
