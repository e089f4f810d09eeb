"""The contract of a defense: its example is one, and it may refuse a run."""

import inspect

import pytest
import torch

from helpers.other_packages import example_of
from helpers.tiny_training import recipe, split, train
from poisonbench.core.settings import options_of
from poisonbench.data.splits import Split
from poisonbench.defenses import base, deep_knn, robust_features


def test_the_example_is_a_defense_that_trains_on_blurred_images():
    example = example_of(base)
    assert example.VERSION == 1
    assert example.PROFILES == {"paper": {}}
    assert [option.name for option in options_of(example.Config)] == ["share"]
    defense = example.build(example.Config(share=0.25), recipe())
    assert isinstance(defense, base.Defense)
    images = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    blurred = defense.perturb_batch(None, images, torch.zeros(3))
    expected = 0.75 * images + 0.25 * images.mean((2, 3), keepdim=True)
    assert torch.allclose(blurred, expected)
    _, result = train(defense)
    _, plain = train()
    assert result.digests == plain.digests
    assert result.curve != plain.curve


def test_hooks_that_are_called_are_the_ones_that_are_described():
    hooks = {
        name: hook
        for name, hook in vars(base.Defense).items()
        if not name.startswith("_") and callable(hook)
    }
    signatures = [
        f"{name}({', '.join(list(inspect.signature(hook).parameters)[1:])})"
        for name, hook in hooks.items()
    ]
    contract = base.__doc__.partition("in this order:")[2].partition("Units")[0]
    lines = [line for line in contract.splitlines() if line[:1].islower()]
    assert [line[: line.index(")") + 1] for line in lines] == signatures


def test_a_plain_defense_refuses_nothing_and_changes_nothing():
    defense, data = base.Defense(), split()
    for scenario in ("scratch", "transfer", "finetune"):
        defense.check_run(scenario, {"epochs", "features_from"})
    assert isinstance(defense.extend(data, split(3)), Split)
    assert defense.extend(data, split(3)) is data


@pytest.mark.parametrize(
    ("module", "scenario", "given", "message"),
    [
        (robust_features, "scratch", (), "expected a targeted attack with --scenario transfer"),
        (deep_knn, "transfer", ("features_from",), "expected no --features-from in scenario tran"),
    ],
)
def test_a_defense_refuses_runs_that_make_no_sense(module, scenario, given, message):
    defense = module.build(module.Config(), recipe())
    defense.check_run("finetune", given)
    with pytest.raises(ValueError, match=message):
        defense.check_run(scenario, given)


def test_a_filter_takes_the_features_of_the_start_where_that_is_trained():
    defense = deep_knn.build(deep_knn.Config(features_from="start"), recipe())
    defense.check_run("finetune", ("features_from",))
    for scenario in ("scratch", "transfer"):
        with pytest.raises(ValueError, match="--features-from"):
            defense.check_run(scenario, ("features_from",))
