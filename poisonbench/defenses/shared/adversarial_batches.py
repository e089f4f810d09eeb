"""Batches of adversarial examples in an L-infinity ball: what adversarial trainings share."""

from typing import Protocol

from torch import Tensor

from poisonbench.core.work import Passes
from poisonbench.defenses.base import Defense, Recipe, TrainingState
from poisonbench.models.folding import folded
from poisonbench.training.projected_gradient import Ball, ProjectedGradient


class Search(Protocol):
    """The settings of a search: bound, steps, and a step's length as a share of the bound."""

    @property
    def epsilon(self) -> float: ...  # noqa: D102
    @property
    def steps(self) -> int: ...  # noqa: D102
    @property
    def step_ratio(self) -> float: ...  # noqa: D102


class AdversarialBatches(Defense):
    """Fits every batch on adversarial examples, and on nothing else."""

    config: Search
    recipe: Recipe

    def perturb_batch(self, state: TrainingState, images: Tensor, labels: Tensor) -> Tensor:
        """The batch (B, C, H, W) at the end of a search on the network, frozen in eval mode."""
        config, ball = self.config, Ball(self.config.epsilon)
        start = ball.random_start(images, state.generator("start"))
        ascent = ProjectedGradient(ball, config.steps, config.step_ratio, self.recipe.precision)
        # The copy is made anew for each batch, since the weights move; a step costs far more.
        return ascent.perturb_batch(folded(state.model), images, labels, start)


def search_passes(config: Search, recipe: Recipe, images: int) -> Passes:
    """What the search in so many images costs."""
    return Passes(
        kind="pixels",
        images=images * config.steps,
        batch=recipe.batch_size,
        precision=recipe.precision,
    )
