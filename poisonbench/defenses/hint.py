"""HINT: healthy influential-noise based training.

Paper      Van, Wu, et al., "HINT: Healthy Influential-Noise based Training to Defend against Data
           Poisoning Attacks", ICDM 2023, arXiv 2309.08549; Algorithms 1-3, eq. 8-9.
Reference  minhhao97vn/HINT @ f58a718.
Needs      a clean, trusted validation split (1,000 images in the paper).
Cost       an update round is one forward pass over the training set, some 10-30 products with the
           head's Hessian, and one forward and backward pass over the selected images.

Algorithm  (numbers reappear below)
  1  train plainly until the first scheduled epoch; at each scheduled epoch:
  2    v = (H + damping I)^-1 grad L(validation), over the head's weights, H over the training set
  3    the first time only: select the ceil(ratio n) images with the largest |I_up|   (SecInf)
  4    for the selected: delta <- clip(delta - gamma I_pert(x + delta), -beta, beta)  (AddNoise)
                         x_hat <- clip(x + delta, 0, 1)
  5    train on x_hat for the selected images and on x for the others

Profiles   "paper" is the paper's text; "code" is what the reference code does where it differs:
           MNIST trains 10 epochs with one update before the last; gamma is divided by 10 from epoch
           40 on; LiSSA of 980 steps; later rounds take H over the selected images alone; the
           gradient is of the normalised image; noisy images are truncated to 8 bits.
Extensions Not the paper's. ``select_by`` chooses step 3's images by something else than |I_up|: the
           highest training loss, or at random.
           ``step`` takes a step of another size in step 4, along -I_pert as before and without
           gamma: "sign" moves every pixel by beta, "linf" scales each image's step so that its
           largest pixel moves by beta. Steps of several rounds add up and are clipped as always.
           ``noise`` is a control of step 4, on the same images: "opposite" steps along +I_pert,
           "wrong-label" takes I_pert of another class drawn for each image, "gaussian" takes white
           noise with the L2 norm of each image's own step.
Scenarios  in transfer the head alone trains, as influence is of it anyway, and rounds come at the
           same epochs of that stage; pixel maps go through the frozen layers.
Deviations The paper gives no damping; 0.5 is what the code's LiSSA constants amount to
           (damp 0.01 x scale 50). The default solver is exact instead of stochastic. The loss is
           the mean over all images, where eq. 1 sums the means of two parts (equal at ratio 0.5).
           "code" keeps this project's augmentation (the code shifts CIFAR-10 by bilinear sampling
           after normalisation) and its class-balanced validation split (the code's is not).
Shapes     N training images, S selected, B of them in a pass, K classes, F features.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from poisonbench.core.errors import DivergedError
from poisonbench.core.settings import BaseConfig, Profiles, require, setting
from poisonbench.core.work import Passes, Sizes, Work
from poisonbench.data.splits import other_labels, rounded_up
from poisonbench.defenses.base import Defense, Recipe, TrainingSet, TrainingState
from poisonbench.influence.head import (
    embed_all,
    head_weights,
    mean_gradient,
    pixel_influence,
    residuals,
    upweight_influence,
)
from poisonbench.influence.inverse_hessian import (
    HeadHessian,
    Solution,
    conjugate_gradient,
    lissa,
)
from poisonbench.models.classifier import Classifier, pass_size
from poisonbench.models.folding import folded
from poisonbench.training.recipe import HINT_CODE_CHANGES

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Config(BaseConfig):
    """HINT's settings; the defaults are the paper's for CIFAR-10."""

    ratio: float = setting(
        0.5, "r: share of the training images that receive noise.", over=0, high=1
    )
    gamma: float = setting(0.1, "Step on the pixel influence, in pixels of [0, 1].", over=0)
    beta: float = setting(16 / 255, "Largest noise per pixel, in pixels of [0, 1].", low=0, high=1)
    schedule: tuple[int, ...] = setting((5, 15, 40), "Epochs done before each update.", low=1)
    damping: float = setting(0.5, "lambda added to the Hessian's diagonal.", over=0)
    solver: Literal["cg", "lissa"] = setting("cg", "cg: exact; lissa: the paper's recursion.")
    lissa_scale: float = setting(50.0, "LiSSA's scale.", over=0)
    lissa_steps: int = setting(980, "LiSSA's depth.", low=1)
    lissa_batch: int = setting(50, "LiSSA's images a step.", low=1)
    lissa_repeats: int = setting(1, "LiSSA's recursions that are averaged.", low=1)
    hessian_set: Literal["all", "selected"] = setting(
        "all", "Images that make the Hessian after the first round."
    )
    gamma_decay_epoch: int | None = setting(
        None, "From this epoch on gamma is divided by 10.", low=0
    )
    pixel_space: Literal["raw", "normalised"] = setting(
        "raw", "normalised: gradient with respect to the normalised image, as in the code."
    )
    storage: Literal["float", "uint8"] = setting(
        "float", "uint8: truncate noisy images to 8 bits, as in the code."
    )
    select_by: Literal["influence", "loss", "random"] = setting(
        "influence", "What chooses the images; all but influence are extensions.", extension=True
    )
    step: Literal["literal", "sign", "linf"] = setting(
        "literal",
        "literal: gamma I_pert; extensions: sign: beta a pixel; linf: up to beta an image.",
        extension=True,
    )
    noise: Literal["influence", "opposite", "wrong-label", "gaussian"] = setting(
        "influence",
        "Which way noise goes; all but influence are controls: opposite; of another class; white, "
        "of the same norm an image.",
        extension=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            len(self.schedule) > 0 and list(self.schedule) == sorted(set(self.schedule)),
            f"schedule: expected increasing epochs, got {self.schedule}",
        )


PROFILES: Profiles = {
    "paper": {
        "mnist": {"schedule": (5, 15)},
        "mnist-sample": {"schedule": (2, 5)},
        # The paper's share of the epochs; of three schedules the best by validation accuracy
        # (docs/findings.md, "The presets in colour").
        "cifar-small": {"schedule": (1, 3, 9)},
    },
    "code": {
        "*": {
            "solver": "lissa",
            "hessian_set": "selected",
            "gamma_decay_epoch": 40,
            "pixel_space": "normalised",
            "storage": "uint8",
        },
        "mnist": {"schedule": (9,)},
        "cifar-small": {"schedule": (1, 3, 9), "gamma_decay_epoch": 9},
    },
}

RECIPE_CHANGES: Profiles = HINT_CODE_CHANGES

#: A round's figures that are means over the selected images, in pixels of [0, 1] and shares.
MEANS = (
    "mean_abs_noise",
    "share_clipped_at_beta",
    "share_over_one_level",
    "share_of_images_over_one_level",
)


def build(config: Config, recipe: Recipe) -> Defense:
    """HINT for one run; ValueError where no update falls inside the recipe's epochs."""
    require(
        min(config.schedule) < recipe.epochs,
        f"schedule: expected an update before epoch {recipe.epochs}, got {config.schedule}; "
        "update earlier or train longer",
    )
    return Hint(config)


def work(config: Config, recipe: Recipe, sizes: Sizes) -> Work:
    """A round's features and maps; the solve, on features, is not counted."""
    rounds = sum(epoch < recipe.epochs for epoch in config.schedule)
    features = Passes(kind="forward", images=rounds * (sizes.images + sizes.validation))
    maps = Passes(kind="pixels", images=rounds * config.ratio * sizes.images)
    return Work(passes=(features, maps), memory=sizes.pixels)


class Hint(Defense):
    """Adds influence-guided noise to the selected images at the scheduled epochs."""

    config: Config

    def start_epoch(self, state: TrainingState) -> TrainingSet:
        """Steps 1-5; between scheduled epochs the training set stays as it is."""
        if state.epoch not in self.config.schedule:
            return state.train
        model = folded(state.model)
        with torch.no_grad():
            # 2 influence direction
            inputs, probabilities, solution = self._direction(model, state)
            # 3 selection, once
            if "selected" not in self.memory:
                scores = None
                if self.config.ratio < 1:
                    scores = self._scores(model, state, inputs, probabilities, solution.vector)
                selected = select(scores, len(state.train), self.config.ratio)
                self.memory["selected"] = selected.to(state.train.labels.device)
            del inputs, probabilities
            # 4 healthy noise
            images, figures = self._add_noise(model, state, solution.vector)
        state.note(
            {
                "round": "hint",
                "solver": self.config.solver,
                "solver_iterations": solution.iterations,
                "solver_residual": solution.residual,
                **figures,
            }
        )
        # 5 train on them
        return state.train.with_images(images)

    def _direction(
        self, model: Classifier, state: TrainingState
    ) -> tuple[Tensor, Tensor, Solution]:
        """The head's inputs (N, F + 1) and probabilities (N, K) of the training set, and v."""
        config = self.config
        weights = head_weights(model)
        inputs = embed_all(model, state.train.images)
        probabilities = (inputs @ weights.T).softmax(1)
        validation = embed_all(model, state.validation.images)
        residual = residuals((validation @ weights.T).softmax(1), state.validation.labels)
        gradient = mean_gradient(validation, residual)
        hessian = HeadHessian(inputs, probabilities)
        if config.hessian_set == "selected" and "selected" in self.memory:
            hessian = hessian.rows(self.memory["selected"])
        if config.solver == "cg":
            solution = conjugate_gradient(hessian, gradient, damping=config.damping)
        else:
            shape = (config.lissa_repeats, config.lissa_steps, config.lissa_batch)
            draws, scale = state.generator("lissa"), config.lissa_scale
            solution = lissa(hessian, gradient, draws, config.damping, scale, shape)
        return inputs, probabilities, solution

    def _scores(
        self,
        model: Classifier,
        state: TrainingState,
        inputs: Tensor,
        probabilities: Tensor,
        direction: Tensor,
    ) -> Tensor:
        """What ranks the training images, (N,): I_up, or an extension's score of 0 or more."""
        labels = state.train.labels
        if self.config.select_by == "random":
            return torch.randperm(len(labels), generator=state.generator("selection"))
        if self.config.select_by == "loss":
            return F.cross_entropy(inputs @ head_weights(model).T, labels, reduction="none")
        return upweight_influence(inputs, residuals(probabilities, labels), direction)

    def _add_noise(
        self, model: Classifier, state: TrainingState, direction: Tensor
    ) -> tuple[Tensor, dict[str, Any]]:
        """One round of AddNoise: all images (N, C, H, W) float32 in [0, 1], and its figures."""
        config = self.config
        gamma = config.gamma
        if config.gamma_decay_epoch is not None and state.epoch >= config.gamma_decay_epoch:
            gamma /= 10
        scale = model.std if config.pixel_space == "normalised" else torch.ones_like(model.std)
        images = state.train.images
        images = images.float().div_(255) if images.dtype == torch.uint8 else images.clone()
        tallies, labels = [], state.train.labels
        if config.noise == "wrong-label":
            labels = other_labels(labels, len(direction), state.generator("wrong labels"))
        generator = state.generator("gaussian noise")
        for rows in self.memory["selected"].split(pass_size(images, gradients=True)):
            clean, noisy = state.original.pixels(rows), state.train.pixels(rows)
            influence = pixel_influence(model, noisy, labels[rows], direction)
            step = noise_step(influence, scale, config, gamma)
            if config.noise == "opposite":
                step = -step
            elif config.noise == "gaussian":
                step = white_noise_like(step, generator)
            unclipped = noisy - clean + step
            delta = unclipped.clamp(-config.beta, config.beta)
            healthy = (clean + delta).clamp_(0, 1)
            if config.storage == "uint8":
                healthy = (healthy * 255).floor_().div_(255)
            tallies.append(tally_of(unclipped, healthy - clean, config.beta))
            images[rows] = healthy
        return images, noise_figures(tallies, len(self.memory["selected"]))


def noise_step(influence: Tensor, scale: Tensor, config: Config, gamma: float) -> Tensor:
    """What one round adds to the noise (B, C, H, W) before it is clipped at beta, along -I_pert.

    The gradient's pixel space multiplies it by a scale (1, C, 1, 1); gamma is the literal step's.
    """
    if config.step == "literal":
        return -gamma * influence * scale
    direction = -influence * scale
    if config.step == "sign":
        return config.beta * direction.sign()
    # An image without influence stays as it is.
    largest = direction.abs().amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(torch.float).tiny)
    return config.beta * (direction / largest)


def white_noise_like(step: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian noise (B, C, H, W) with the L2 norm that each image's step (B, C, H, W) has."""
    noise = torch.randn(step.shape, generator=generator).to(step.device)
    norms: Tensor = step.flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1)
    return noise * norms[:, None, None, None]


def select(scores: Tensor | None, num_images: int, ratio: float) -> Tensor:
    """Rows (S,) of the ceil(ratio N) largest |scores| (N,), ties by row, increasing; None: all."""
    if scores is None:
        return torch.arange(num_images)
    count = rounded_up(ratio, num_images)
    order = scores.abs().sort(descending=True, stable=True).indices
    return order[:count].sort().values


def tally_of(unclipped: Tensor, applied: Tensor, beta: float) -> Tensor:
    """The two maxima of a pass's noise (B, C, H, W), as applied and unclipped, and MEANS' sums."""
    size, asked = applied.abs(), unclipped.abs()
    visible = size >= 1 / 255
    figures = (
        size.max(),
        asked.max(),
        size.mean((1, 2, 3)).double().sum(),
        (asked >= beta).double().mean((1, 2, 3)).sum(),
        visible.double().mean((1, 2, 3)).sum(),
        visible.flatten(1).any(1).sum(),
    )
    return torch.stack([figure.double() for figure in figures])


def noise_figures(tallies: Sequence[Tensor], num_selected: int) -> dict[str, Any]:
    """How large a round's noise is; DivergedError where some is not finite."""
    largest, unclipped = torch.stack(list(tallies))[:, :2].amax(0).tolist()
    # The clip at beta makes something plausible of an infinite number.
    if not math.isfinite(unclipped):
        raise DivergedError(f"expected finite healthy noise, got {unclipped}; lower --gamma")
    sums = sum(tallies, torch.zeros_like(tallies[0]))[2:].tolist()
    means = {name: value / num_selected for name, value in zip(MEANS, sums, strict=True)}
    return {"selected": num_selected, "max_abs_noise": largest, **means}
