"""Plain adversarial training: fit every batch where the loss in an L-infinity ball is largest.

Papers     Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018;
           as a defense against availability poisons Tao et al., "Better Safe Than Sorry: Preventing
           Delusive Adversaries with Adversarial Training", NeurIPS 2021.
Reference  lafeat/apbench @ 9a6fb91, mardrys.py.
Cost       ``steps`` forward and input-gradient passes an image and epoch: with 10 some eight times
           plain training.

Algorithm  for every batch, after augmentation (shared/adversarial_batches.py)
  1  start at a random point of the ball around each image, inside [0, 1]
  2  ``steps`` times: step up the loss by the sign of its gradient, back into the ball, then into
     [0, 1]; the network is frozen in eval mode
  3  fit the cross-entropy of these images, and of no others

Settings   APBench's: radius 8/255, 10 steps of 2/255. ISS trains at .031 in steps of .007.
Where      it gives accuracy on clean images away, and does not help where a poison is out of the
           ball's reach: against OPS both papers print less than 16 %. A radius as large as the
           poison's comes on top of it: on digits nothing robust is then left to be learned
           (docs/findings.md, "The field as it is"), and ``radius_share`` 0.5 is the form to use.
           REM judges poisons of 8/255 by trainings at 4/255, too.
Scenarios  the search goes through the whole network; in transfer the head alone learns from it.
Deviations The start is uniform in the ball, as Madry's; APBench's is normal, of deviation 2/255.
           MNIST's bound is the untargeted attacks', as CIFAR-10's is.
"""

from dataclasses import dataclass, replace

from poisonbench.core.settings import BaseConfig, Profiles, setting
from poisonbench.core.work import Sizes, Work
from poisonbench.defenses.base import Recipe
from poisonbench.defenses.shared.adversarial_batches import AdversarialBatches, search_passes

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Config(BaseConfig):
    """Settings of the search."""

    epsilon: float = setting(8 / 255, "L-infinity bound, in pixels of [0, 1].", over=0, high=1)
    steps: int = setting(10, "Steps of the search.", low=1)
    step_ratio: float = setting(0.25, "Length of a step as a share of the bound.", over=0, high=2)
    radius_share: float = setting(
        1.0,
        "Share of epsilon that is searched; 0.5 where epsilon is the poison's bound.",
        extension=True,
        over=0,
        high=1,
    )


PROFILES: Profiles = {
    "paper": {
        "mnist": {"epsilon": 76 / 255},
        # As far in fewer steps: what a CPU does while someone waits.
        "mnist-sample": {"steps": 4, "step_ratio": 0.35},
        "cifar10@10000": {"steps": 4, "step_ratio": 0.35},
    }
}


def work(config: Config, recipe: Recipe, sizes: Sizes) -> Work:
    """The search in every epoch."""
    return Work(passes=(search_passes(config, recipe, recipe.epochs * sizes.images),))


def build(config: Config, recipe: Recipe) -> AdversarialBatches:
    """The search in a share of the ball."""
    return AdversarialBatches(replace(config, epsilon=config.radius_share * config.epsilon), recipe)
