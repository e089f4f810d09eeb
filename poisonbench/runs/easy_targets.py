"""Clean models that say which targets are easy: what a victim without poison would say of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from poisonbench.core.settings import as_json
from poisonbench.data.splits import Dataset
from poisonbench.data.targets import draw_transfer_rows
from poisonbench.models.classifier import Classifier, renew_head
from poisonbench.runs.trained_models import lengthen, model_spec, own_seeds, trained_models
from poisonbench.runs.workspace import Bench
from poisonbench.targeting import Targeting, own_targeting
from poisonbench.training.evaluation import logits_of
from poisonbench.training.recipe import Recipe

#: How many agree before a target is called easy.
NUM_CONTROLS = 3


def clean_probabilities(
    bench: Bench, dataset: Dataset, targeting: Targeting, recipe: Recipe, model: str | None
) -> Tensor:
    """What control models, trained by a recipe, say of the test split, (M, N, K).

    They share no seed with attacker or victim. For the scenario "transfer" they are heads on frozen
    features, as its victims are: such a head is less sure of itself than the network that it came
    from, and a target that is easy for the one is often lost without an attack for the other. What
    a poison does not depend on, its target must not either: the transfer set has the data set's
    own share and batch norm does not drift, whatever this victim's settings are.
    """
    images = dataset.test.images.to(bench.device)
    probabilities = []
    for number in range(NUM_CONTROLS):
        spec = model_spec(bench, dataset, recipe, "control", 0, model, number)
        if targeting.scenario == "transfer":
            control = _transferred(bench, dataset, targeting, recipe, spec)
        else:
            (control,) = trained_models(bench, dataset, recipe, spec)
        probabilities.append(logits_of(control, images).softmax(1).cpu())
    return torch.stack(probabilities)


def _transferred(
    bench: Bench, dataset: Dataset, targeting: Targeting, recipe: Recipe, spec: dict[str, Any]
) -> Classifier:
    """A new head, trained on a clean transfer set, on features trained on the other images."""
    seeds = own_seeds(spec)
    none = torch.zeros(0, dtype=torch.int64)
    share = own_targeting(dataset.presets, "transfer").transfer_share
    generator = seeds.generator("transfer rows")
    rows = draw_transfer_rows(dataset.train.labels, none, share, generator)
    rest, transfer = dataset.train.without(rows), dataset.train.rows(rows)
    about = spec | {"kind": "control extractor", "rows": rest.digest()}
    (start,) = trained_models(bench, dataset, recipe, about, seeds=seeds, train=rest)
    renew_head(start, seeds.generator("transfer head"))
    start.hold(features=True, norms=True)
    last = lengthen(recipe, targeting.stage_epochs)
    about |= {"kind": "control head", "head": as_json(last)}
    (control,) = trained_models(
        bench, dataset, last, about, seeds=seeds, train=transfer, start=start
    )
    return control
