"""Run records without runs, for the tests of tables."""

import shlex
from types import SimpleNamespace

from poisonbench import registry
from poisonbench.cli.request_words import from_words
from poisonbench.requests import command_of
from poisonbench.results.records import RunRecord, spec_id
from poisonbench.tables import catalogue

#: What a timed run ran on.
DEVICE = {
    "device": "cpu",
    "processor": "Processor A",
    "threads": 2,
    "precision": "bfloat16",
    "torch": "2.11",
    "cuda": None,
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
    """What of a data set a request's settings depend on."""
    return SimpleNamespace(presets=presets, network="", digest="d", image_shape=(3, 32, 32))


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
    seconds=None,
    session=None,
    interruptions=0,
    environment=None,
    weights="w",
    **spec,
):
    """A record; with ``seconds`` it has times, half of them the defense's, and a device."""
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
        digests={"initial_weights": f"{weights}{seed}.{trial}", "first_batch": f"b{seed}.{trial}"},
        cost=_cost(seconds, session, interruptions) if seconds else {},
        environment={"finished": finished, **(DEVICE if seconds else {}), **(environment or {})},
    )


def _cost(seconds, session, interruptions):
    phases = {"training": seconds / 2, "defense": seconds / 2, "validation": 0.0, "test": 0.0}
    return {
        "seconds": {**phases, "total": seconds},
        "session_seconds": seconds if session is None else session,
        "interruptions": interruptions,
    }


def hint_run(accuracy=0.97, *, parameter=None, value=None, **arguments):
    """HINT on the mix at rho 0.6, with one setting changed where one is named."""
    changed = {} if parameter is None else {parameter: value}
    return make_record(
        accuracy,
        method="hint",
        rho=0.6,
        variant="custom" if changed else "paper",
        labels={"profile": "paper", "overrides": changed},
        config=changed,
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
    **arguments,
):
    """A run under a targeted attack, or with ``clean`` its control, on cifar10 if not said.

    Each trial has its own target, and each attack its own poison of it.
    """
    pools = {attack: {"id": "i", "spec": {"recipe_number": attack_recipe}}}
    settings = overrides or {}
    goal = {"target": 100 + trial if target is None else target, "intended_class": intended}
    made = make_record(
        accuracy,
        rho=0.0 if clean else rho,
        trial=trial,
        attacks=[attack],
        variant="custom" if settings else "paper",
        labels={
            "profile": "paper",
            "overrides": settings,
            "poison": None if clean else {"id": "i", "pools": pools},
        },
        digest=f"{attack}{trial}.{attack_recipe}",
        targeting={"scenario": scenario, "rho": 0.0 if clean else rho},
        goal={"kind": "targeted", "target_class": 1, "scenario": scenario, **goal},
        **{"dataset": "cifar10"} | arguments,
    )
    made.metrics.update(attack_success=hit)
    return made
