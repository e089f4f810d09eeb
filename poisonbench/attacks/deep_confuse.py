"""DC: DeepConfuse ("learning to confuse"), a generator of perturbations that mislead training.

Source      Feng, Cai and Zhou, "Learning to Confuse: Generating Training Time Adversarial Data with
            Auto-Encoder", NeurIPS 2019, algorithm 2; used as a poison by HINT (arXiv 2309.08549),
            section V-A1.
Code        kingfengji/DeepConfuse @ 1f49274, MNIST/train.py, CIFAR/train.py.
Goal        untargeted; ``--objective next-class``: have clean images of class y called y + 1
            (section 5.5).
Budget      x' = clip(x + epsilon g(x)), where g ends in tanh and sees the image, never the label.
Cost        per batch a double backward through the classifier, a forward and backward pass of the
            generator and one plain step. The defaults, 30 rounds of 10 epochs, have the arithmetic
            of ten training runs of ResNet-18 on CIFAR-10; the paper's budget took its authors 5-7
            days on a GPU: ``--rounds 500``, or the code's 1000 with ``--profile code``.

A round is the paper's "trial". Given clean images x with labels y, learning rate a:

1.  g' <- a random generator.
2.  Repeat for each round: g <- g', frozen in eval mode; f <- a new random classifier with batch
    norm, in training mode. For each batch of the round's epochs:
    a.  Pseudo step: w' <- w - a * grad of CE(f_w(x + epsilon g'(x)), y), with the graph kept.
    b.  g' <- Adam ascent on CE(f_w'(x), y), of clean images after that step
        (next-class: descent on CE(f_w'(x), y + 1)).
    c.  Real step: w <- w - a * grad of CE(f_w(x + epsilon g(x)), y).
3.  Score g by the round's classifier on clean validation images, and give back the poisons of the
    best trained g. A last round without a and b scores the last one.

Deviations  the code picks the round on the test set, by a second classifier left in training mode;
            here it is on the attacker's clean validation split, in eval mode as victims are tested.
            Fewer rounds by default than the paper (500) and its code (1000). Epsilon is 8 or 76
            grey levels, where theirs is 0.032 or 0.3. Networks are the code's, where the paper
            prints others (attacks/shared/deep_confuse_networks.py). An epoch's last, smaller batch
            is left out, because batch norm cannot take a single image. What g makes is computed
            once a round. mnist-sample takes a quarter of the classifier's channels, half of the
            generator's and a higher rate for it, and the rounds that fit two minutes on two cores.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from poisonbench.attacks.base import AttackConfig, AttackTask
from poisonbench.attacks.shared import deep_confuse_networks as dc_networks
from poisonbench.attacks.shared.resuming import adam_tensors, resume
from poisonbench.attacks.shared.unrolled_step import sgd_step, weights_of
from poisonbench.core.devices import send
from poisonbench.core.errors import DivergedError, UsageError
from poisonbench.core.settings import Profiles, setting
from poisonbench.core.work import Passes, Sizes, Work
from poisonbench.models.classifier import initialise, pass_size
from poisonbench.training.evaluation import logits_of
from poisonbench.training.precision import precise
from poisonbench.training.recipe import Recipe

VERSION = 1

_MNIST = {
    "epsilon": 76 / 255,
    "epochs_per_round": 1,
    "batch_size": 64,
    "generator": "autoencoder",
    "surrogate": "cnn",
}

PROFILES: Profiles = {
    "paper": {
        "mnist": {**_MNIST, "rounds": 100},
        "mnist-sample": {
            "rounds": 16,
            "generator_rate": 3e-3,
            "surrogate_width": 0.25,
            "generator_width": 0.5,
        },
        # Scaled to two cores, where it does no harm; more rounds or another classifier do not help
        # (docs/findings.md, "Each attack alone, and cheap filters, in colour").
        "cifar10@10000": {
            "rounds": 10,
            "epochs_per_round": 2,
            "batch_size": 64,
            "generator_rate": 3e-3,
            "surrogate_width": 0.25,
            "generator_width": 0.125,
        },
    },
    "code": {"*": {"rounds": 1000, "epochs_per_round": 20}, "mnist": _MNIST},
}


@dataclass(frozen=True, kw_only=True)
class Config(AttackConfig):
    """Settings of DC; the defaults are for CIFAR-10, with a reduced number of rounds."""

    rounds: int = setting(30, "Classifiers trained from scratch (trials); the paper: 500.", low=1)
    epochs_per_round: int = setting(10, "Epochs that each of them is trained for.", low=1)
    batch_size: int = setting(256, "Images a step.", low=2)
    surrogate_rate: float = setting(
        0.01, "Learning rate of the classifier and its pseudo step.", over=0, high=1e30
    )
    generator_rate: float = setting(
        1e-4, "Learning rate of the generator, by Adam.", over=0, high=1e30
    )
    objective: Literal["untargeted", "next-class"] = setting(
        "untargeted",
        "untargeted: raise the loss of the true label; next-class: have y taken for y + 1.",
    )
    generator: Literal["unet", "autoencoder"] = setting("unet", "The generator's network.")
    generator_width: float = setting(1.0, "Share of the generator's channels.", over=0, high=1)
    surrogate: Literal["vgg11", "cnn"] = setting("vgg11", "The classifier's network.")
    surrogate_width: float = setting(1.0, "Share of the classifier's channels.", over=0, high=1)
    precision: Literal["float32", "auto", "bfloat16"] = setting(
        "float32",
        "Arithmetic of the networks' passes; auto: bfloat16 where it is quicker.",
        extension=True,
    )


def work(config: Config, recipe: Recipe, sizes: Sizes) -> Work:
    """Pseudo steps, the generator's and the classifier's; see Cost above."""
    shape, size = sizes.shape, min(config.batch_size, sizes.images)
    images = config.rounds * config.epochs_per_round * (sizes.images // size) * size

    def generator() -> nn.Module:
        return _generator(config, shape)

    def classifier() -> nn.Module:
        return _classifier(config, shape, sizes.num_classes)

    last = config.epochs_per_round * sizes.images
    own = partial(Passes, precision=config.precision)
    return Work(
        passes=(
            own(kind="unrolled", images=images, batch=size, network=classifier),
            own(kind="training", images=images, batch=size, network=generator),
            own(kind="training", images=images + last, batch=size, network=classifier),
            own(kind="forward", images=config.rounds * sizes.images, network=generator),
        ),
        memory=3 * sizes.pixels,
    )


def craft(task: AttackTask, config: Config) -> Tensor:
    """Poisoned images (P, C, H, W) float32 in [0, 1] for the task's images."""
    generator, blank = _networks(task, config)
    clean = task.images.contiguous(memory_format=torch.channels_last)
    batch_size = min(config.batch_size, len(clean))
    epoch_steps = len(clean) // batch_size
    steps = config.epochs_per_round * epoch_steps

    # 1. A random generator.
    generator = _fresh(generator, task).to(memory_format=torch.channels_last).train()
    adam = torch.optim.Adam(generator.parameters(), lr=config.generator_rate)
    # g' ("generator") and f ("surrogate") in training mode, g ("frozen") and "best" in eval mode.
    networks = nn.ModuleDict({name: copy.deepcopy(generator).eval() for name in ("frozen", "best")})
    networks["generator"] = generator
    networks["surrogate"] = copy.deepcopy(blank).to_empty(device=clean.device).train()
    # The epoch's rows; the round's sums, after the pseudo step and of the classifier.
    order = torch.arange(len(clean), device=clean.device)
    losses = torch.zeros(2, device=clean.device)
    kept = {"order": order, "losses": losses}
    position = _Position(**resume(task.checkpoint, kept | networks.state_dict(), adam))

    while position.number <= config.rounds:
        # 2. Freeze a copy, whose output is the same all through the round; a new classifier.
        if position.step == 0:
            networks["frozen"] = copy.deepcopy(generator).eval()
            networks["surrogate"] = _fresh(blank, task).train()
            losses.zero_()
        poisoned = _perturb_all(networks["frozen"], clean, config)
        _check_finite(poisoned, "perturbation", position.number, "--generator-rate")
        surrogate = networks["surrogate"]
        sgd = torch.optim.SGD(surrogate.parameters(), lr=config.surrogate_rate)
        scratch = {name: buffer.clone() for name, buffer in surrogate.named_buffers()}
        while position.step < steps:
            number = position.step % epoch_steps
            if number == 0:
                shuffled = torch.randperm(len(clean), generator=task.generator)
                order.copy_(send(shuffled, clean.device))
            rows = order[number * batch_size : (number + 1) * batch_size]
            images, labels = clean[rows], task.labels[rows]
            if position.number < config.rounds:
                # a, b.
                seen = perturb(generator, images, config.epsilon, config.precision)
                loss = loss_after_pseudo_step(
                    surrogate,
                    scratch,
                    (seen, labels),
                    (images, _judged_labels(labels, task, config)),
                    config.surrogate_rate,
                    config.precision,
                )
                losses[0] += loss.detach()
                ascend = config.objective == "untargeted"
                adam.zero_grad()
                (-loss if ascend else loss).backward(inputs=list(generator.parameters()))
                adam.step()
            # c.
            with precise(clean.device, config.precision):
                logits = surrogate(poisoned[rows])
            loss = F.cross_entropy(logits.to(clean.dtype), labels)
            losses[1] += loss.detach()
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            position.step += 1
            task.report(position.number * steps + position.step, (config.rounds + 1) * steps)
            tensors = kept | networks.state_dict() | adam_tensors(adam)
            task.checkpoint.save_if_due(vars(position), tensors)
        _check_finite(losses[1], "loss of the classifier", position.number, "--surrogate-rate")
        _check_finite(losses[0], "loss after the pseudo step", position.number, "--generator-rate")

        # 3. Score the generator, unless it is the untrained one.
        logits = logits_of(surrogate, task.validation.images)
        _check_finite(logits, "output of the classifier", position.number, "--surrogate-rate")
        hits = logits.argmax(1) == _judged_labels(task.validation.labels, task, config)
        share = float(hits.double().mean())
        score = 1 - share if config.objective == "untargeted" else share
        if position.number > 0 and score > position.best_score:
            networks["best"], position.best_score = networks["frozen"], score
        position.number, position.step = position.number + 1, 0
    return _perturb_all(networks["best"], clean, config)


def perturb(
    generator: nn.Module, images: Tensor, epsilon: float, precision: str = "float32"
) -> Tensor:
    """clip(x + epsilon g(x)) of images x (B, C, H, W) in [0, 1]; g in that precision."""
    with precise(images.device, precision):
        noise: Tensor = generator(images)
    return (images + epsilon * noise.to(images.dtype)).clamp(0, 1)


def loss_after_pseudo_step(
    model: nn.Module,
    scratch: dict[str, Tensor],
    seen: tuple[Tensor, Tensor],
    judged: tuple[Tensor, Tensor],
    rate: float,
    precision: str = "float32",
) -> Tensor:
    """The loss on one batch after an SGD step on another, differentiable in the latter's images.

    The classifier, in training mode, stays as it is: ``scratch`` is a copy of its buffers, which
    the two passes write to. The step is on images and labels seen, the loss of those judged.
    """

    def loss_at(weights: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        with precise(images.device, precision):
            logits = functional_call(model, (weights, scratch), images)
        return F.cross_entropy(logits.to(images.dtype), labels)

    weights = weights_of(model)
    return loss_at(sgd_step(weights, loss_at(weights, *seen), rate), *judged)


def _networks(task: AttackTask, config: Config) -> tuple[nn.Module, nn.Module]:
    """The generator and the classifier without weights."""
    if len(task.images) < 2 or task.num_classes < 2:
        raise UsageError(
            "dc: expected at least 2 images and 2 classes, got "
            f"{len(task.images)} and {task.num_classes}; choose another attack"
        )
    shape = task.images.shape[1:]
    try:
        # On the meta device layers draw no initial weights, which would come from the global RNG.
        with torch.device("meta"):
            return _generator(config, shape), _classifier(config, shape, task.num_classes)
    except ValueError as error:
        raise UsageError(f"dc: {error}; resize the images or choose another network") from None


def _generator(config: Config, shape: Sequence[int]) -> nn.Module:
    kind = dc_networks.UNet if config.generator == "unet" else dc_networks.Autoencoder
    channels, height, width = shape
    return kind(channels, height, width, config.generator_width)


def _classifier(config: Config, shape: Sequence[int], num_classes: int) -> nn.Module:
    build = getattr(dc_networks, config.surrogate)
    network: nn.Module = build(*shape, num_classes, config.surrogate_width)
    return network


@dataclass
class _Position:
    """Round, and step in it, from 0, and the score of the best generator."""

    number: int = 0
    step: int = 0
    best_score: float = -1.0


def _fresh(blank: nn.Module, task: AttackTask) -> nn.Module:
    """The network with initial weights of its own, on the images' device."""
    model = copy.deepcopy(blank).to_empty(device="cpu")
    initialise(model, task.generator)
    return model.to(task.images.device)


def _perturb_all(generator: nn.Module, images: Tensor, config: Config) -> Tensor:
    result, size = torch.empty_like(images), pass_size(images, gradients=False)
    with torch.no_grad():
        for first in range(0, len(images), size):
            batch = slice(first, first + size)
            result[batch] = perturb(generator, images[batch], config.epsilon, config.precision)
    return result


def _judged_labels(labels: Tensor, task: AttackTask, config: Config) -> Tensor:
    """The labels at which the loss of clean images is taken."""
    return labels if config.objective == "untargeted" else (labels + 1) % task.num_classes


def _check_finite(values: Tensor, what: str, number: int, flag: str) -> None:
    if not bool(values.isfinite().all()):
        raise DivergedError(
            f"dc: expected a finite {what}, got nan or infinity in round {number + 1}; lower {flag}"
        )
