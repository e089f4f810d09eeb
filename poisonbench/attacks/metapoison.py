"""MP: MetaPoison, poisons that move a network in training so that it misclassifies the target.

Source      Huang et al., "MetaPoison: Practical General-purpose Clean-label Data Poisoning",
            NeurIPS 2020, algorithm 1 and equations 2 to 5; HINT (arXiv 2309.08549), section V-A2.
Code        wronnyhuang/metapoison @ 298f2c0, whose poisons HINT took.
Goal        targeted: whoever trains on the poisons takes one test image for the intended class.
Budget      epsilon around each image; ``--color`` adds to it (``Config.budget``).
Cost        an epoch of meta-batches a surrogate and step, of which a share
            1 - (1 - rho)^inner_batch_size holds poisons and is computed, each as dear as some ten
            plain training steps. The default attack on CIFAR-10 is thousands of epochs of work a
            target. Its surrogates are trained once for all targets; all 24 x 24 states are held in
            the host's memory, 26 GB of them for ResNet-18, and a device gets those of one network
            to read them and then one state at a time.

Given ``surrogates`` = M networks, poisons x + delta of base images x, and a target image:

1.  Stagger: the state of network j in craft step c is the one after (j + c) mod M epochs of clean
    training, so that every step sees all ages (``--start trained``: the end of the training).
2.  For each network, shuffle the training split into batches. For each batch with poisons:
    a.  Unroll: K = ``unroll`` plain SGD steps w_i = w_(i-1) - a grad CE, the graph kept, on this
        batch and on the next ones, which hold the same poisons. Only in the first step do
        poisons carry a gradient.
    b.  Mean over i = 1..K of CW(w_i) = max(max over k != y_adv of z_k - z_adv, -100), where z are
        the target's logits; the target is appended to the batch, so that batch norm with the
        statistics of the batch (``--bn batch``) includes it.
    c.  Add up its gradient with respect to the poisons.
3.  Adam, of a rate so high that the first steps go from bound to bound; project delta onto
    [-epsilon, epsilon], then poisons onto [0, 1].

``--color`` first shifts each poison's colours by a smooth function of the colour
(``poisonbench.attacks.shared.colour_shift``).

Fine-tuning  ``--start trained --bn eval --inner-learning-rate 0.01`` attacks whoever fine-tunes a
            trained network (``--scenario finetune``).

Deviations  Networks move along clean trajectories that are trained beforehand by the victims'
            recipe (momentum, augmentation, weight decay); the code trains them between craft
            steps, by plain SGD with a warm-up, which its inner steps share. The inner rate is
            constant here. The code leaves pixels outside [0, 255], which cannot be published, and
            masks the intended class's logit with 0, so that 0 competes with the others; here with
            minus infinity. 60 steps, not 61. Colour is off by default: HINT states its budget in
            L-infinity. MNIST has no published setting. The sample of 1,000 is too small for the
            attack from scratch: its setting is this project's fine-tuning form, with batches of a
            third poisons and Adam on signs.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from poisonbench.attacks.base import AttackConfig, TargetedTask
from poisonbench.attacks.shared.colour_shift import LARGEST_SHIFT, Palette, clamp_shifts, roughness
from poisonbench.attacks.shared.resuming import adam_tensors, resume
from poisonbench.attacks.shared.unrolled_step import sgd_step, weights_of
from poisonbench.core.devices import send, send_network
from poisonbench.core.errors import DivergedError, UsageError
from poisonbench.core.settings import Profiles, require, setting
from poisonbench.core.work import Passes, Sizes, Work
from poisonbench.models.classifier import Classifier
from poisonbench.training.precision import precise
from poisonbench.training.recipe import Recipe

VERSION = 1

PROFILES: Profiles = {
    "paper": {
        "mnist": {"epsilon": 76 / 255, "inner_learning_rate": 0.01},
        "mnist-sample": {"epsilon": 64 / 255, "surrogates": 4, "steps": 12, "rate_drops": (4, 8)},
        "mnist-sample@1000": {
            "surrogates": 1,
            "start": "trained",
            "bn": "eval",
            "steps": 8,
            "craft_rate": 0.1,
            "craft_optimizer": "sign-adam",
            "warm_up": 0,
            "rate_drops": (),
            "inner_batch_size": 75,
            "poisons_per_batch": 25,
        },
        # Scaled to two cores; twice the steps do little more (docs/findings.md, "The presets in
        # colour").
        "cifar10@10000": {
            "surrogates": 1,
            "start": "trained",
            "bn": "eval",
            "steps": 20,
            "craft_rate": 2 / 255,
            "craft_optimizer": "sign-adam",
            "warm_up": 0,
            "rate_drops": (),
            "inner_learning_rate": 0.01,
            "poisons_per_batch": 25,
        },
    }
}

#: The code's 1e-8 is for gradients by pixels of 0..255.
_ADAM_EPSILON = 255e-8
#: From :func:`meta_batches`.
MetaBatch = tuple[Tensor, list[Tensor]]
#: No gain from a margin over this.
_CONFIDENT = 100.0


@dataclass(frozen=True, kw_only=True)
class Config(AttackConfig):
    """Settings of MetaPoison; the defaults are its authors' for CIFAR-10."""

    epsilon: float = setting(
        8 / 255, "L-infinity bound of the noise, in pixels of [0, 1].", over=0, high=1
    )
    color: float = setting(
        0.0, "Largest shift of each YUV channel; the authors: 0.04.", low=0, high=1
    )
    smoothness: float = setting(
        1.0, "Weight of the roughness of --color's shifts in the loss.", low=0
    )
    steps: int = setting(60, "Craft steps.", low=1)
    craft_optimizer: Literal["adam", "sign-adam"] = setting(
        "adam", "adam: on gradients; sign-adam: on their signs."
    )
    craft_rate: float = setting(
        200 / 255, "Rate of a craft step, in pixels of [0, 1].", over=0, high=1e30
    )
    warm_up: int = setting(
        5, "First craft steps, of a rate times ((c + 1) / warm-up) squared.", low=0
    )
    rate_drops: tuple[int, ...] = setting(
        (20, 40), "Craft steps after which the rate is divided by 10.", low=1
    )
    surrogates: int = setting(24, "Networks of the attacker.", low=1)
    start: Literal["staggered", "trained"] = setting(
        "staggered",
        "staggered: networks after 0 to surrogates - 1 epochs; trained: at the end of training.",
    )
    unroll: int = setting(2, "Steps of a network that a gradient goes through.", low=1)
    inner_learning_rate: float = setting(0.1, "Learning rate of those steps.", over=0, high=1e30)
    inner_batch_size: int = setting(125, "Training images in a batch of those steps.", low=2)
    poisons_per_batch: int | None = setting(
        None, "Poisons in each of those batches; by default as they fall when shuffled."
    )
    bn: Literal["batch", "eval"] = setting(
        "batch", "Batch norm by the statistics of the batch, or by running ones."
    )
    precision: Literal["float32", "auto", "bfloat16"] = setting(
        "float32",
        "Arithmetic of the networks' passes; auto: bfloat16 where it is quicker.",
        extension=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.budget <= 1, f"color: expected a budget of at most 1, got {self.budget:.3f}")
        poisons = self.poisons_per_batch
        require(
            poisons is None or 1 <= poisons < self.inner_batch_size,
            "poisons_per_batch: expected at least 1 and fewer than inner_batch_size "
            f"({self.inner_batch_size}), got {poisons}",
        )

    @property
    def budget(self) -> float:
        """L-infinity budget in [0, 1], of noise and colour together."""
        return self.epsilon + LARGEST_SHIFT * self.color


def work(config: Config, recipe: Recipe, sizes: Sizes) -> Work:
    """Each network's unrolled steps on the batches of an epoch that hold poisons."""
    size, is_staggered = config.inner_batch_size, config.start == "staggered"
    batches = math.ceil(sizes.images / (config.poisons_per_batch or sizes.images))
    if config.poisons_per_batch is None:
        # As many of an epoch's batches as have a poison among their images.
        share = 1 - (1 - sizes.images / sizes.train) ** size
        batches = math.ceil(share * math.ceil(sizes.train / size))
    steps = config.steps * config.surrogates * batches * config.unroll
    epochs = config.surrogates - 1 if is_staggered else recipe.epochs
    # Of one network, whose states are on the device together when they are read.
    states = config.surrogates if is_staggered else 1
    return Work(
        passes=(
            Passes(kind="unrolled", images=steps * size, batch=size, precision=config.precision),
        ),
        surrogates=tuple((number, epochs) for number in range(config.surrogates)),
        memory=states * sizes.weights + 4 * sizes.pixels,
    )


def craft(task: TargetedTask, config: Config) -> Tensor:
    """Poisoned images (T, P, C, H, W) float32 in [0, 1] for the task's images."""
    base = task.images
    if config.color > 0 and base.shape[2] != 3:
        raise UsageError(f"mp: --color expected images of 3 channels, got {base.shape[2]}")
    networks = _networks(task, config)
    # (T, N) on the CPU: which poison each training row is, -1 for none.
    poison_of_row = torch.full((len(task.rows), len(task.train)), -1)
    numbers = torch.arange(task.rows.shape[1]).expand_as(task.rows)
    poison_of_row.scatter_(1, task.rows.cpu(), numbers)

    noise = torch.stack([torch.rand(base.shape[1:], generator=g) for g in task.generators])
    delta = (config.epsilon * (2 * noise.to(base) - 1)).requires_grad_()
    groups = [{"params": [delta], "eps": _ADAM_EPSILON}]
    palette, shifts = None, base.new_zeros(0)
    if config.color > 0:
        palette = Palette(base)
        shifts = palette.no_shifts().requires_grad_()
        groups.append({"params": [shifts], "eps": 1e-8})
    adam = torch.optim.Adam(groups)
    gradient = torch.zeros_like(base)
    num_batches = torch.zeros(len(base), device=base.device)
    kept = {"delta": delta, "shifts": shifts, "gradient": gradient, "num_batches": num_batches}
    position = resume(task.checkpoint, kept, adam)

    def recolored() -> Tensor:
        return base if palette is None else palette.recolor(base, shifts)

    total = config.steps * len(networks)
    for done in range(position.get("done", 0), total):
        step, number = divmod(done, len(networks))
        if number == 0:
            _project(delta, recolored(), config.epsilon)
            gradient.zero_()
            num_batches.zero_()
        poisons = recolored() + delta
        # 1. The network's state of this step.
        state = networks[number][(number + step) % len(networks[number])]
        model = send_network(state, base.device)
        for target, generator in enumerate(task.generators):
            # 2.
            for numbers, others in meta_batches(poison_of_row[target], config, generator):
                batch = send(numbers, base.device), [send(rows, base.device) for rows in others]
                gradient[target, batch[0]] += _poison_gradient(
                    task, target, model, poisons[target, batch[0]].detach(), batch, config
                )
                num_batches[target] += 1
        if number + 1 == len(networks):
            if not bool(gradient.isfinite().all()):
                raise DivergedError(
                    "mp: expected a finite gradient of the poisons, got nan or infinity in craft "
                    f"step {step + 1}; lower --inner-learning-rate"
                )
            # 3. The average over networks.
            adam.zero_grad()
            poisons.backward(gradient / len(networks))
            if palette is not None:
                counts = num_batches / len(networks)
                (config.smoothness * counts * roughness(shifts)).sum().backward()
            if config.craft_optimizer == "sign-adam":
                for group in adam.param_groups:
                    for parameter in group["params"]:
                        parameter.grad.sign_()
            # Shifts are in [0, 1], where the code has the rate of pixels in 0..255.
            for group, scale in zip(adam.param_groups, (1.0, 255.0), strict=False):
                group["lr"] = scale * craft_rate(step, config)
            adam.step()
            if palette is not None:
                clamp_shifts(shifts, config.color)
        task.report(done + 1, total)
        task.checkpoint.save_if_due({"done": done + 1}, {**kept, **adam_tensors(adam)})
    _project(delta, recolored(), config.epsilon)
    return (recolored() + delta).detach().clamp(0, 1)


def unrolled_loss(
    model: Classifier,
    batches: Sequence[tuple[Tensor, Tensor]],
    target: Tensor,
    intended: Tensor,
    rate: float,
    precision: str = "float32",
) -> Tensor:
    """Mean over i = 1..K of the target's loss after i SGD steps, differentiable in all images.

    The model is in the mode that its batch norm shall work in, and stays as it is. Of the K + 1
    batches of images (B, C, H, W) and labels (B,) the last one is not trained on: its images serve
    the batch norm of the target (C, H, W) alone.
    """
    weights = weights_of(model)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    losses = []
    for number, (images, labels) in enumerate(batches):
        with precise(target.device, precision):
            logits = functional_call(model, (weights, buffers), torch.cat([images, target[None]]))
        logits = logits.to(target.dtype)
        if number > 0:
            losses.append(carlini_wagner(logits[-1], intended))
        if number + 1 < len(batches):
            weights = sgd_step(weights, F.cross_entropy(logits[:-1], labels), rate)
    return torch.stack(losses).mean()


def carlini_wagner(logits: Tensor, intended: Tensor) -> Tensor:
    """The lead of the best other class of logits (K,) over the intended (), at least -100."""
    is_intended = torch.arange(len(logits), device=logits.device) == intended
    best_other = logits.masked_fill(is_intended, -math.inf).max()
    return (best_other - logits.gather(0, intended[None])[0]).clamp_min(-_CONFIDENT)


def meta_batches(
    poison_of_row: Tensor, config: Config, generator: torch.Generator
) -> Iterator[MetaBatch]:
    """Poisons (B',) of each batch of an epoch that has any, and K + 1 tensors of rows beside them.

    The rows are of the batch and its successors. Those of the batch are clean; those of the
    successors are too with ``poisons_per_batch``, and otherwise whatever comes, other poisons'
    images without their perturbation among them. ``poison_of_row`` (N,) says on the CPU which
    poison each training row is, -1 for none.
    """
    order = torch.randperm(len(poison_of_row), generator=generator)
    size, dense = config.inner_batch_size, config.poisons_per_batch
    if dense is not None:
        numbers = poison_of_row[order]
        clean = order[numbers < 0].split(size - dense)
        for first, poisons in enumerate(numbers[numbers >= 0].split(dense)):
            following = range(first, first + config.unroll + 1)
            yield poisons, [clean[number % len(clean)] for number in following]
        return
    batches = order.split(size)
    for first, batch in enumerate(batches):
        numbers = poison_of_row[batch]
        poisons = numbers[numbers >= 0]
        if len(poisons) > 0:
            following = range(first + 1, first + config.unroll + 1)
            nexts = [batches[number % len(batches)][len(poisons) :] for number in following]
            yield poisons, [batch[numbers < 0], *nexts]


def craft_rate(step: int, config: Config) -> float:
    """The rate of a craft step, counted from 0."""
    warm = min(1.0, (step + 1) / config.warm_up) ** 2 if config.warm_up else 1.0
    return config.craft_rate * warm * 0.1 ** sum(drop <= step for drop in config.rate_drops)


def _poison_gradient(
    task: TargetedTask,
    target: int,
    model: Classifier,
    poisons: Tensor,
    batch: MetaBatch,
    config: Config,
) -> Tensor:
    """Gradient (B', C, H, W) of the unrolled loss with respect to a batch's poisons."""
    moved = poisons.clone().requires_grad_()
    numbers, others = batch
    own = task.labels[target, numbers]
    batches = []
    for first, rows in zip([moved] + [poisons] * config.unroll, others, strict=True):
        clean = task.train.rows(rows)
        images = torch.cat([first, clean.images.to(poisons) / 255])
        batches.append((images, torch.cat([own, clean.labels])))
    loss = unrolled_loss(
        model,
        batches,
        task.targets[target],
        task.intended[target],
        config.inner_learning_rate,
        config.precision,
    )
    return torch.autograd.grad(loss, moved)[0]


def _networks(task: TargetedTask, config: Config) -> list[list[Classifier]]:
    """The states of each network on the CPU: one, or one an epoch; each step sends its own."""
    ends = [task.epochs] if config.start == "trained" else list(range(config.surrogates))
    return [
        [model.cpu().train(config.bn == "batch") for model in task.snapshots(number, ends)]
        for number in range(config.surrogates)
    ]


@torch.no_grad()
def _project(delta: Tensor, images: Tensor, epsilon: float) -> None:
    """Clamp in place to the bound, then so that images + delta lie in [0, 1]."""
    delta.clamp_(-epsilon, epsilon)
    delta.copy_((images + delta).clamp(0, 1) - images)
