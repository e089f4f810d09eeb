"""What a defense sees and may change: the types of the shared training loop."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from poisonbench.core.settings import require
from poisonbench.data.splits import Split, pixels_of
from poisonbench.models.classifier import Classifier


@dataclass(frozen=True)
class TrainingSet:
    """The images that an epoch trains on; immutable, a defense returns a changed copy."""

    #: (N, C, H, W), uint8, or float32 in [0, 1] once a defense has changed pixels.
    images: Tensor
    #: (N,) int64; a defense never changes them.
    labels: Tensor
    #: (N,) bool, rows that are trained on; None keeps all.
    keep: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, rows: Tensor | slice) -> Tensor:
        """float32 images in [0, 1] of the given rows, channels last in memory."""
        return pixels_of(self.images[rows])

    def with_images(self, images: Tensor) -> Self:
        """A copy with other images (N, C, H, W), uint8 or float32 in [0, 1]."""
        return replace(self, images=images)

    def with_keep(self, keep: Tensor) -> Self:
        """A copy that trains on the rows where ``keep`` (N,) is true."""
        return replace(self, keep=keep)


@dataclass(frozen=True)
class TrainingState:
    """What a defense may look at: no test split and no poison indices exist here.

    Its fields are nobody's to set; what a defense returns and does to the ``model`` counts.
    """

    #: Completed epochs, so 0 before the first.
    epoch: int
    #: Batches done in this epoch.
    step: int
    #: The classifier in training, on the device, in train mode; its parameters stay those that
    #: they are, and float32.
    model: Classifier
    #: The training split as given, images uint8.
    original: TrainingSet
    #: The current training set, what the last ``start_epoch`` returned.
    train: TrainingSet
    #: The clean, trusted validation split.
    validation: Split
    #: CPU generator for a purpose, seeded by trial, epoch and step.
    generator: Callable[[str], torch.Generator]
    #: Appends one row of figures to the run record, e.g. one update round's.
    note: Callable[[dict[str, Any]], None]
    #: Trains a copy of the model, as it is, on a split by the run's recipe, with batches and
    #: augmentation of its own, and returns it; named by its purpose. Interrupted, it continues like
    #: the run; its time is the defense's.
    train_copy: Callable[[str, Split], Classifier]
    #: ``for number in long_steps(purpose, total, tensors)`` goes through minutes of work before an
    #: epoch, which are shown and can be interrupted: ``tensors`` hold by name all that the steps
    #: make, in place; continued, they are as they were and steps done are left out.
    long_steps: Callable[[str, int, Mapping[str, Tensor]], Iterator[int]] = field(
        default=lambda purpose, total, tensors: iter(range(total))
    )


class Defense:
    """A defense is some optional edits of the shared training loop; all default to nothing.

    Of ``memory`` two names go into the record: ``keep``, (N,) bool, the rows that a filter still
    trains on, and ``selected``, (S,) int64, those chosen for treatment; N is without added rows.
    """

    config: Any
    recipe: Any
    #: Whether its images stay about in [0, 1], so that others are refused as a mistake of units; of
    #: a method whose paper lets them leave that range it is False.
    keeps_range: bool = True

    def __init__(self, config: Any = None, recipe: Any = None) -> None:
        self.config, self.recipe = config, recipe
        self.memory: dict[str, Tensor] = {}

    def check_run(self, scenario: str, given: Collection[str]) -> None:
        """Refuse a run that makes no sense, by ValueError, before anything is crafted or trained.

        The scenario is scratch, transfer or finetune; ``given`` names the user's settings.
        """
        require(
            scenario != "scratch" or self.pretraining() is None,
            "expected a targeted attack with --scenario transfer or finetune, whose victim starts "
            "from a pretrained network, got training from scratch; choose for example --attack bp "
            "--scenario transfer",
        )

    def extend(self, train: Split, validation: Split) -> Split:
        """The split that the run trains on; new rows come last. Called once, before the run."""
        return train

    def pretraining(self) -> "Defense | None":
        """How the network of a run that starts from a pretrained one is trained, on clean data.

        None trains it plainly. A defense that pretrains has no run without that stage.
        """
        return None

    def start_epoch(self, state: TrainingState) -> TrainingSet:
        """The training set of this epoch: change images, drop rows. Called before each epoch."""
        return state.train

    def perturb_batch(self, state: TrainingState, images: Tensor, labels: Tensor) -> Tensor:
        """The images that this batch is fitted on, same shape and range; after augmentation."""
        return images

    def batch_loss(self, state: TrainingState, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of logits (B, K), float32, of those images; a scalar to descend."""
        return F.cross_entropy(logits, labels)


class Oracle(Defense):
    """A control that is told which images are poisoned, which no defense may know.

    A run tells it before training, and only where the registry calls the method an oracle.
    """

    is_poison: Tensor

    def reveal(self, is_poison: Tensor) -> None:
        """Take which training images are poisons, (N,) bool; ValueError if none can be used."""
        self.is_poison = is_poison


@dataclass
class FitResult:
    """What a training run leaves besides the model."""

    #: One row an epoch: epoch, images (trained on), loss (their mean), validation_accuracy.
    curve: list[dict[str, float]] = field(default_factory=list)
    #: The defense's rows of figures.
    notes: list[dict[str, Any]] = field(default_factory=list)
    #: By phase: "training" (with what a defense does to a batch), "defense" (between epochs) and
    #: "validation".
    seconds: dict[str, float] = field(default_factory=dict)
    #: Of the initial weights and of the first batch's rows.
    digests: dict[str, str] = field(default_factory=dict)
    #: How often the run was stopped and continued.
    interruptions: int = 0
    #: The model's state after the epoch of the highest validation accuracy, the first of equals.
    peak: dict[str, Tensor] = field(default_factory=dict)


#: ``train(purpose, model, split, fit)`` trains a model in place on a split, as ``fit()`` does, or
#: gives it the weights that this gave before; ``seconds`` of the result are what the training took.
CopyTraining = Callable[[str, Classifier, Split, Callable[[], FitResult]], FitResult]
