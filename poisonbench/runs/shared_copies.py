"""Copies of a run's network that a filter trains, kept for the trial's other filters.

The filters that look at features train the same copy: by the run's recipe, on its images, in
batches that do not name the defense. The first keeps it in ``models/``, and in ``crafting/`` what
it took, which a run that finds it counts as its own: a defense costs what it costs alone. So a copy
is for runs on the same device, processor, threads, precision and versions alone, in its name too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from msgspec import to_builtins

from poisonbench.core.canonical import spec_id
from poisonbench.core.errors import StoreError
from poisonbench.core.files import publish_bytes
from poisonbench.data.splits import Split, digest_tensors
from poisonbench.models.classifier import Classifier
from poisonbench.results.store import COPY, CraftingCost
from poisonbench.runs.context import RunContext
from poisonbench.runs.kept_models import model_bytes
from poisonbench.runs.trained_models import cached_weights
from poisonbench.specs import ModelSpec, RunSpec
from poisonbench.training.state import FitResult

#: What a network's bits and a training's seconds depend on beside its spec.
_SURROUNDINGS = ("device", "processor", "threads", "precision", "torch", "cuda")


@dataclass
class SharedCopies:
    """How the copies of a run are trained, or read where a run of its trial has kept them.

    Attributes:
        surroundings: what the run runs on, as its record says it.
        seconds: what the copies took that were read.
    """

    context: RunContext
    run: RunSpec
    surroundings: dict[str, Any]
    seconds: float = 0.0

    def __call__(
        self, purpose: str, model: Classifier, split: Split, fit: Callable[[], FitResult]
    ) -> FitResult:
        """A :data:`~poisonbench.training.state.CopyTraining`."""
        store, kind = self.context.store, f"{purpose}{COPY}"
        copy_id = self._name(kind, model, split)
        path = store.model_path(copy_id)
        cost = store.crafting_cost(copy_id)
        weights = cached_weights(self.context, path, kind) if cost else None
        if cost is not None and weights is not None:
            model.load_state_dict(weights)
            model.train()
            text = f"the copy for {purpose} is there ({copy_id}): {cost.seconds:.0f} s less"
            self.context.say(text)
            self.seconds += cost.seconds
            return FitResult(seconds={"training": cost.seconds})
        result = fit()
        if not result.interruptions:
            state = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
            cost = CraftingCost(self.run.dataset.name, kind, 1, sum(result.seconds.values()))
            try:
                publish_bytes(path, model_bytes(copy_id, state))
                store.write_crafting_cost(copy_id, cost)
            except StoreError as error:
                # It only saves time: the run needs no room for it.
                self.context.say(f"warning: the copy for {purpose} is not kept: {error}")
        return result

    def _name(self, kind: str, model: Classifier, split: Split) -> str:
        """By what determines it: the model as it is, what it is trained by and on, and where."""
        run = self.run
        spec = ModelSpec(
            kind=kind,
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
        where = {name: self.surroundings[name] for name in _SURROUNDINGS}
        return spec_id({"copy": to_builtins(spec), "surroundings": where})
