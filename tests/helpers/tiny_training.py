"""A problem that trains in a few hundredths of a second, for tests of training and of defenses."""

from unittest.mock import patch

import torch
from torch import nn

from poisonbench.core.seeds import Seeds
from poisonbench.data.splits import Split, digest_tensors
from poisonbench.models.classifier import Classifier, initialise
from poisonbench.training.recipe import Recipe
from poisonbench.training.state import Defense, TrainingSet, TrainingState
from poisonbench.training.trainer import Trainer

K = 4
SHAPE = (2, 8, 8)
CPU = torch.device("cpu")

#: Three batches an epoch of a 22-image split, the last one smaller.
BASE = {
    "epochs": 3,
    "batch_size": 8,
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "milestones": (2,),
    "augment": "none",
    "precision": "float32",
}


def recipe(**changes) -> Recipe:
    return Recipe(**(BASE | changes))


def split(size: int = 22, seed: int = 0, shape=SHAPE) -> Split:
    """A pattern a class under noise, so that there is something to learn."""
    patterns = torch.randint(0, 160, (K, *shape), generator=torch.Generator().manual_seed(99))
    noise = torch.randint(0, 96, (size, *shape), generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(size) % K
    return Split((patterns[labels] + noise).to(torch.uint8), labels)


def network(seeds: Seeds = Seeds(), shape=SHAPE) -> Classifier:  # noqa: B008
    """A convolution, batch norm and a linear head; pixels are normalised."""
    channels, height, width = shape
    features = nn.Sequential(
        nn.Conv2d(channels, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
    )
    width_of_head = 6 * ((height - 2) // 2) * ((width - 2) // 2)
    statistics = ((0.4, 0.5)[:channels], (0.2, 0.3)[:channels])
    model = Classifier(features, nn.Linear(width_of_head, K), *statistics)
    initialise(model, seeds.generator("initial weights"))
    return model


def train(
    defense: Defense | None = None,
    *,
    data: Split | None = None,
    seeds: Seeds = Seeds(),  # noqa: B008
    recipe: Recipe | None = None,
    shape=SHAPE,
    **options,
):
    """The trained model and the result of one run."""
    model = network(seeds, shape)
    trainer = Trainer(recipe=recipe or Recipe(**BASE), seeds=seeds, device=CPU, **options)
    data = data if data is not None else split(shape=shape)
    with watched_rows():
        return model, trainer.fit(model, data, split(12, seed=1, shape=shape), defense)


def weights_digest(model: Classifier) -> str:
    return digest_tensors(*model.state_dict().values())


def state_of(
    model: Classifier,
    data: Split,
    validation: Split,
    *,
    epoch: int = 1,
    train: TrainingSet | None = None,
    notes: list | None = None,
) -> TrainingState:
    """What a defense sees at the start of an epoch."""
    original = TrainingSet(data.images, data.labels)
    return TrainingState(
        epoch=epoch,
        step=0,
        model=model,
        original=original,
        train=original if train is None else train,
        validation=validation,
        generator=lambda purpose: Seeds().generator("defense", purpose, epoch, 0),
        note=(notes if notes is not None else []).append,
        train_copy=lambda purpose, split: model,
    )


class Recorder(Defense):
    """Changes nothing; remembers what each batch held."""

    def __init__(self):
        super().__init__()
        self.batches = []
        self.states = []

    def start_epoch(self, state):
        self.states.append(state)
        return state.train

    def perturb_batch(self, state, images, labels):
        self.batches.append((state.epoch, batch_rows(), images.clone(), labels))
        return images

    def rows(self, epoch: int):
        return torch.cat([rows for number, rows, *_ in self.batches if number == epoch])


class _WatchedSet(TrainingSet):
    last = None

    def pixels(self, rows):
        _WatchedSet.last = rows
        return super().pixels(rows)


def watched_rows():
    """A context in which :func:`batch_rows` knows the rows of the batch that is trained on."""
    return patch("poisonbench.training.trainer.TrainingSet", _WatchedSet)


def batch_rows():
    """The rows that the training loop read last: in ``perturb_batch`` those of the batch."""
    return _WatchedSet.last


def features(channels, height, width):
    layers = nn.Sequential(
        nn.Conv2d(channels, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AvgPool2d(4),
        nn.Flatten(),
    )
    return layers, 4 * ((height - 2) // 4) * ((width - 2) // 4)
