"""Feature space: what the attacks on a target's features share.

T targets, P poisons each, F features: the input of the classifier's head.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from poisonbench.attacks.base import TargetedTask
from poisonbench.attacks.shared.resuming import adam_tensors, resume
from poisonbench.attacks.shared.targeted_optimiser import Objective, OptimiserConfig
from poisonbench.models.classifier import Classifier, groups_in_a_pass
from poisonbench.models.folding import folded
from poisonbench.training.precision import precise
from poisonbench.training.projected_gradient import project_linf


class FeatureSpace:
    """The surrogates as feature extractors: frozen copies in eval mode.

    ``targets`` are the targets' features (T, F) at each; ``precision`` is that of all passes.
    """

    def __init__(
        self, models: Sequence[Classifier], targets: Tensor, precision: str = "float32"
    ) -> None:
        self.models, self.precision = models, precision
        self._networks = [folded(model) for model in models]
        # Each in a pass of its own, so that no neighbour changes a rounding.
        with torch.no_grad():
            self.targets = [
                torch.cat([self.embed(number, target[None, None])[0] for target in targets])
                for number in range(len(models))
            ]

    def embed(self, number: int, images: Tensor) -> Tensor:
        """Features (G, P, F) of images (G, P, C, H, W) at the surrogate of that number."""
        flat = images.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        with precise(images.device, self.precision):
            features = self._networks[number].embed(flat)
        return features.to(images.dtype).view(*images.shape[:2], -1)

    def objective(self, distance: Callable[[Tensor, Tensor], Tensor]) -> Objective:
        """The distance (G,) of the poisons' features (G, P, F) from the targets' (G, F)."""
        return lambda number, images, rows: distance(
            self.embed(number, images), self.targets[number][rows]
        )


def mean_distance(features: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference (G,) of the mean of features (G, P, F) from the target's (G, F)."""
    return (features.mean(1) - target).square().mean(1)


def adam_steps(
    task: TargetedTask,
    config: OptimiserConfig,
    objective: Objective,
    models: Sequence[Classifier],
    memory: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Poisons (T, P, C, H, W) from the base images by Adam, as Bullseye and Convex Polytope brew.

    Each step descends the sum of the surrogates' losses and is projected onto the bound and onto
    [0, 1]. There is no randomness, decay or augmentation. ``memory`` are tensors that the objective
    changes in place, to be saved too; by any name but "images", "moved" and "adam...".
    """
    base, unit = task.images, config.unit(models[0].std[0])
    rows = torch.arange(len(base), device=base.device)
    moved = torch.zeros_like(base, requires_grad=True)
    adam = torch.optim.Adam([moved], lr=config.step_size)
    size, images = groups_in_a_pass(base), base.clone()
    kept = {"images": images, "moved": moved, **(memory or {})}
    position = resume(task.checkpoint, kept, adam)
    for step in range(position.get("step", 0), config.steps):
        adam.zero_grad()
        for group in rows.split(size):
            for number in range(len(models)):
                seen = base[group] + unit * moved[group]
                objective(number, seen, group).sum().backward()
        adam.step()
        with torch.no_grad():
            images.copy_(project_linf(base + unit * moved, base, config.epsilon))
            moved.copy_((images - base) / unit)
        task.report(step + 1, config.steps)
        task.checkpoint.save_if_due({"step": step + 1}, {**kept, **adam_tensors(adam)})
    return images
