"""What defenses are called with by hand: a view of a run, rounds of HINT, features in classes."""

import torch
from torch import nn

from helpers.attack_tasks import fake_split
from helpers.tiny_training import split, state_of
from poisonbench.core.seeds import Seeds
from poisonbench.defenses.hint import Hint
from poisonbench.models.classifier import Classifier
from poisonbench.training.state import TrainingSet, TrainingState


def state_for(model, train: TrainingSet, *, epoch=0, step=0, trial=0, notes=None) -> TrainingState:
    return TrainingState(
        epoch=epoch,
        step=step,
        model=model,
        original=train,
        train=train,
        validation=fake_split(4, 1),
        generator=lambda purpose: Seeds(0, trial).generator("defense", purpose, epoch, step),
        note=(notes if notes is not None else []).append,
        train_copy=lambda purpose, split: model,
    )


def pixel_classifier(pixels: int, scale: float = 1.0) -> Classifier:
    """Logits are the pixels of a (K, 1, 1) image, scaled, so that a test can choose them."""
    model = Classifier(nn.Flatten(), nn.Linear(pixels, pixels), (0.0,) * pixels, (1.0,) * pixels)
    nn.init.eye_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    model.head.weight.data *= scale
    return model


DATA, VALIDATION = split(30), split(13, seed=1)
BETA = 16 / 255
#: Steps so long that some of the noise, not all, is clipped at beta.
GAMMA = 0.5


def start(config, model, **options):
    """One scheduled round: the training set, the defense (a fresh one unless given), the notes."""
    notes = []
    defense = options.pop("defense", None) or Hint(config)
    options.setdefault("epoch", defense.config.schedule[0])
    state = state_of(model, DATA, VALIDATION, notes=notes, **options)
    return defense.start_epoch(state), defense, notes


def pixels(train: TrainingSet):
    return train.pixels(slice(None)).double()


def problem(size=60, width=5, num_classes=3, seed=0, dtype=torch.float64):
    """Overlapping classes of unequal sizes, in a random order."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(size, generator=generator) ** 1.5 * num_classes).long()
    centres = torch.randn(num_classes, width, generator=generator, dtype=torch.float64)
    noise = torch.randn(size, width, generator=generator, dtype=torch.float64)
    return (3 + centres[labels] + noise).to(dtype), labels


def fresh():
    return torch.Generator().manual_seed(7)


def naive_order(points, num_medoids):
    """Every gain of every candidate at every step, in plain Python; ties to the lowest row."""
    rows = points.tolist()
    distance = [
        [sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) ** 0.5 for y in rows] for x in rows
    ]
    largest = max(max(row) for row in distance)
    similarity = [[largest - d for d in row] for row in distance]
    order, covered = [], [0.0] * len(rows)
    for _ in range(num_medoids):
        gains = [
            -1.0
            if j in order
            else sum(max(s - c, 0.0) for s, c in zip(similarity[j], covered, strict=True))
            for j in range(len(rows))
        ]
        best = gains.index(max(gains))
        order.append(best)
        covered = [max(s, c) for s, c in zip(similarity[best], covered, strict=True)]
    return order


def naive_clusters(points, num_medoids):
    order = naive_order(points, num_medoids)
    owner = [
        min(range(num_medoids), key=lambda k: float((x - points[order[k]]).norm())) for x in points
    ]
    return owner, [owner.count(k) for k in range(num_medoids)]
