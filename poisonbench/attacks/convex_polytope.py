"""CP: Convex Polytope, poisons whose features enclose the target's.

Source      Zhu et al., "Transferable Clean-Label Poisoning Attacks on Deep Neural Nets", ICML 2019,
            equation 3 and algorithm 1; attacked with by Peri et al., "Deep k-NN Defense against
            Clean-label Data Poisoning Attacks", ECCV Workshops 2020.
Code        zhuchen03/ConvexPolytopePosioning @ bb3959d.
Goal        targeted: a linear head that puts every poison into its class puts the target there
            too, since it lies in their convex hull.
Cost        steps x surrogates forward and backward passes over the poisons, five in the papers.

Given a target t, base images x_1..x_P of the intended class and surrogates m with features h_m:

1.  h_m(t), once. Start at delta = 0 and c_m = (1/P, ..., 1/P).
2.  Repeat ``steps`` times:
    a.  For each m: c_m <- argmin over the simplex of ||h_m(t) - sum_i c_i h_m(x_i + delta_i)||^2,
        from the last c_m on, with the features as constants.
    b.  One step of Adam on delta down sum over m of
        1/2 ||h_m(t) - sum_i c_mi h_m(x_i + delta_i)||^2 / ||h_m(t)||^2, with c_m as constants;
        project onto the bound and onto [0, 1].

As c sums to 1, a needs only the P x P matrix of products of h(x_i) - h(t).

Deviations  a is solved by FISTA to a duality gap of 1e-6 of the largest squared distance of a
            poison, or 200 steps; the code's projected gradient takes up to 10,000 steps. The code's
            surrogates are of six architectures with dropout at three rates; here they are six
            networks of the victim's architecture, without dropout, and features are the last
            layer's alone. MNIST's epsilon is the untargeted attacks'.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from poisonbench.attacks.base import TargetedTask
from poisonbench.attacks.shared.feature_space import FeatureSpace, adam_steps
from poisonbench.attacks.shared.targeted_optimiser import OptimiserConfig
from poisonbench.core.devices import Flag
from poisonbench.core.settings import Profiles, setting
from poisonbench.core.work import Passes, Sizes, Work
from poisonbench.training.recipe import Recipe

VERSION = 1

PROFILES: Profiles = {
    "paper": {
        "mnist": {"epsilon": 76 / 255},
        "mnist-sample": {"epsilon": 64 / 255, "steps": 100, "surrogates": 3},
        # Scaled to two cores; twice the steps do little more (docs/findings.md, "The presets in
        # colour").
        "cifar10@10000": {"steps": 250, "surrogates": 2},
    }
}

#: Steps of the solver between two looks at whether it is done.
_LOOK_EVERY = 10


@dataclass(frozen=True, kw_only=True)
class Config(OptimiserConfig):
    """Settings of CP; the defaults are its authors' for CIFAR-10."""

    epsilon: float = setting(0.1, "L-infinity budget, in pixels of [0, 1].", over=0, high=1)
    steps: int = setting(4000, "Steps of Adam.", low=1)
    step_size: float = setting(
        0.04, "Adam's learning rate, in standard deviations of the data (1 if grey).", over=0
    )
    surrogates: int = setting(
        6, "Models of the attacker, each with coefficients of its own.", low=1
    )


def work(config: Config, recipe: Recipe, sizes: Sizes) -> Work:
    """The steps on all surrogates; the coefficients' solver is not counted."""
    images = config.steps * config.surrogates * sizes.images
    return Work(
        passes=(
            Passes(kind="pixels", images=images, batch=sizes.images, precision=config.precision),
        ),
        surrogates=tuple((number, recipe.epochs) for number in range(config.surrogates)),
        memory=3 * sizes.pixels + config.surrogates * sizes.weights,
        remarks=("the solver of the coefficients in each step is not counted",),
    )


def craft(task: TargetedTask, config: Config) -> Tensor:
    """Poisons (T, P, C, H, W) float32 in [0, 1] for the task's targets."""
    # 1. The targets' features; equal coefficients.
    models = [task.snapshots(number, [task.epochs])[0] for number in range(config.surrogates)]
    space = FeatureSpace(models, task.targets, config.precision)
    num_targets, num_poisons = task.images.shape[:2]
    shape = (len(models), num_targets, num_poisons)
    coefficients = task.images.new_full(shape, 1 / num_poisons, dtype=torch.float64)

    def objective(number: int, images: Tensor, rows: Tensor) -> Tensor:
        target = space.targets[number][rows]
        offsets = space.embed(number, images) - target[:, None]
        # a. Coefficients.
        exact = offsets.detach().double()
        solved = simplex_coefficients(exact @ exact.mT, coefficients[number, rows])
        coefficients[number, rows] = solved
        # b. The loss.
        return polytope_distance(offsets, solved, target)

    # 2.
    return adam_steps(task, config, objective, models, {"coefficients": coefficients})


def polytope_distance(offsets: Tensor, coefficients: Tensor, target: Tensor) -> Tensor:
    """Step b's losses (G,), of the poisons' features less the target's, (G, P, F), and c (G, P)."""
    residual = (coefficients.to(offsets.dtype)[..., None] * offsets).sum(1)
    return residual.square().sum(1) / (2 * target.square().sum(1)).clamp(min=1e-12)


def simplex_coefficients(
    gram: Tensor, start: Tensor, *, steps: int = 200, tolerance: float = 1e-6
) -> Tensor:
    """Where c' gram c, (G, P, P), has its minimum over the simplex, (G, P), by FISTA with restarts.

    A group's result does not depend on the others': it stays as it is once its duality gap,
    c' G c - min_i (G c)_i, is within the tolerance, a share of the largest diagonal element.
    """
    # The largest row sum bounds the largest eigenvalue.
    rate = 1 / gram.abs().sum(-1).amax(-1, keepdim=True).clamp(min=1e-300)
    allowed = tolerance * gram.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True)
    current = ahead = start
    inertia = torch.ones_like(rate)
    for step in range(steps):
        slope = (gram @ current[..., None])[..., 0]
        gap = (current * slope).sum(-1, keepdim=True) - slope.amin(-1, keepdim=True)
        open_ = gap > allowed
        if step % _LOOK_EVERY == 0:
            all_closed = Flag(~open_.any())
        # Steps in which a GPU has not answered change nothing that is closed.
        if all_closed.is_true():
            break
        following = project_simplex(ahead - rate * (gram @ ahead[..., None])[..., 0])
        # Momentum that points uphill starts anew.
        uphill = ((ahead - following) * (following - current)).sum(-1, keepdim=True) > 0
        grown = (1 + (1 + 4 * inertia.square()).sqrt()) / 2
        momentum = torch.where(uphill, 0, (inertia - 1) / grown)
        ahead = following + momentum * (following - current)
        inertia = torch.where(uphill, 1, grown)
        current = torch.where(open_, following, current)
    return current


def project_simplex(points: Tensor) -> Tensor:
    """The closest points (..., P) that are at least 0 and sum to 1."""
    falling = points.sort(-1, descending=True).values
    excess = falling.cumsum(-1) - 1
    ranks = torch.arange(1, points.shape[-1] + 1, device=points.device)
    kept = (falling * ranks > excess).sum(-1, keepdim=True)
    return (points - excess.gather(-1, kept - 1) / kept).clamp(min=0)
