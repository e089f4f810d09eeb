"""EM: error-minimising noise, which leaves a network nothing to learn from the images.

Source      Huang et al., "Unlearnable Examples: Making Personal Data Unexploitable", ICLR 2021,
            section 3: min over theta and delta of CE(f_theta(x + delta), y).
Code        HanxunH/Unlearnable-Examples @ f347155, perturbation.py, toolbox.py.
Goal        untargeted: the loss of a training image is low before anything of the object is learnt.
Cost        a round is ``steps`` forward and backward passes over the images, class-wise over a
            share of them; on 49,000 CIFAR-10 images 20 steps cost a sixth of a training run of
            ResNet-18. There is no clean surrogate.

Given images x with labels y, x' = x, and a network f with random weights theta:

1.  Train f by ``batches`` steps of SGD on x' at y, in train mode.
2.  In eval mode repeat ``steps`` times: x' <- project(x' - alpha * sign(grad of CE(f(x'), y))).
    --noise sample: of every image. --noise class: x' = x + delta(y); of a random share of the
    images, batch by batch, and after each delta(c) <- the mean of x' - x of the batch's images of
    class c.
3.  End when f's error on x', in eval mode, is no more than ``stop_error``, or after ``rounds``.

--against puts a defense in the loop (``attacks/shared/adaptive.py``): f is trained on x' as the
defense leaves them, and steps and error are of that too; against hint steps are of x' itself, as
its noise is made after the poisons.

Deviations  noise is kept as the image plus noise, within [0, 1], so that none is stored that has no
            effect; the code cuts it off at epsilon alone. Batches of SGD are drawn with
            replacement. The code ends by the error alone; here ``rounds`` bounds a network that
            does not come down to it. Images are rounded to grey levels. The paper has no grey
            images. Presets for a CPU take fewer and longer steps.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from poisonbench.attacks.base import AttackConfig, AttackTask
from poisonbench.attacks.shared.adaptive import (
    IN_THE_LOOP,
    Against,
    AssumedHint,
    assumed_defense,
    looks_at,
)
from poisonbench.attacks.shared.resuming import resume_counts
from poisonbench.attacks.shared.trained_network import SgdSettings, TrainedNetwork
from poisonbench.core.devices import send
from poisonbench.core.errors import DivergedError
from poisonbench.core.settings import Profiles, require, setting
from poisonbench.core.work import Passes, Sizes, Work
from poisonbench.models.classifier import pass_size
from poisonbench.models.folding import folded
from poisonbench.training.evaluation import logits_of
from poisonbench.training.projected_gradient import Ball, ProjectedGradient
from poisonbench.training.recipe import Recipe

VERSION = 1

PROFILES: Profiles = {
    "paper": {
        "mnist": {"epsilon": 76 / 255},
        # Scaled to two cores, not yet tuned on validation images.
        "mnist-sample": {"steps": 5, "step_ratio": 0.2, "rounds": 10},
        # The same; of three settings that were compared by validation accuracy the quickest, which
        # was the weakest too (docs/findings.md, "Each attack alone, and cheap filters, in colour").
        "cifar10@10000": {"steps": 5, "step_ratio": 0.2, "rounds": 10},
    }
}


@dataclass(frozen=True, kw_only=True)
class Config(AttackConfig):
    """Settings of EM; the defaults are for CIFAR-10."""

    noise: Literal["sample", "class"] = setting(
        "sample", "sample: each image has its own noise; class: all of a class have one."
    )
    steps: int | None = setting(
        None, "Gradient steps a round; by default 20, of a class's noise 1.", low=1
    )
    step_ratio: float = setting(0.1, "Length of a step as a share of epsilon.", over=0, high=2)
    batches: int = setting(10, "Steps of SGD a round.", low=1)
    rounds: int = setting(100, "Rounds at most.", low=1)
    stop_error: float | None = setting(
        None,
        "Error on the poisons at which it ends; by default 0.01, of a class's noise 0.1.",
        low=0,
        high=1,
    )
    share: float = setting(
        0.2, "Of a class's noise: share of the images that a round looks at.", over=0, high=1
    )
    batch_size: int = setting(128, "Images a step of SGD.", low=2)
    learning_rate: float = setting(0.1, "Of SGD.", over=0, high=1e30)
    momentum: float = setting(0.9, "Of SGD.", low=0, under=1)
    weight_decay: float = setting(5e-4, "Of SGD.", low=0)
    precision: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "Arithmetic of the network; auto: bfloat16 where it is quicker."
    )
    against: Against = setting("none", IN_THE_LOOP, extension=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.against != "epic",
            "against: expected another defense than epic, got epic, which drops poisons whose "
            "gradient softmax - onehot stands alone; EM's own loss takes that of every poison to "
            "0, so that none does: plain EM is the adaptive attack; leave it out",
        )

    @property
    def is_of_class(self) -> bool:
        """Whether all images of a class have one noise."""
        return self.noise == "class"

    @property
    def steps_a_round(self) -> int:
        """The steps, or their default."""
        return self.steps or (1 if self.is_of_class else 20)

    @property
    def last_error(self) -> float:
        """The error to stop at, or its default."""
        if self.stop_error is None:
            return 0.1 if self.is_of_class else 0.01
        return self.stop_error

    def seen(self, images: int) -> int:
        """How many of so many images a round looks at."""
        return max(1, round(self.share * images)) if self.is_of_class else images


def work(config: Config, recipe: Recipe, sizes: Sizes) -> Work:
    """All rounds, which the error may cut short."""
    rounds, precision = config.rounds, config.precision
    trained = rounds * config.batches * config.batch_size
    seen = rounds * config.steps_a_round * config.seen(sizes.images) * looks_at(config.against)
    return Work(
        passes=(
            Passes(kind="training", images=trained, batch=config.batch_size, precision=precision),
            Passes(kind="pixels", images=seen, precision=precision),
            Passes(kind="forward", images=rounds * sizes.images),
        ),
        memory=2 * sizes.pixels,
    )


def craft(task: AttackTask, config: Config) -> Tensor:
    """Poisoned images (P, C, H, W) float32 in [0, 1] for the task's images."""
    clean, labels, device = task.images, task.labels, task.images.device
    sgd = SgdSettings(
        rate=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        precision=config.precision,
        clip=5.0,
    )
    network = TrainedNetwork(task.untrained(), sgd)
    defense = assumed_defense(config.against, task.assumed, task.generator)
    healthy = {}
    if config.against == "hint":
        healthy["healthy"] = torch.zeros_like(clean)
        defense = AssumedHint(task.assumed, task.validation, task.generator, healthy["healthy"])
    descent = ProjectedGradient(
        Ball(config.epsilon), config.steps_a_round, -config.step_ratio, config.precision
    )
    # Each image with its noise, or delta of each class.
    shape = (task.num_classes, *clean.shape[1:])
    noise = clean.new_zeros(shape) if config.is_of_class else clean.clone()
    order = torch.arange(len(clean), device=device)
    kept = {"noise": noise, "order": order, **healthy, **network.tensors}
    # Images of the round, and not passes, whose size is the device's.
    position = resume_counts(task, kept, {"round": 0, "images": 0})
    size = defense.images_in_a_pass or pass_size(clean, gradients=True)
    size = config.batch_size if config.is_of_class else size
    num_seen = config.seen(len(clean))
    num_passes = len(range(0, num_seen, size))

    def poisoned(rows: Tensor | slice = slice(None)) -> Tensor:
        if config.is_of_class:
            return (clean[rows] + noise[labels[rows]]).clamp(0, 1)
        return noise[rows]

    while position["round"] < config.rounds:
        # 1. Train.
        if position["images"] == 0:
            drawn = (config.batches, config.batch_size)
            batches = torch.randint(len(clean), drawn, generator=task.generator)
            if position["round"]:
                # Before that the network knows nothing of the images.
                defense.meet(network.model, poisoned(), labels, task.num_classes)
            for rows in send(batches, device):
                network.step(defense.seen(poisoned(rows), rows), labels[rows])
            if config.is_of_class:
                order.copy_(send(torch.randperm(len(clean), generator=task.generator), device))

        # 2. Lower the error.
        frozen = folded(network.model)
        for first in range(position["images"], num_seen, size):
            rows = order[first : min(first + size, num_seen)]
            images, start = (
                part.contiguous(memory_format=torch.channels_last)
                for part in (clean[rows], poisoned(rows))
            )
            moved = descent.perturb_batch(frozen, images, labels[rows], start, defense)
            if config.is_of_class:
                noise.copy_(class_means(moved - images, labels[rows], noise))
            else:
                noise[rows] = moved
            position["images"] += len(rows)
            left = len(range(position["images"], num_seen, size))
            task.report((position["round"] + 1) * num_passes - left, config.rounds * num_passes)
            task.checkpoint.save_if_due(position, kept)

        # 3. Is it low enough?
        position = {"round": position["round"] + 1, "images": 0}
        if _error(network, defense.seen(poisoned()), labels) <= config.last_error:
            break
    return poisoned()


def class_means(noise: Tensor, labels: Tensor, others: Tensor) -> Tensor:
    """The mean (K, C, H, W) of noise (B, C, H, W) by class; of a class without any, its other."""
    classes = torch.arange(len(others), device=noise.device)
    members = (labels[:, None] == classes).to(noise.dtype)
    counts = members.sum(0)[:, None]
    means = (members.T @ noise.flatten(1)) / counts.clamp(min=1)
    return torch.where(counts > 0, means, others.flatten(1)).view_as(others)


def _error(network: TrainedNetwork, images: Tensor, labels: Tensor) -> float:
    """Share of images that the network takes for another class, in eval mode."""
    logits = logits_of(network.model, images)
    if not bool(logits.isfinite().all()):
        raise DivergedError(
            "em: expected finite outputs of its network, got nan or infinity; lower --learning-rate"
        )
    return float((logits.argmax(1) != labels).double().mean())
