"""Steps towards another class's label on a clean surrogate: what DAP and TAP share.

Given a surrogate f, images x and a class t for each:

1.  Start at x or at a random point near it.
2.  Repeat ``steps`` times: x' <- project(x' - alpha * sign(grad of CE(f(x'), t))).
3.  With several restarts keep, for each image, the end point of the lowest loss.
"""

import torch
from torch import Tensor

from poisonbench.attacks.base import AttackTask
from poisonbench.attacks.shared.adaptive import AssumedDefense
from poisonbench.attacks.shared.resuming import resume_counts
from poisonbench.core.devices import send
from poisonbench.core.errors import UsageError
from poisonbench.core.work import Passes, Sizes, Work
from poisonbench.models.classifier import BLOCK, pass_size
from poisonbench.training.projected_gradient import (
    ProjectedGradient,
    draw_crop_flip,
    example_losses,
    warn_of_zero_gradients,
)
from poisonbench.training.recipe import Recipe


def next_classes(task: AttackTask, name: str) -> Tensor:
    """The class (P,) after each image's own, (y + 1) mod K.

    UsageError where there is no other class; ``name`` is the attack's.
    """
    if task.num_classes < 2:
        raise UsageError(
            f"{name}: expected at least 2 classes, got {task.num_classes}; choose another attack"
        )
    return (task.labels + 1) % task.num_classes


def descend(
    task: AttackTask,
    name: str,
    targets: Tensor,
    descent: ProjectedGradient,
    *,
    restarts: int = 1,
    random_start: bool = False,
    augment: bool = False,
    defense: AssumedDefense | None = None,
) -> Tensor:
    """Images (P, C, H, W) nearer to the classes ``targets`` (P,), pass after pass.

    Parameters: the search, and four choices that DAP leaves as they are.

    Args:
        task: the attack's, whose surrogate the loss is of.
        name: the attack's, in a warning.
        targets: int64.
        descent: ball, steps and their length, which is negative.
        restarts: of which the lowest loss is kept, image by image.
        random_start: start at N(0, radius^2) cut off at the ball, not at the image.
        augment: let the network see a random crop and flip at each step.
        defense: what the attacker expects to be done to the images before that.
    """
    model, clean, device = task.surrogate(), task.images, task.images.device
    defense = defense or AssumedDefense()
    defense.meet(model, clean, task.labels, task.num_classes)
    kept = {
        "images": clean.clone(),
        "losses": clean.new_full((len(clean),), torch.inf),
        "zero_share": torch.zeros((), device=device),
    }
    count = len(clean)
    size = defense.images_in_a_pass or pass_size(clean, gradients=True)
    num_passes = len(range(0, count, size))
    # Images of all restarts, and not passes, whose size is the device's.
    done = resume_counts(task, kept, {"images": 0})["images"]
    while done < restarts * count:
        restart, first = divmod(done, count)
        rows = slice(first, min(first + size, count))
        images, at = clean[rows], targets[rows]

        # 1. Start.
        noises, crops = [], []
        for block in images.split(BLOCK):
            if random_start:
                noise = torch.randn(block.shape, generator=task.generator).clamp_(-1, 1)
                noises.append(noise)
            if augment:
                crops.append(draw_crop_flip(descent.steps, len(block), task.generator, device))
        start, draws = images, None
        if random_start:
            start = images + descent.ball.radius * send(torch.cat(noises), device)
            start.clamp_(0, 1)
        if augment:
            shifts, flips = zip(*crops, strict=True)
            draws = torch.cat(shifts, 1), torch.cat(flips, 1)

        # 2. Descend.
        number = (restart + 1) * num_passes - len(range(first, count, size))
        moved, zero_share = descent.perturb(
            model,
            images,
            at,
            start=start,
            draws=draws,
            hooks=defense,
            report=lambda step, steps, before=number: task.report(  # type: ignore[misc]
                before * steps + step, restarts * num_passes * steps
            ),
        )
        kept["zero_share"] += zero_share * len(images) / (restarts * count)

        # 3. Keep the lowest loss.
        if restarts > 1:
            losses = example_losses(model, defense.seen(moved), at)
            better = losses < kept["losses"][rows]
            moved = torch.where(better[:, None, None, None], moved, kept["images"][rows])
            kept["losses"][rows] = torch.minimum(losses, kept["losses"][rows])
        kept["images"][rows] = moved
        done += len(images)
        task.checkpoint.save_if_due({"images": done}, kept)
    warn_of_zero_gradients(kept["zero_share"], name)
    return kept["images"]


def descent_work(sizes: Sizes, recipe: Recipe, steps: int, precision: str) -> Work:
    """So many passes over the images, of all steps and restarts, on one surrogate."""
    return Work(
        passes=(Passes(kind="pixels", images=sizes.images * steps, precision=precision),),
        surrogates=((0, recipe.epochs),),
        memory=3 * sizes.pixels,
    )
