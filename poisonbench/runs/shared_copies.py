"""Copies of a run's network that its defense trains, kept for the trial's other defenses.

The filters that look at features train the same copy: by the run's recipe, on its images, in
batches that do not name the defense. The first keeps it in ``models/``, and in ``crafting/`` what
it took, which a run that finds it counts as its own: a defense costs what it costs alone.
"""

from collections.abc import Callable

from poisonbench.core.canonical import spec_id
from poisonbench.core.files import publish_bytes
from poisonbench.data.splits import Split, digest_tensors
from poisonbench.models.classifier import Classifier
from poisonbench.results.store import CraftingCost
from poisonbench.runs.context import RunContext
from poisonbench.runs.kept_models import model_bytes
from poisonbench.runs.trained_models import cached_weights
from poisonbench.specs import ModelSpec, RunSpec
from poisonbench.training.state import CopyTraining, FitResult


def shared_copies(context: RunContext, run: RunSpec) -> CopyTraining:
    """How the copies of a run are trained, or read where a run of its trial has kept them."""

    def train_copy(
        purpose: str, model: Classifier, split: Split, fit: Callable[[], FitResult]
    ) -> FitResult:
        spec = _spec(run, purpose, model, split)
        copy_id = spec_id(spec)
        path = context.store.model_path(copy_id)
        cost = context.store.crafting_cost(copy_id)
        weights = cached_weights(context, path, spec.kind) if cost else None
        if cost is None or weights is None:
            result = fit()
            state = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
            publish_bytes(path, model_bytes(copy_id, state))
            seconds = sum(result.seconds.values())
            cost = CraftingCost(run.dataset.name, spec.kind, 1, seconds)
            context.store.write_crafting_cost(copy_id, cost)
            return result
        model.load_state_dict(weights)
        context.say(f"the copy for {purpose} is there ({copy_id}): {cost.seconds:.0f} s less")
        return FitResult(seconds={"training": cost.seconds})

    return train_copy


def _spec(run: RunSpec, purpose: str, model: Classifier, split: Split) -> ModelSpec:
    """What determines the copy: the model as it is, and what the run trains it by and on."""
    return ModelSpec(
        kind=f"{purpose}-copy",
        loop=run.loop,
        dataset=run.dataset.digest,
        model=run.model,
        training=run.training,
        seed=run.seed,
        trial=run.trial,
        rows=split.digest(),
        start=digest_tensors(*model.state_dict().values()),
        holds_norms=model.holds_norms or None,
    )
