"""ATDA: adversarial training, as a defense against delusive (availability) poisons.

Papers     Tao et al., "Better Safe Than Sorry: Preventing Delusive Adversaries with Adversarial
           Training", NeurIPS 2021; Zhang et al., "Attacks Which Do Not Kill Training Make
           Adversarial Learning Stronger" (FAT), ICML 2020, Algorithm 1.
Reference  TLMichael/Delusive-Adversary @ 8f033e0; zjfheart/Friendly-Adversarial-Training @ 80a0640
           (which has no licence: only its behaviour is reproduced).
Cost       a forward and input-gradient pass per example and step: of ``steps`` at most, of those
           that it takes before it stops with early stopping; the record notes the mean each epoch.

Algorithm  for every batch, after augmentation (numbers reappear below)
  1  start at a random point of the ball around each image: in L2 on its surface, in L-infinity
     uniformly; then into [0, 1]
  2  up to ``steps`` times, model frozen in eval mode: an example that is found misclassified for
     the (tau + 1)-th time stops where it is; the others step up the loss, then back into the
     ball, then into [0, 1]
  3  fit the batch where each example stopped

tau is 0, then 1 from 5/12 and 2 from 3/4 of the epochs on (FAT: after 50 and 90 of 120). It counts,
as in FAT; HINT describes a threshold on the loss.

Profiles   "paper" is HINT's column (arXiv 2309.08549), which names FAT, a radius of 0.25 and ATDA's
           code, and no norm. L2 with 7 steps is that code's default; in L-infinity 0.25 would ruin
           CIFAR-10, where HINT prints 91.8 %. The same L2 ball is the default against targeted
           attacks, whose 0.062 "linf" reads as L-infinity 16/255, in steps of a quarter of that
           (FAT: 0.226). "code" is ATDA's code: plain PGD in L2 of radius 0.5.
Scenarios  the search goes through the whole network; in transfer the head alone learns from it.
Deviations FAT adds Gaussian noise of 0.001 at each step; left out. The recipe is the one that all
           defenses share; ATDA's trains 150 epochs and picks its checkpoint on poisoned images.
           The network searches in the training's precision; the pixels stay float32.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from poisonbench.core.settings import BaseConfig, Profiles, setting
from poisonbench.core.work import Passes, Sizes, Work
from poisonbench.defenses.base import Defense, Recipe, TrainingState
from poisonbench.models.folding import folded
from poisonbench.training.projected_gradient import Ball, ProjectedGradient, StepHooks

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Config(BaseConfig):
    """ATDA's settings; the defaults are HINT's."""

    norm: Literal["l2", "linf"] = setting("l2", "Norm of the ball.")
    radius: float = setting(0.25, "Its radius, in pixels of [0, 1].", over=0, high=1e30)
    steps: int = setting(7, "Most steps of the search.", low=1)
    step_ratio: float = setting(0.2, "Length of a step as a share of the radius.", over=0, high=2)
    early_stop: bool = setting(True, "Friendly: stop when found misclassified tau + 1 times.")


PROFILES: Profiles = {
    "paper": {
        # As far in fewer steps: what a CPU does while someone waits.
        "mnist-sample": {"steps": 4, "step_ratio": 0.35},
        "mnist-sample@1000": {"steps": 7, "step_ratio": 0.2},
        "cifar10@10000": {"steps": 4, "step_ratio": 0.35},
    },
    "linf": {"*": {"norm": "linf", "radius": 16 / 255, "steps": 10, "step_ratio": 0.25}},
    "code": {"*": {"radius": 0.5, "early_stop": False}},
}


def work(config: Config, recipe: Recipe, sizes: Sizes) -> Work:
    """The search with all its steps: early stopping makes it shorter."""
    images = recipe.epochs * sizes.images * config.steps
    batch, precision = recipe.batch_size, recipe.precision
    search = Passes(kind="pixels", images=images, batch=batch, precision=precision)
    return Work(passes=(search,))


class AdversarialTraining(Defense):
    """Fits every batch on adversarial examples, by default friendly ones."""

    config: Config
    recipe: Recipe

    def perturb_batch(self, state: TrainingState, images: Tensor, labels: Tensor) -> Tensor:
        """The batch (B, C, H, W) where its search stopped."""
        config, ball = self.config, Ball(self.config.radius, self.config.norm)
        # 1 random start
        start = ball.random_start(images, state.generator("start"))
        # 2 search
        patience = tau(state.epoch, self.recipe.epochs) if config.early_stop else None
        stop = EarlyStop(labels, patience)
        search = ProjectedGradient(ball, config.steps, config.step_ratio, self.recipe.precision)
        # The copy is made anew for each batch, since the weights move; a step costs far more.
        points = search.perturb_batch(folded(state.model), images, labels, start, stop)
        self._tally(state, len(images), stop.steps)
        # 3 fit there
        return points

    def _tally(self, state: TrainingState, images: int, steps: int) -> None:
        """Count the steps; after the epoch's last batch note their mean over the examples."""
        total = self.memory.get("steps", torch.zeros((), dtype=torch.int64)) + steps
        if state.step * self.recipe.batch_size + images >= len(state.train):
            state.note({"round": "atda", "mean_steps": int(total) / len(state.train)})
            total = torch.zeros_like(total)
        self.memory["steps"] = total


def tau(epoch: int, epochs: int) -> int:
    """Steps that an example may take while misclassified, when ``epoch`` of ``epochs`` are done."""
    return (12 * epoch >= 5 * epochs) + (4 * epoch >= 3 * epochs)


class EarlyStop(StepHooks):
    """Step 2's rule for a batch: who steps on, and how many steps all have taken together.

    Finding those who do is the one host synchronisation a step on a GPU; masks would need none, but
    cost all steps of all examples, several times the mean. A patience of None never stops early.
    """

    def __init__(self, labels: Tensor, patience: int | None) -> None:
        self.left = None if patience is None else torch.full_like(labels, patience)
        self.steps = 0

    def moving(self, logits: Tensor, labels: Tensor) -> Tensor | None:
        """Rows of the examples that are right, or may be wrong once more."""
        if self.left is None:
            return None
        is_wrong = logits.argmax(1) != labels
        moves = (~is_wrong | (self.left > 0)).nonzero().flatten()
        self.left = (self.left - is_wrong.long())[moves]
        return moves

    def stepped(self, gradient: Tensor, step: int) -> None:
        """Count the steps."""
        self.steps += len(gradient)


build = AdversarialTraining
