"""Run records without runs, for the tests of tables and figures."""

import shlex
from types import SimpleNamespace

import msgspec
import torch

from poisonbench import registry
from poisonbench.cli.request_words import from_words
from poisonbench.core.canonical import spec_id
from poisonbench.requests import command_of
from poisonbench.results.records import Bits, RunRecord
from poisonbench.results.store import Store
from poisonbench.tables import catalogue
from poisonbench.tables.cells import TARGETED_SAMPLE

#: What runs ran on.
DEVICE = {
    "device": "cpu",
    "processor": "Processor A",
    "threads": 2,
    "precision": "bfloat16",
    "torch": "2.11",
    "cuda": None,
}
VERSIONS = {
    **{"poisonbench": "0.1", "python": "3.11", "numpy": "2.0", "platform": "Linux"},
    **{"commit": None, "plan": None, "started": "2025-01-01"},
}
TRAINING = {
    **{"epochs": 30, "batch_size": 128, "learning_rate": 0.01, "momentum": 0.0},
    **{"weight_decay": 0.0, "milestones": [], "augment": "none", "precision": "auto"},
}


def missing_commands(key, records, dataset=None):
    """The commands of the runs that a table lacks."""
    return [command_of(request) for request in catalogue.missing_runs(key, records, dataset)]


def request_of(command):
    """What a printed command asks for, read by the program's own parser."""
    words = shlex.split(command)
    assert words[:2] == ["poisonbench", "defend"]
    (request,) = from_words(words[1:])
    return request


def data_of(presets):
    """What of a data set a request's settings and the check of its target depend on."""
    split = SimpleNamespace(labels=torch.arange(10).repeat(5000))
    return SimpleNamespace(
        presets=presets, network="", settings={}, digest="d",
        image_shape=(3, 32, 32), num_classes=10,
        test=split, train=split,
    )  # fmt: skip


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
    draw=0,
    labels=None,
    metrics=None,
    seconds=None,
    session=None,
    interruptions=0,
    environment=None,
    weights="w",
    training=None,
    **spec,
):
    """A record; with ``seconds`` it is timed, half of them the defense's."""
    poison = {"attacks": list(attacks or registry.MIX), "rho": rho, "digest": digest}
    spec = {
        "kind": "defend",
        "loop": 1,
        "seed": seed,
        "trial": trial,
        "dataset": {"name": dataset, "digest": "d"},
        "poison": {**poison, "selection": "stratified", "trial": draw} if rho else None,
        "method": method,
        "recipe_number": recipe,
        "config": {},
        "model": "mnist-cnn",
        "training": {**TRAINING, **(training or {})},
        **spec,
    }
    own_labels = {
        "variant": variant,
        **{"profile": "paper", "overrides": {}, "poison": None, "presets": []},
        **{"is_paper_dataset": True, "dataset": dataset},
        "sizes": {"train": 59_000, "validation": 1_000, "test": 10_000},
    }
    measured = {
        "test_accuracy": accuracy,
        **{"per_class_accuracy": [], "validation_accuracy": accuracy},
        **{"attack_success": None, "target": None, "poison": None, "filter": None},
    }
    fields = {
        "spec": spec,
        "labels": {**own_labels, **(labels or {})},
        "metrics": {**measured, **(metrics or {})},
        **{"outcomes": {}, "curve": [], "notes": [], "warnings": []},
        "digests": {
            "initial_weights": f"{weights}{seed}.{trial}",
            "first_batch": f"b{seed}.{trial}",
        },
        "cost": _cost(seconds or 0.0, session, interruptions),
        "environment": {**VERSIONS, **DEVICE, "finished": finished, **(environment or {})},
    }
    return msgspec.convert({**fields, "id": spec_id(spec)}, RunRecord)


def _cost(seconds, session, interruptions):
    phases = {"training": seconds / 2, "defense": seconds / 2, "validation": 0.0, "test": 0.0}
    return {
        "seconds": {**phases, "total": seconds},
        "session_seconds": seconds if session is None else session,
        **{"images_per_second": 1.0, "peak_memory_bytes": 1, "interruptions": interruptions},
    }


def pool_label(attack, poison_id, recipe=1):
    """A crafted poison as a record's labels name it."""
    spec = {"kind": "craft", "attack": attack, "recipe_number": recipe, "config": {}}
    spec |= {"dataset": "d", "surrogate": None, "seed": 0, "trial": 0}
    return {"id": poison_id, "spec": spec}


def changed(record, **parts):
    """A record with other values in its JSON, e.g. ``spec={"dataset": {"digest": "x"}}``."""
    fields = _merged(msgspec.to_builtins(record), parts)
    return msgspec.convert({**fields, "id": spec_id(fields["spec"])}, RunRecord)


def with_outcomes(record, right):
    """A record that says which test images were classified right."""
    return changed(
        record,
        outcomes={"test": msgspec.to_builtins(Bits.pack(right))},
        labels={"sizes": {"test": len(right)}},
        metrics={"test_accuracy": float(sum(right) / len(right))},
    )


def _merged(old, new):
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return {**old, **{name: _merged(old.get(name), value) for name, value in new.items()}}


def hint_run(accuracy=0.97, *, parameter=None, value=None, **arguments):
    """HINT on the mix at rho 0.6, with one setting changed where one is named."""
    settings = {} if parameter is None else {parameter: value}
    return make_record(
        accuracy,
        method="hint",
        rho=0.6,
        variant="custom" if settings else "paper",
        labels={"profile": "paper", "overrides": settings},
        config=settings,
        **arguments,
    )


def targeted_run(
    hit,
    accuracy=0.9,
    *,
    attack="gm",
    scenario="scratch",
    rho=0.01,
    trial=0,
    target=None,
    intended=3,
    overrides=None,
    attack_recipe=1,
    clean=False,
    labels=None,
    metrics=None,
    **arguments,
):
    """A run under a targeted attack, or with ``clean`` its control, on cifar10 if not said.

    Each trial has its own target, and each attack its own poison of it.
    """
    pools = {attack: pool_label(attack, "i", attack_recipe)}
    settings = overrides or {}
    goal = {
        **{"kind": "targeted", "target_class": 1, "poison_class": intended, "targets": "random"},
        "target": 100 + trial if target is None else target,
        **{"intended_class": intended, "scenario": scenario},
    }
    targeting = {
        **{"scenario": scenario, "rho": 0.0 if clean else rho, "targets": "random"},
        **{"target": None, "intended_class": None, "poison_class": None},
        **{"transfer_share": 0.1, "norm_drift": False},
    }
    answer = {
        **{"prediction": intended if hit else 1, "success": hit},
        **{"confidence_of_own_class": 0.25, "confidence_of_intended_class": 0.125},
    }
    return make_record(
        accuracy,
        rho=0.0 if clean else rho,
        trial=trial,
        attacks=[attack],
        variant="custom" if settings else "paper",
        labels={
            "overrides": settings,
            "poison": None if clean else {"id": "i", "pools": pools},
            **(labels or {}),
        },
        metrics={"attack_success": hit, "target": answer, **(metrics or {})},
        digest=f"{attack}{trial}.{attack_recipe}",
        **{"dataset": "cifar10", "targeting": targeting, "goal": goal} | arguments,
    )


OWN, INTENDED = 4, 9


def run_on(data, prediction, *, trial=0, row=None, confidence=True, **arguments):
    """A run whose target is a test image of class 4."""
    rows = (data.test.labels == OWN).nonzero().flatten()
    record = targeted_run(
        prediction == INTENDED,
        trial=trial,
        target=int(rows[trial]) if row is None else row,
        intended=INTENDED,
        rho=0.05,
        dataset=TARGETED_SAMPLE,
        **{"attack": "mp", "scenario": "finetune", "overrides": {"scenario": "finetune"}}
        | arguments,
    )
    answer = {"prediction": prediction, **({"confidence": 0.5} if confidence else {})}
    return changed(
        record,
        spec={"dataset": {"digest": data.digest}, "goal": {"target_class": OWN}},
        metrics={"target": answer},
    )


def write(results, records):
    for record in records:
        Store(results).write_record(record)


def verdicts_of(*findings):
    """The words of their verdicts."""
    return [finding.verdict.value for finding in findings]
