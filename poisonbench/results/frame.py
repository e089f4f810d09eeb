"""Run records as a data frame. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from msgspec import structs, to_builtins

from poisonbench.core.folders import results_folder
from poisonbench.results.store import Store

if TYPE_CHECKING:
    import pandas

#: The columns of :func:`records` that people use, and where a record has them.
COLUMNS = {
    "id": "id",
    "dataset": "labels.dataset",
    "method": "spec.method",
    "variant": "labels.variant",
    "attacks": "spec.poison.attacks",
    "rho": "spec.poison.rho",
    "scenario": "spec.targeting.scenario",
    "profile": "labels.profile",
    "overrides": "labels.overrides",
    "model": "spec.model",
    "seed": "spec.seed",
    "trial": "spec.trial",
    "test_accuracy": "metrics.test_accuracy",
    "batch_statistics_accuracy": "metrics.batch_statistics_accuracy",
    "validation_accuracy": "metrics.validation_accuracy",
    "attack_success": "metrics.attack_success",
    "attack_success_rate": "metrics.trigger.rate",
    "seconds": "cost.seconds.total",
    "poison": "spec.poison.digest",
    "device": "environment.device",
    "finished": "environment.finished",
}


def records(
    results: str | Path | None = None,
    on_error: Callable[[Exception], None] = lambda error: None,
    *,
    columns: Literal["common", "all"] = "common",
    outcomes: bool = False,
) -> pandas.DataFrame:
    """The run records as a data frame, one row a run.

    Args:
        results: the results folder; by default that of POISONBENCH_RESULTS, or results.
        on_error: told of each record that cannot be read; it is left out.
        columns: "common" gives :data:`COLUMNS`, "all" every field, nested ones as dotted columns.
        outcomes: add ``outcomes.test`` and ``outcomes.test_by_batch_statistics`` as arrays (N,)
            bool, which of the test images were classified right; None where a record lacks them.
            Of targeted runs also ``outcomes.target_prediction``, the class that the target was
            taken for, and ``outcomes.target_confidence``, the probability of that class.
    """
    # Slow to import, and the command line has no use for it.
    import pandas

    rows = []
    for record in Store(results_folder(results)).records(on_error):
        if columns == "common":
            row = {name: _field(record, path) for name, path in COLUMNS.items()}
            row |= {"attacks": "+".join(row["attacks"] or ()), "rho": row["rho"] or 0.0}
        else:
            row = to_builtins(record, order="sorted")
            del row["outcomes"]
        if outcomes:
            row |= {
                f"outcomes.{name}": bits.unpack() if bits else None
                for name, bits in structs.asdict(record.outcomes).items()
            }
            row |= {
                f"outcomes.target_{name}": getattr(record.metrics.target, name, None)
                for name in ("prediction", "confidence")
            }
        rows.append(row)
    return pandas.DataFrame(rows) if columns == "common" else pandas.json_normalize(rows)


def _field(part: Any, path: str) -> Any:
    """A nested field by its dotted name; None where it is not there."""
    for name in path.split("."):
        part = getattr(part, name, None)
    return part
