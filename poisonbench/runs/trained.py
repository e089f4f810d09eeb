"""Classifiers that are trained once and kept in the store: attackers' models, HINT's at a round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from poisonbench.data.splits import Dataset, Split
from poisonbench.errors import ArtefactError
from poisonbench.files import write_bytes
from poisonbench.models import build_model
from poisonbench.models.classifier import Classifier
from poisonbench.results.records import spec_id
from poisonbench.runs.bench import Bench
from poisonbench.seeds import Seeds
from poisonbench.training.fit import fit
from poisonbench.training.recipe import Recipe


def new_model(name: str, dataset: Dataset, seeds: Seeds) -> Classifier:
    """A network with initial weights for a data set, on the CPU."""
    return build_model(
        name,
        dataset.image_shape,
        dataset.num_classes,
        dataset.mean,
        dataset.std,
        seeds.generator("initial weights"),
    )


def read_model(
    bench: Bench, path: Path, network: str, dataset: Dataset, name: str = "trained"
) -> Classifier:
    """A kept model, on the device, in eval mode, without parameter gradients.

    Args:
        bench: says which device.
        path: its file.
        network: the network's name.
        dataset: what it classifies.
        name: what to call the model in an error.

    Raises:
        ArtefactError: the file is missing, damaged or another network's.
    """
    model = new_model(network, dataset, Seeds())
    try:
        model.load_state_dict(load_file(path))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ArtefactError(
            f"{path}: expected a {name} model, got {error}; delete it to train it again"
        ) from None
    return _ready(bench, model)


def train_or_read(
    bench: Bench,
    spec: dict[str, Any],
    dataset: Dataset,
    train: Split,
    recipe: Recipe,
    seeds: Seeds,
    name: str,
) -> Classifier:
    """A plainly trained classifier, in eval mode; kept under the id of its spec.

    Args:
        bench: where.
        spec: all that determines the weights; ``spec["model"]`` is the network's name.
        dataset: whose validation split makes the curve.
        train: what to train on.
        recipe: how.
        seeds: of initial weights, batches and augmentation.
        name: the phase's name in progress reports.

    Raises:
        ArtefactError: the kept file is damaged.
        DivergedError: the loss stopped being finite.
        InterruptedRunError: stopped by a signal, with a checkpoint saved.
    """
    model_id = spec_id(spec)
    path = bench.store.model_path(model_id)
    if path.exists():
        return read_model(bench, path, spec["model"], dataset, name)
    model = new_model(spec["model"], dataset, seeds)
    checkpoint = bench.checkpoint(model_id)
    fit(
        model,
        train,
        dataset.validation,
        recipe,
        seeds,
        device=bench.device,
        checkpoint=checkpoint,
        report=bench.report,
        should_stop=bench.stopping.is_set,
        name=name,
    )
    tensors = {key: value.cpu().contiguous() for key, value in model.state_dict().items()}
    write_bytes(path, save(tensors))
    checkpoint.discard()
    return _ready(bench, model)


def _ready(bench: Bench, model: Classifier) -> Classifier:
    model.to(device=bench.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.eval().requires_grad_(False)
    return model
