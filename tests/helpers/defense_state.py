"""A defense's view of a training run, made by hand, for tests that call its hooks."""

from torch import nn

from helpers.fake_data import fake_split
from poisonbench.core.seeds import Seeds
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
