"""The inverse Hessian of the head's loss times a vector.

Because logits are linear in the head's weights the Hessian of the mean loss is exactly

    H = 1/n sum_i (diag(p_i) - p_i p_i^T) kron (a_i a_i^T)        a_i = [h_i; 1]

positive semidefinite and always singular (a vector added to every class changes no probability),
so it is damped: (H + damping I) v = g. Labels do not enter. Its products need only the cached
inputs and probabilities, 4 n K (F + 1) operations each.

Two solvers: ``conjugate_gradient``, exact to a stated residual, and ``lissa``, the stochastic
recursion of the HINT paper (Agarwal et al., JMLR 2017).

Shapes: n examples, K classes, F features; vectors are (K, F + 1).
"""

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from poisonbench.core.errors import DivergedError


@dataclass(frozen=True)
class HeadHessian:
    """The head's Hessian over n examples, as products, of their inputs a and probabilities p."""

    inputs: Tensor
    probabilities: Tensor

    def product(self, vector: Tensor) -> Tensor:
        """H times a vector (K, F + 1), undamped."""
        moved = self.probabilities * (self.inputs @ vector.T)
        curved = moved - self.probabilities * moved.sum(1, keepdim=True)
        return curved.T @ self.inputs / len(self.inputs)

    def rows(self, rows: Tensor) -> Self:
        """The Hessian over some of the examples."""
        return replace(self, inputs=self.inputs[rows], probabilities=self.probabilities[rows])


@dataclass(frozen=True)
class Solution:
    """A solve's result."""

    #: v, (K, F + 1).
    vector: Tensor
    #: Products with the Hessian.
    iterations: int
    #: |(H + damping I) v - g| / |g|.
    residual: float


def conjugate_gradient(
    hessian: HeadHessian,
    gradient: Tensor,
    *,
    damping: float,
    tolerance: float = 1e-5,
    max_iterations: int = 1000,
) -> Solution:
    """Solve (H + damping I) v = g to a relative residual (Hestenes & Stiefel 1952).

    Raises:
        DivergedError: not reached within ``max_iterations``, or the gradient or a product is not
            finite; names what to change.
    """
    target = float(gradient.norm()) * tolerance
    solution, remainder, search = torch.zeros_like(gradient), gradient.clone(), gradient.clone()
    squared = remainder.square().sum()
    if not math.isfinite(target):
        raise DivergedError(
            "expected a finite gradient to solve for, got nan or infinity; lower --learning-rate"
        )
    for iteration in range(max_iterations):
        if float(squared.sqrt()) <= target:
            return Solution(solution, iteration, _relative(squared, gradient))
        moved = hessian.product(search) + damping * search
        length = squared / (search * moved).sum()
        solution += length * search
        remainder -= length * moved
        previous, squared = squared, remainder.square().sum()
        search = remainder + squared / previous * search
    raise DivergedError(
        f"expected the influence solve to reach a residual of {tolerance:g} in {max_iterations} "
        f"iterations, got {_relative(squared, gradient):.2g}; raise --damping"
    )


def lissa(
    hessian: HeadHessian,
    gradient: Tensor,
    generator: torch.Generator,
    damping: float,
    scale: float,
    shape: tuple[int, int, int],
) -> Solution:
    """The stochastic recursion h <- g + (1 - damping / scale) h - H_batch h / scale, v = h / scale.

    Its fixed point solves (H + damping I) v = g. The reference code's "damp" is damping / scale.
    The scale must exceed half the largest eigenvalue of every batch's damped Hessian. The shape is
    the repeats, whose mean is taken, their steps, and the examples of a step.

    Raises:
        DivergedError: the recursion left the finite numbers; names the scale.
    """
    repeats, steps, batch_size = shape
    total = torch.zeros_like(gradient)
    for _ in range(repeats):
        draws = torch.randint(len(hessian.inputs), (steps, batch_size), generator=generator)
        estimate = gradient.clone()
        for rows in draws.to(gradient.device):
            curvature = hessian.rows(rows).product(estimate)
            estimate = gradient + (1 - damping / scale) * estimate - curvature / scale
        total += estimate / scale
    vector = total / repeats
    remainder = hessian.product(vector) + damping * vector - gradient
    residual = _relative(remainder.square().sum(), gradient)
    if not torch.isfinite(vector).all() or residual > 1:
        raise DivergedError(
            f"expected the LiSSA recursion to settle, got a relative residual of {residual:.2g}; "
            "raise --lissa-scale"
        )
    return Solution(vector, steps * repeats, residual)


def _relative(squared_norm: Tensor, gradient: Tensor) -> float:
    return float(squared_norm.sqrt() / gradient.norm().clamp(min=torch.finfo(gradient.dtype).tiny))
