"""Classifiers trained on clean data, for attacks, controls, scenarios and figures; cached."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from msgspec import structs
from torch import Tensor

from poisonbench.core.canonical import spec_id
from poisonbench.core.errors import ArtefactError, DivergedError
from poisonbench.core.files import publish_bytes, store_errors
from poisonbench.core.seeds import Seeds, seed_for
from poisonbench.core.settings import as_json
from poisonbench.data.splits import Dataset, Split
from poisonbench.models import build_model
from poisonbench.models.classifier import Classifier
from poisonbench.registry import network_name
from poisonbench.runs.context import RunContext, default_model
from poisonbench.runs.kept_models import DAMAGED, model_bytes, read_weights
from poisonbench.specs import ModelSpec, TrainingSpec
from poisonbench.training.recipe import Recipe
from poisonbench.training.state import Defense, TrainingSet, TrainingState

#: In a victim's file: (N,) bool, the training images that its defense kept to the end.
KEPT = "defense.keep"

#: Raised when the training loop's results change for the same settings.
LOOP_NUMBER = 2


def model_spec(
    context: RunContext,
    dataset: Dataset,
    recipe: Recipe,
    kind: str,
    trial: int,
    model: str | None,
    number: int = 0,
) -> ModelSpec:
    """What determines a model trained on clean data.

    Parameters: all that determines a model, each a field of its spec; the network is by default
    the paper's for this kind of data.
    """
    return ModelSpec(
        kind=kind,
        loop=LOOP_NUMBER,
        dataset=dataset.digest,
        model=network_name(model) if model else default_model(dataset),
        training=TrainingSpec(**as_json(recipe)),
        seed=context.seed,
        trial=trial,
        number=number,
    )


def lengthen(recipe: Recipe, epochs: int | None) -> Recipe:
    """The recipe over another number of epochs, its milestones in proportion; None leaves it."""
    if epochs is None:
        return recipe
    milestones = tuple(max(1, round(m * epochs / recipe.epochs)) for m in recipe.milestones)
    return replace(recipe, epochs=epochs, milestones=milestones)


def own_seeds(spec: ModelSpec) -> Seeds:
    """Seeds of an attacker's or a control's model; no victim shares them."""
    parts = (spec.number,) if spec.number else ()
    return Seeds(seed_for(spec.seed, spec.kind, *parts), spec.trial)


def fresh_network(dataset: Dataset, network: str, seeds: Seeds) -> Classifier:
    """A network for a data set, with the initial weights of these seeds."""
    return build_model(
        network,
        dataset.image_shape,
        dataset.num_classes,
        dataset.mean,
        dataset.std,
        seeds.generator("initial weights"),
    )


def trained_models(
    context: RunContext,
    dataset: Dataset,
    recipe: Recipe,
    spec: ModelSpec,
    *,
    seeds: Seeds | None = None,
    epochs: Sequence[int] | None = None,
    train: Split | None = None,
    start: Classifier | None = None,
    defense: Defense | None = None,
) -> list[Classifier]:
    """A trained classifier after some numbers of epochs, frozen, in eval mode; cached.

    Parameters: what a model is trained from; most calls give the first four.

    Args:
        context: where.
        dataset: whose training split is the default, and whose validation split gives the curve.
        recipe: how it is trained.
        spec: identifies it, see :func:`model_spec`.
        seeds: of initial weights and batches; by default :func:`own_seeds`.
        epochs: when to look; at the end of the recipe by default. 0 is the initial state.
        train: what to train on.
        start: what to train, in place; a network with the seeds' initial weights by default.
        defense: what it is trained under, for this training alone; plainly by default.

    A cached file that is damaged is named in a warning and made anew. Of two processes that train
    one model, both get what the first has kept.

    Raises:
        ArtefactError: the cached file is another network's, or cannot be read.
        DivergedError: the training diverged.
    """
    ends = sorted({recipe.epochs} if epochs is None else set(epochs))
    is_whole = ends == [recipe.epochs]
    shortened = recipe.first_epochs(ends[-1])
    if not is_whole:
        # A part of a recipe that recalibrates at its end does not: another model.
        training = structs.replace(spec.training, recalibrate=shortened.recalibrate or None)
        spec = structs.replace(spec, after_epochs=ends, training=training)
    model_id = spec_id(spec)
    path = context.store.model_path(model_id)
    prefix_of = {epoch: "" if is_whole else f"{epoch}." for epoch in ends}
    prefixes = [prefix_of[epoch] for epoch in epochs or ends]
    models = _cached(context, path, spec, dataset, prefixes)
    if models is not None:
        return models
    seeds = seeds or own_seeds(spec)
    model = fresh_network(dataset, spec.model, seeds) if start is None else start
    watcher = _Watcher(ends, defense or Defense())
    if ends[-1] > 0:
        trainer = context.trainer(shortened, seeds, model_id, spec.kind)
        split = dataset.train if train is None else train
        try:
            trainer.fit(model, split, dataset.validation, watcher)
        except DivergedError as error:
            error.args = (f"the {trainer.name} model: {error}",)
            raise
    last = {f"{prefix_of[ends[-1]]}{key}": value for key, value in model.state_dict().items()}
    weights = {key: value.cpu().contiguous() for key, value in (watcher.seen | last).items()}
    publish_bytes(path, model_bytes(model_id, weights, list(prefix_of.values())))
    context.checkpoint(model_id).discard()
    return [
        read_model(context, path, spec.model, dataset, name=spec.kind, prefix=prefix)
        for prefix in prefixes
    ]


def cached_weights(
    context: RunContext, path: Path, kind: str, prefix: str = ""
) -> dict[str, Tensor] | None:
    """A kept model's tensors; None where there are none, or damaged ones, which are taken away.

    Raises:
        ArtefactError: the file cannot be read.
    """
    # Most are asked for before they are trained, and a read of what is not there waits for it.
    if not path.exists():
        return None
    try:
        return read_weights(path, prefix)
    except FileNotFoundError:
        # Networks that were trained on a poison in the making go when it is made, at any time.
        return None
    except OSError as error:
        raise _unreadable(path, kind, error) from None
    except DAMAGED as error:
        context.say(f"warning: {path}: expected a {kind} model, got {error}; training it again")
        with store_errors(path.parent):
            path.unlink(missing_ok=True)
        return None


def _cached(
    context: RunContext, path: Path, spec: ModelSpec, dataset: Dataset, prefixes: Sequence[str]
) -> list[Classifier] | None:
    """The kept models, if all can be had."""
    models = []
    for prefix in prefixes:
        weights = cached_weights(context, path, spec.kind, prefix)
        if weights is None:
            return None
        models.append(_loaded(context, path, spec.model, dataset, weights, spec.kind))
    return models


def read_model(
    context: RunContext,
    path: Path,
    network: str,
    dataset: Dataset,
    *,
    name: str = "trained",
    prefix: str = "",
) -> Classifier:
    """A kept model, on the device, in eval mode, without parameter gradients.

    An error calls it by ``name``; ``prefix`` is that of its tensors, in a file of several models.

    Raises:
        ArtefactError: the file is missing, damaged or another network's.
    """
    try:
        weights = read_weights(path, prefix)
    except (OSError, *DAMAGED) as error:
        raise _unreadable(path, name, error) from None
    return _loaded(context, path, network, dataset, weights, name)


def _loaded(
    context: RunContext,
    path: Path,
    network: str,
    dataset: Dataset,
    weights: Mapping[str, Tensor],
    name: str,
) -> Classifier:
    model = fresh_network(dataset, network, Seeds())
    try:
        model.load_state_dict({key: weights[key] for key in weights if key != KEPT})
    except RuntimeError as error:
        raise _unreadable(path, name, error) from None
    model.to(device=context.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.eval().requires_grad_(False)
    return model


def _unreadable(path: Path, name: str, error: Exception) -> ArtefactError:
    return ArtefactError(
        f"{path}: expected a {name} model, got {error}; delete it to train it again"
    )


def read_kept(path: Path, count: int) -> Tensor:
    """The training images that a kept victim's defense had not removed, (count,) bool.

    Raises:
        ArtefactError: the file is missing or damaged, or was trained on another number of images.
    """
    try:
        keep = read_weights(path).get(KEPT)
    except (OSError, *DAMAGED) as error:
        raise _unreadable(path, "trained", error) from None
    if keep is None:
        return torch.ones(count, dtype=torch.bool)
    if keep.dtype != torch.bool or keep.shape != (count,):
        raise ArtefactError(
            f"{path}: expected {KEPT} of shape ({count},) and type torch.bool, got "
            f"{tuple(keep.shape)} {keep.dtype}; delete it to train it again"
        )
    return keep


class _Watcher(Defense):
    """Trains under a defense; remembers the weights at the start of some epochs."""

    def __init__(self, epochs: Sequence[int], defense: Defense) -> None:
        self.epochs, self.defense = epochs, defense
        super().__init__()
        self.keeps_range = defense.keeps_range

    @property
    def memory(self) -> dict[str, Tensor]:
        """The defense's, with the weights in it."""
        return self.defense.memory

    @memory.setter
    def memory(self, memory: dict[str, Tensor]) -> None:
        self.defense.memory = memory

    @property
    def seen(self) -> dict[str, Tensor]:
        """The weights, as ``"EPOCH.KEY"``."""
        return {key: value for key, value in self.memory.items() if key[0].isdigit()}

    def extend(self, train: Split, validation: Split) -> Split:
        """The defense's."""
        return self.defense.extend(train, validation)

    def start_epoch(self, state: TrainingState) -> TrainingSet:
        """Copy the weights, before the defense acts."""
        if state.epoch in self.epochs:
            for key, value in state.model.state_dict().items():
                self.memory[f"{state.epoch}.{key}"] = value.clone()
        return self.defense.start_epoch(state)

    def perturb_batch(self, state: TrainingState, images: Tensor, labels: Tensor) -> Tensor:
        """The defense's."""
        return self.defense.perturb_batch(state, images, labels)

    def batch_loss(self, state: TrainingState, logits: Tensor, labels: Tensor) -> Tensor:
        """The defense's."""
        return self.defense.batch_loss(state, logits, labels)
