"""Defenses that look at features once and train on what is left.

Before the first epoch a copy of the network is trained as the run itself will be, by the same
recipe but in other batches; the filter sees what its last hidden layer makes of the training
images; the run then trains from its own initial weights on the rows that are kept. A class that a
filter would empty is kept whole.

The copy is trained on the poisoned training set, or on clean data. Clean data is the validation
split: the only images that a defender here can trust. It is small (1,000 images in the paper's
splits), so such a network is far weaker than the pretrained ones of the papers. Where the run
starts from a network that was trained on clean images, as in fine-tuning, its features may be taken
as they are, without a copy, which is what "Strong Baseline Defenses" (arXiv 1909.13374) does. Where
they are frozen, as in transfer learning, they are always; rows of the transfer set go.

Shapes: N training images, K classes, n_c images of class c, F features.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from poisonbench.core.settings import BaseConfig, require, setting
from poisonbench.core.work import Passes, Sizes, Work
from poisonbench.data.splits import Split, rounded_up
from poisonbench.defenses.base import Defense, Recipe, TrainingSet, TrainingState
from poisonbench.models.classifier import Classifier
from poisonbench.training.evaluation import finite_outputs

#: ``kept(features, labels, generator, config)``: the rows to keep, (N,) bool, of features (N, F)
#: float32 and labels (N,) int64, on one device; the generator is on the CPU.
KeepRule = Callable[[Tensor, Tensor, torch.Generator, Any], Tensor]


@dataclass(frozen=True, kw_only=True)
class FilterConfig(BaseConfig):
    """What the config of a filter that looks at features derives from."""

    features_from: Literal["poisoned", "clean", "start"] = setting(
        "poisoned",
        "What the feature network is trained on: the poisoned training set, or the clean "
        "validation split; or start, the clean network that a run of scenario finetune starts "
        "from, as the filters' paper has it.",
    )


class FeatureFilter(Defense):
    """Drops what a rule finds, once; without a :class:`FilterConfig` it gets features (N, 0)."""

    config: BaseConfig

    def __init__(self, rule: KeepRule, config: BaseConfig, recipe: Recipe | None = None) -> None:
        super().__init__(config, recipe)
        self.rule = rule

    def check_run(self, scenario: str, given: Collection[str]) -> None:
        """Refuse what the base class does, and a scenario that lacks the features asked for."""
        super().check_run(scenario, given)
        require(
            scenario != "transfer" or "features_from" not in given,
            "expected no --features-from in scenario transfer, where features are those of the "
            "frozen, clean pretraining; leave it out",
        )
        require(
            scenario != "scratch" or not self._is_from_start,
            "expected --features-from start in scenario finetune, which starts from a network "
            "trained on clean images, got training from scratch; choose clean or poisoned",
        )

    def start_epoch(self, state: TrainingState) -> TrainingSet:
        """Filter before the first epoch; the training set then stays as it is."""
        if state.epoch != 0:
            return state.train
        train, generator = state.train, state.generator("filter")
        labels = train.labels
        proposed = self.rule(self._features(state), labels, generator, self.config)
        keep = proposed.clone()
        spared = restore_emptied_classes(labels, torch.ones_like(keep), keep)
        by_class = torch.bincount(labels[~keep], minlength=int(labels.max()) + 1)
        state.note(
            {
                "round": "filter",
                "removed": int((~keep).sum()),
                "kept": int(keep.sum()),
                "removed_by_class": by_class.tolist(),
                "classes_spared": spared,
                "spared": int((keep & ~proposed).sum()),
            }
        )
        self.memory["keep"] = keep
        return train.with_keep(keep)

    @property
    def _is_from_start(self) -> bool:
        return isinstance(self.config, FilterConfig) and self.config.features_from == "start"

    def _features(self, state: TrainingState) -> Tensor:
        train = state.train
        if not isinstance(self.config, FilterConfig):
            return torch.empty(len(train), 0, device=train.labels.device)
        is_frozen = not any(w.requires_grad for w in state.model.features.parameters())
        if is_frozen or self._is_from_start:
            return finite_outputs(state.model, train, Classifier.embed, "features")
        split = state.validation
        if self.config.features_from == "poisoned":
            split = Split(state.original.images, state.original.labels)
        network = state.train_copy("features", split)
        return finite_outputs(network, train, Classifier.embed, "features")


def feature_work(config: FilterConfig, recipe: Recipe, sizes: Sizes) -> Work:
    """The copy's training, where there is one, and a pass for features; the rule is not counted."""
    looks = (Passes(kind="forward", images=sizes.images),)
    if sizes.scenario == "transfer" or config.features_from == "start":
        return Work(passes=looks)
    is_poisoned = config.features_from == "poisoned"
    images = sizes.images if is_poisoned else sizes.validation
    training = Passes(
        kind="training",
        images=recipe.epochs * images,
        batch=recipe.batch_size,
        precision=recipe.precision,
    )
    return Work(passes=looks, copies=((is_poisoned, training),))


def keep_lowest(scores: Tensor, labels: Tensor, share: float) -> Tensor:
    """Keep (N,) bool all but the ceil(share n_c) highest scores (N,) of each class; ties by row."""
    keep = torch.ones_like(labels, dtype=torch.bool)
    for rows in rows_by_class(labels):
        order = scores[rows].sort(descending=True, stable=True).indices
        keep[rows[order[: rounded_up(share, len(rows))]]] = False
    return keep


def rows_by_class(labels: Tensor) -> list[Tensor]:
    """The rows of each class that labels (N,) hold."""
    return [(labels == label).nonzero().flatten() for label in labels.unique()]


def restore_emptied_classes(labels: Tensor, before: Tensor, kept: Tensor) -> list[int]:
    """Keep classes without a kept example, (N,) bool, in place, as they were before; which."""
    have, left = labels[before].unique(), labels[kept].unique()
    emptied = have[~torch.isin(have, left)]
    kept |= before & torch.isin(labels, emptied)
    return [int(label) for label in emptied]
