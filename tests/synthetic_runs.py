"""Run records without runs, for the tests of tables."""

from poisonbench import registry
from poisonbench.results.records import RunRecord, spec_id


def pin_registry(monkeypatch):
    """Two defenses, whatever is built by now."""
    known = {name: registry.defenses()[name] for name in ("none", "hint")}
    monkeypatch.setattr(registry, "defenses", lambda: known)


def make_record(
    accuracy=0.97,
    *,
    dataset="mnist",
    method="none",
    rho=0.0,
    trial=0,
    seed=0,
    attacks=None,
    variant="paper",
    recipe=1,
    finished="2025-01-01",
    digest="p",
    labels=None,
    **spec,
):
    poison = {"attacks": list(attacks or registry.MIX), "rho": rho, "trial": 0, "digest": digest}
    spec = {
        "kind": "defend",
        "seed": seed,
        "trial": trial,
        "dataset": {"name": dataset, "digest": "d"},
        "poison": poison if rho else None,
        "method": method,
        "recipe_number": recipe,
        "config": {},
        "model": "mnist-cnn",
        "training": {"epochs": 30, "batch_size": 128},
        **spec,
    }
    sizes = {"train": 59_000, "validation": 1_000, "test": 10_000}
    return RunRecord(
        id=spec_id(spec),
        spec=spec,
        labels={"variant": variant, "sizes": sizes, **(labels or {})},
        metrics={"test_accuracy": accuracy},
        environment={"finished": finished},
    )
