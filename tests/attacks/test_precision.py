"""Attacks whose networks may run in bfloat16: only the networks, within the same bounds."""

import pytest
import torch

from helpers.attack_tasks import BREWED, SMALL, fake_split, small_classifier, task, task_for
from poisonbench.attacks import (
    bullseye_polytope,
    convex_polytope,
    deep_confuse,
    feature_collision,
    gradient_matching,
    metapoison,
)
from poisonbench.core.settings import as_json
from poisonbench.training.precision import precise

SHORT = {"steps": 3, "surrogates": 2, "epsilon": 0.1}
CASES = {
    bullseye_polytope: BREWED,
    convex_polytope: SHORT,
    deep_confuse: {"rounds": 2, "epochs_per_round": 1, "batch_size": 8, "generator_width": 0.25}
    | {"generator": "autoencoder", "surrogate": "cnn", "epsilon": 0.1},
    feature_collision: BREWED,
    gradient_matching: BREWED,
    metapoison: {name: getattr(SMALL, name) for name in SMALL.__dataclass_fields__} | {"steps": 3},
}
EVERY_ATTACK = pytest.mark.parametrize("module", CASES, ids=lambda module: module.__name__[20:])


def poisons_of(module, **changes):
    config = module.Config(**(CASES[module] | changes))
    given = task()
    if module is deep_confuse:
        split = fake_split(40, 0, (1, 28, 28))
        given = task_for(small_classifier(), split.images.float() / 255, split.labels)
    before = given.images.clone()
    return module.craft(given, config), before, config


@EVERY_ATTACK
def test_bfloat16_reaches_the_networks_and_nothing_else(module, monkeypatch):
    used = []

    def noted(device, precision):
        context = precise(device, precision)
        used.append(context.fast_dtype if context._enabled else torch.float32)
        return context

    for name in ("shared.matching", "metapoison", "deep_confuse", "shared.feature_space"):
        monkeypatch.setattr(f"poisonbench.attacks.{name}.precise", noted)
    exact, before, _ = poisons_of(module)
    assert set(used) == {torch.float32}
    used.clear()
    poisons, _, config = poisons_of(module, precision="bfloat16")
    assert set(used) == {torch.bfloat16}
    assert poisons.dtype == torch.float32
    # Their values are not rounded to bfloat16's, of which there are 128 between 0.5 and 1.
    assert not torch.equal(poisons.bfloat16().float(), poisons)
    assert not torch.equal(poisons, exact)
    assert float((poisons - before).abs().max()) <= config.epsilon + 1e-6
    agree = (poisons - before).sign() == (exact - before).sign()
    assert float(agree.double().mean()) > 0.8


@EVERY_ATTACK
def test_float32_is_no_setting_of_a_poison(module):
    assert "precision" not in as_json(module.Config())
    assert as_json(module.Config(precision="bfloat16"))["precision"] == "bfloat16"
