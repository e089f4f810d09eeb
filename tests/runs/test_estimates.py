"""Estimated costs: counted by hand, as settings grow, what does not fit, and that all have one."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from helpers.command_line import cli, done, tiny_arrays
from poisonbench.core.work import Passes, Sizes, Work
from poisonbench.registry import attacks, defenses
from poisonbench.requests import CraftRequest, PoisonRequest, RunRequest
from poisonbench.results.store import Store
from poisonbench.runs import estimates
from poisonbench.runs.context import RunContext
from poisonbench.runs.estimates import Estimator
from poisonbench.runs.hardware import (
    ACCELERATORS,
    BANDWIDTH_UTILISATION,
    FLOPS_UTILISATION,
    SECONDS_AN_OPERATOR,
    Accelerator,
)
from poisonbench.runs.pass_costs import count_pass, time_pass
from poisonbench.targeting import SCENARIOS

SMALL = "mnist-sample@1000"


@pytest.fixture
def context(tmp_path):
    return RunContext(Store(tmp_path / "results"), tmp_path, torch.device("cpu"))


def run(method="none", attack="pgd", dataset=SMALL, **settings):
    return RunRequest(
        method=method,
        dataset=dataset,
        poison=PoisonRequest(attacks=(attack,)),
        settings=settings,
    )


def craft(attack, dataset=SMALL, rho=None, **settings):
    settings = {attack: settings} if settings else {}
    poison = PoisonRequest(attacks=(attack,), rho=rho, settings=settings)
    return CraftRequest(dataset=dataset, poison=poison)


def colour_data(folder):
    """As many grey images of three channels as make a validation split."""
    arrays = tiny_arrays(train=100, test=20, side=32)
    images = {name: np.repeat(a[..., None], 3, 3) for name, a in arrays.items() if a.ndim == 3}
    np.savez(folder / "colour.npz", **(arrays | images))
    return f"npz:{folder / 'colour.npz'}"


def tiny():
    """A convolution of 3 x 3 from 2 to 4 channels on 8 x 8 pixels, and a linear layer to 5."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.Flatten(), nn.Linear(4 * 6 * 6, 5, bias=False)
    )


# By hand, in FLOPs an image: a multiply-add is two.
CONV, LINEAR = 2 * 4 * 6 * 6 * 2 * 9, 2 * 144 * 5


@pytest.mark.parametrize(
    ("kind", "flops"),
    [
        ("forward", CONV + LINEAR),
        # Back to the linear layer's input and weights, and to the convolution's weights.
        ("training", 2 * CONV + 3 * LINEAR),
        # Back to the linear layer's and the convolution's inputs, not to weights.
        ("pixels", 2 * CONV + 2 * LINEAR),
    ],
)
def test_flops_are_those_of_a_count_by_hand(kind, flops):
    assert count_pass(kind, tiny, (2, 8, 8), 16).flops == 16 * flops


def test_second_order_passes_cost_more_than_those_that_they_hold():
    training, matching, unrolled = (
        count_pass(kind, tiny, (2, 8, 8), 16) for kind in ("training", "matching", "unrolled")
    )
    assert training.flops < matching.flops < unrolled.flops
    assert training.saved < matching.saved <= unrolled.saved


def test_what_is_saved_for_the_backward_pass_grows_with_the_batch_and_holds_no_weights():
    small, large = (count_pass("training", tiny, (2, 8, 8), batch) for batch in (4, 8))
    assert large.saved == pytest.approx(2 * small.saved, rel=0.05)
    assert count_pass("forward", tiny, (2, 8, 8), 4).saved == 4 * 2 * 8 * 8 * 4


def test_an_operator_takes_the_longest_of_arithmetic_traffic_and_launch():
    device = Accelerator(
        float32=1e12 / FLOPS_UTILISATION,
        bfloat16=1e13 / FLOPS_UTILISATION,
        bandwidth=1e12 / BANDWIDTH_UTILISATION,
        memory=1e9,
        source="made up",
    )
    operators = [(1e12, 0.0), (0.0, 2e12), (1.0, 1.0)]
    assert device.seconds(operators, "float32") == pytest.approx(1 + 2 + SECONDS_AN_OPERATOR)
    assert device.seconds(operators, "auto") == pytest.approx(0.1 + 1 + SECONDS_AN_OPERATOR)


def test_devices_without_bfloat16_compute_in_float32():
    operators = [(1e15, 0.0)]
    v100 = ACCELERATORS["v100"]
    assert v100.seconds(operators, "auto") == v100.seconds(operators, "float32")


def test_an_estimate_scales_with_epochs_and_steps(context):
    device = ACCELERATORS["h100"]
    one, three = (
        Estimator(context, device).of(run(epochs=epochs, milestones=())) for epochs in (100, 300)
    )
    assert three.flops / one.flops == pytest.approx(3, rel=0.02)
    assert three.seconds / one.seconds == pytest.approx(3, rel=0.02)
    assert three.memory == one.memory
    short, long = (Estimator(context).of(craft("pgd", steps=steps)).flops for steps in (10, 20))
    # The surrogate's training is the same.
    more = Estimator(context).of(craft("pgd", steps=20, restarts=2)).flops
    assert more - long == pytest.approx(2 * (long - short), rel=1e-6)


def test_a_network_that_jobs_share_counts_once(context):
    estimator = Estimator(context)
    first, second = (estimator.of(craft(name)) for name in ("pgd", "dap"))
    alone = Estimator(context).of(craft("dap"))
    assert second.flops < alone.flops
    assert Estimator(context).of(craft("pgd")).flops == first.flops


def training_costs(context, requests):
    """The FLOPs of each of the requests, beside those of the first, which shares nothing."""
    estimator = Estimator(context)
    first, *others = (estimator.of(request).flops for request in requests)
    return [flops / first for flops in others]


def draw_of(attack, trial=0, seed=0, **settings):
    request = craft(attack, **settings)
    return replace(request.at(trial), seed=seed)


def test_draws_of_a_poison_share_no_surrogate(context):
    draws = [draw_of("pgd", trial) for trial in range(3)]
    assert training_costs(context, draws) == pytest.approx([1, 1])
    again = [draw_of("pgd", 0), draw_of("pgd", 1), draw_of("pgd", 0, seed=1)]
    assert training_costs(context, again) == pytest.approx([1, 1])


def test_of_several_draws_each_surrogate_counts_once(context):
    first, other = Estimator(context), Estimator(context)
    for trial in range(2):
        for name in ("pgd", "dap"):
            first.of(draw_of(name, trial))
    alone = other.of(draw_of("durp")).flops
    assert first.of(draw_of("durp", 2)).flops == alone
    for trial in range(2):
        steps = first.of(draw_of("pgd", trial, steps=5)).flops
        assert steps < Estimator(context).of(draw_of("pgd", trial, steps=5)).flops / 2


def test_a_surrogate_trained_under_a_defense_is_another(context):
    plain, under = draw_of("pgd"), draw_of("pgd", against="hint")
    assert training_costs(context, [plain, under]) == pytest.approx([1])


def test_a_poison_is_made_once(context):
    assert training_costs(context, [draw_of("pgd"), draw_of("pgd")]) == [0]


def test_targeted_poisons_of_all_trials_share_their_surrogates(context):
    first, second, third = (draw_of("gm", trial) for trial in range(3))
    second, third = training_costs(context, [first, second, third])
    assert 0 < second == third < 1


def stage(attack="bp", scenario="transfer", trial=0, method="none", **targeting):
    poison = PoisonRequest(attacks=(attack,), targeting={"scenario": scenario, **targeting})
    return RunRequest(method=method, dataset=SMALL, poison=poison, trial=trial)


@pytest.mark.parametrize(
    ("other", "is_shared"),
    [
        (stage(method="knn"), True),
        (stage(attack="cp"), True),
        (stage(norm_drift=True), True),
        (stage(trial=1), False),
        (stage(transfer_share=0.5), False),
        (stage(poison_class=3), False),
        (stage(scenario="finetune"), False),
    ],
)
def test_a_start_is_shared_where_its_images_are_the_same(other, is_shared, context):
    (cost,) = training_costs(context, [stage(), other])
    assert (cost < 0.5) is is_shared


@pytest.mark.parametrize("name", [*attacks(), *defenses()])
def test_every_method_says_its_own_cost(name, context, tmp_path):
    entry = {**attacks(), **defenses()}[name]
    assert hasattr(entry.load(), "work"), f"{name}: add work(config, recipe, sizes) to its module"
    if name in attacks():
        # A trigger's share of so few images may be none.
        rho = 0.1 if entry.has_trigger else None
        estimate = Estimator(context).of(craft(name, rho=rho))
        # The noise's targets are easy ones, to networks that are trained for that, and DeepConfuse
        # has networks of its own.
        has_some = entry.has_network or bool(entry.scenario) or name == "dc"
        assert (estimate.flops > 0) is has_some
    else:
        attack = "bp" if name == "robust-features" else "pgd"
        dataset = colour_data(tmp_path) if entry.colour_only else SMALL
        estimate = Estimator(context).of(run(name, attack, dataset))
        plain = Estimator(context).of(run("none", attack, dataset))
        assert estimate.flops >= plain.flops > 0
    assert estimates.ASSUMED not in estimate.remarks
    assert bool(estimate.remarks) is (name in ("epic", "cp"))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_each_scenario_has_an_estimate(scenario, context):
    request = CraftRequest(
        dataset=SMALL, poison=PoisonRequest(attacks=("bp",), targeting={"scenario": scenario})
    )
    poison = request.poison
    victim = RunRequest(method="none", dataset=SMALL, poison=poison)
    estimator = Estimator(context)
    first, second = estimator.of(victim), estimator.of(victim)
    # What is pretrained is kept.
    assert (first.flops > second.flops > 0) is (scenario != "scratch")


@pytest.mark.parametrize(
    ("other", "is_shared"),
    [
        (run("l2", "durp"), True),
        (replace(run("l2", "durp"), trial=1), False),
        (run("l2", "durp", epochs=3), False),
        (run("l2", "pgd"), False),
        (run("l2", "durp", features_from="clean"), False),
    ],
)
def test_a_copy_is_shared_by_the_filters_of_a_trial(other, is_shared, context):
    alone = Estimator(context).of(other)
    estimator = Estimator(context)
    estimator.of(run("knn", "durp"))
    assert (estimator.of(other).flops < alone.flops) is is_shared


def test_a_copy_of_clean_images_is_shared_by_all_poisons(context):
    estimator = Estimator(context)
    first = estimator.of(run("knn", "durp", features_from="clean"))
    second = estimator.of(run("knn", "ops", features_from="clean"))
    assert second.flops < first.flops


def test_a_method_that_says_nothing_costs_plain_training_and_says_so(context, monkeypatch):
    module = defenses()["friends"].load()
    assert isinstance(module, ModuleType)
    plain = Estimator(context).of(run("none"))
    monkeypatch.delattr(module, "work")
    estimate = Estimator(context).of(run("friends"))
    assert estimate.remarks == (estimates.ASSUMED,)
    assert estimate.flops == plain.flops


def test_other_networks_than_the_runs_are_counted_apart(context):
    narrow = Estimator(context).of(craft("dc", surrogate_width=0.25))
    wide = Estimator(context).of(craft("dc", surrogate_width=0.5))
    assert wide.flops > 1.2 * narrow.flops


def test_passes_are_timed_here(context):
    assert 0 < time_pass("pixels", tiny_classifier, (1, 28, 28), 8) < 1
    estimate = Estimator(context, times=True).of(run(epochs=1, milestones=()))
    assert estimate.seconds is not None
    assert 0 < estimate.seconds < 600


def tiny_classifier(name="mnist-cnn-small"):
    from poisonbench.models import build_model

    return build_model(name, (1, 28, 28), 10, [0.1], [0.3], torch.Generator())


def test_a_method_of_ones_own_says_its_cost_by_the_same_hook(context, monkeypatch):
    module = defenses()["jpeg"].load()

    def work(config, recipe, sizes):
        assert isinstance(sizes, Sizes)
        return Work(passes=(Passes(kind="forward", images=sizes.images),), memory=7e9)

    before = Estimator(context).of(run("jpeg"))
    monkeypatch.setattr(module, "work", work)
    after = Estimator(context).of(run("jpeg"))
    assert after.flops > before.flops
    assert after.memory - before.memory > 6e9


def test_snapshots_of_a_surrogate_are_one_training(context, monkeypatch):
    module, costs = attacks()["gm"].load(), []
    for surrogates in [((0, 6),), ((0, 2), (0, 6), (0, 4)), ((0, 6), (1, 6))]:
        monkeypatch.setattr(module, "work", lambda *_, s=surrogates: Work(surrogates=s))
        costs.append(Estimator(context).of(craft("gm")).flops)
    whole, snapshots, two = costs
    assert snapshots == whole < two


LINES = "\n".join(
    [
        f"poisonbench defend --method none --dataset {SMALL} --attack pgd --rho 0.5",
        f"poisonbench defend --method atda --dataset {SMALL} --attack pgd --rho 0.5",
    ]
)


def test_a_plan_is_estimated_and_what_does_not_fit_is_said(tmp_path, monkeypatch):
    lines = tmp_path / "lines"
    lines.write_text(LINES)
    folders = ("--results", tmp_path / "r", "--data-root", tmp_path)
    ask = ("sweep", "plan", "--lines", lines, *folders, "--estimate", "--on", "h100")
    text = done(*ask).out
    assert "poison pgd" in text
    assert "does not fit" not in text
    answer = done(*ask, "--json").json
    assert answer["on"] == "h100"
    assert len(answer["jobs"]) == 3
    assert answer["flops"] == sum(job["flops"] for job in answer["jobs"])
    assert all(job["fits"] for job in answer["jobs"])
    assert not Path(tmp_path / "r" / "runs").exists()

    small = Accelerator(float32=1e12, bfloat16=None, bandwidth=1e12, memory=1e8, source="small")
    monkeypatch.setitem(ACCELERATORS, "h100", small)
    (line, *others) = [text for text in done(*ask).out.splitlines() if "does not fit" in text]
    assert len(others) == 2
    assert "GB, h100 has 0" in line


def test_what_an_estimate_leaves_out_is_printed_with_whose_it_is(tmp_path):
    lines = tmp_path / "lines"
    poison = f"--dataset {SMALL} --attack cp"
    lines.write_text(
        f"poisonbench defend --method epic {poison}\npoisonbench defend --method none {poison}"
    )
    folders = ("--results", tmp_path / "r", "--data-root", tmp_path)
    ask = ("sweep", "plan", "--lines", lines, *folders, "--estimate")
    epic, solver = (
        "the greedy selection of medoids is not counted, nor what dropping saves",
        "the solver of the coefficients in each step is not counted",
    )
    notes = [line for line in done(*ask).out.splitlines() if line.startswith("note: ")]
    assert sorted(notes) == [f"note: {epic} (epic)", f"note: {solver} (cp)"]
    answer = done(*ask, "--json").json
    assert sorted(job["remarks"] for job in answer["jobs"]) == [[], [epic], [solver]]


def test_metapoison_holds_the_states_of_one_network_on_the_device(context):
    one, all_ages = (
        Estimator(context).of(craft("mp", surrogates=4, start=start)).memory
        for start in ("trained", "staggered")
    )
    weights = sum(weight.nbytes for weight in tiny_classifier("mnist-cnn").parameters())
    assert all_ages - one == 3 * weights


def test_the_jobs_that_are_left_of_a_plan_are_estimated(tmp_path):
    lines, plan = tmp_path / "lines", tmp_path / "plan.json"
    lines.write_text(LINES)
    folders = ("--results", tmp_path / "r", "--data-root", tmp_path)
    done("sweep", "plan", "--lines", lines, "--json", "--output", plan, *folders)
    answer = done("sweep", "status", plan, *folders, "--estimate", "--json").json
    assert answer["hours"] is None
    assert [job["hours"] for job in answer["jobs"]] == [None] * 3


def test_bad_words(tmp_path):
    assert "add --estimate" in cli("sweep", "plan", "--on", "h100").err
    refused = cli("sweep", "plan", "--estimate", "--on", "h10")
    assert refused.code == 2
    assert "expected h100, h200, a100, v100, cpu, got 'h10'" in refused.err
