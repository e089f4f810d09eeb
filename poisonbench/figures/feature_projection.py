"""Where target, bases and poisons lie in a victim's features, and what its defense took out.

After Fig. 4 of Peri et al., "Deep k-NN Defense against Clean-label Data Poisoning Attacks", 2020.
One panel a run, of the classifier that the run trained; a filter that trains a network of its own
looked at other features than these.

Axes, of the target's class t and the poisons' class p (numbers reappear below)
  1  phi(x), the head's input: of the training images of t and p, the poisons, the images that they
     were made from (the bases) and the target
  2  across: 0 is the mean of t's clean images, 1 that of p's with the bases, along their line
  3  up: the first principal component of what that line leaves of all of (1), in the same unit
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import torch
from torch import Tensor

from poisonbench.core.errors import ArtefactError
from poisonbench.core.seeds import generator_for
from poisonbench.data.artefacts import read_poison
from poisonbench.data.poison import Poison
from poisonbench.data.splits import Dataset
from poisonbench.entries import shown_name
from poisonbench.figures.drawing import Figure, Panel, Panels, Series
from poisonbench.registry import label_of
from poisonbench.results.records import RunRecord
from poisonbench.runs.context import RunContext
from poisonbench.runs.trained_models import read_kept, read_model
from poisonbench.runs.victim import stage_rows
from poisonbench.targeting import Goal, Targeting
from poisonbench.training.evaluation import outputs_by_pass

#: Clean images of a class that are drawn as points; the axes are computed with all of them.
SHOWN = 300


def feature_projection(
    context: RunContext, dataset: Dataset, records: Sequence[RunRecord]
) -> Figure:
    """Draw one panel a run on a targeted poison that kept its model; at least one.

    Raises:
        ArtefactError: a run without a poison in the results folder or without a model.
    """
    runs = [_project(context, dataset, record) for record in records]
    attacks = dict.fromkeys("+".join(run.spec.poison.attacks) for run in records if run.spec.poison)
    clouds = Panels(
        title=f"Features under {', '.join(attacks)}: {shown_name(dataset.name)}, trial "
        f"{', '.join(dict.fromkeys(str(record.spec.trial) for record in records))}",
        panels=[_panel(record, run) for record, run in zip(records, runs, strict=True)],
        caption="After Fig. 4 of Peri et al. 2020. Features of the classifier that each run "
        "trained. Across: from the mean of the target's class (0) to that of the poisons' class "
        "(1), without poisons; up: first principal component of the rest, in the same unit. Bases: "
        f"what poisons were made from. At most {SHOWN} clean images of a class are drawn, at "
        "random. Removed: what the defense does not train on at the end; where it trained a "
        "network of its own to decide, it saw other features.",
    )
    data = {"name": dataset.name, "digest": dataset.digest}
    return Figure(clouds, {"figure": "features", "dataset": data, "runs": runs})


def _project(context: RunContext, dataset: Dataset, record: RunRecord) -> dict[str, Any]:
    """Compute a run's points by group, and counts, as JSON values."""
    context.abort_if_stopping()
    poison, goal = _poison_of(context, dataset, record)
    spec, path, trial = record.spec, context.store.model_path(record.id), record.spec.trial
    model = read_model(context, path, spec.model, dataset)
    targeting = Targeting(**msgspec.to_builtins(spec.targeting))
    # The run's own seed drew them.
    own_context = replace(context, seed=spec.seed)
    rows = stage_rows(own_context, dataset, targeting, poison.indices, trial)
    train = poison.apply(dataset.train).rows(rows)
    keep = read_kept(path, len(train))
    is_poison = torch.isin(rows, poison.indices)
    own, other = goal.target_class, int(dataset.train.labels[poison.indices[0]])
    members = (is_poison | torch.isin(train.labels, torch.tensor([own, other]))).nonzero().flatten()
    bases = dataset.train.images[rows[members[is_poison[members]]]]
    target = dataset.test.images[goal.target : goal.target + 1]
    # 1 features
    images = torch.cat([train.images[members], bases, target])
    features = (
        torch.cat(outputs_by_pass(model, model.embed, images.to(context.device))).cpu().double()
    )
    poisoned, kept = is_poison[members], keep[members]
    of_own = ~poisoned & (train.labels[members] == own)
    of_other = ~poisoned & (train.labels[members] == other)
    of_bases = torch.arange(len(members), len(members) + len(bases))
    points = plane(features, _rows(of_own), torch.cat([_rows(of_other), of_bases]))

    def drawn(mask: Tensor) -> Tensor:
        """A draw of at most SHOWN of the rows where a mask is true, at random, in order."""
        rows = _rows(mask)
        generator = generator_for(context.seed, "figure features", trial)
        return rows[torch.randperm(len(rows), generator=generator)[:SHOWN].sort().values]

    groups = {
        "target's class": drawn(of_own & kept),
        "poisons' class": drawn(of_other & kept),
        "bases": of_bases,
        "removed, clean": drawn(~poisoned & ~kept),
        "poisons": _rows(poisoned & kept),
        "removed, poisons": _rows(poisoned & ~kept),
    }
    return {
        "id": record.id,
        "method": spec.method,
        "test_accuracy": record.metrics.test_accuracy,
        "is_hit": bool(record.metrics.attack_success),
        "target_class": dataset.class_names[own],
        "poison_class": dataset.class_names[other],
        "poisons": int(poisoned.sum()),
        "poisons_removed": int((poisoned & ~kept).sum()),
        "target": points[-1].tolist(),
        "points": {name: points[rows].tolist() for name, rows in groups.items()},
    }


def _poison_of(context: RunContext, dataset: Dataset, record: RunRecord) -> tuple[Poison, Goal]:
    origin = record.labels.poison
    if origin is None or origin.id is None:
        raise ArtefactError(
            f"run {record.id}: expected a run on a targeted poison that lies in "
            f"{context.store.root / 'poisons'}, got one on "
            f"{'a poison of another folder' if origin else 'clean data'}; choose another run"
        )
    path = context.store.poison_path(origin.id)
    poison = read_poison(path, dataset)
    if poison.digest != record.spec.poison_digest:
        raise ArtefactError(
            f"run {record.id}: expected its own poison in {path}, "
            "got another, crafted later or elsewhere; run its `poisonbench defend` command again"
        )
    goal = poison.goal
    if goal is None:
        raise ArtefactError(
            f"run {record.id}: expected a targeted poison, got an untargeted one; its images have "
            "no target to lie near to"
        )
    return poison, goal


def plane(features: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """Compute coordinates (N, 2) of float64 features (N, F), in steps 2 and 3.

    The mean of the rows ``own`` is (0, 0), that of the rows ``other`` (1, 0).

    Raises:
        ArtefactError: one of them has no rows, or their means are the same.
    """
    if not len(own) or not len(other):
        raise ArtefactError(
            "expected clean training images of the target's and of the poisons' class, got "
            f"{len(own)} and {len(other)}; choose a run with another target"
        )
    origin = features[own].mean(0)
    line = features[other].mean(0) - origin
    length = float(line.norm())
    if length == 0:
        raise ArtefactError("expected two classes with different mean features, got the same")
    # 2 across
    centred = (features - origin) / length
    across = centred @ (line / length)
    # 3 up
    rest = centred - across[:, None] * (line / length)
    direction = torch.linalg.svd(rest - rest.mean(0), full_matrices=False).Vh[0]
    # A principal component has no sign of its own: its largest entry is made positive.
    direction = direction * direction[direction.abs().argmax()].sign()
    return torch.stack([across, rest @ direction], 1)


def _rows(mask: Tensor) -> Tensor:
    return mask.nonzero().flatten()


def _panel(record: RunRecord, numbers: dict[str, Any]) -> Panel:
    hit = "target hit" if numbers["is_hit"] else "target not hit"
    removed = f"{numbers['poisons_removed']} of {numbers['poisons']} poisons removed"
    labels = {
        "target's class": f"class {numbers['target_class']} (target's)",
        "poisons' class": f"class {numbers['poison_class']} (poisons')",
    }
    return Panel(
        title=f"{label_of(record.spec.method, record.spec.setting)}: {hit}, {removed}",
        x_label="from the target's class (0) to the poisons' class (1)",
        y_label="first principal component of the rest",
        series=[
            Series(
                label=labels.get(name, name),
                x=[point[0] for point in points],
                y=[point[1] for point in points],
                joined=False,
                emphasised=name == "target",
            )
            for name, points in (numbers["points"] | {"target": [numbers["target"]]}).items()
        ],
    )
