"""Whole commands on the pretended accelerator: they give what they give on a CPU, byte for byte.

It proves that tensors are where they must be and how often Python waits, not that a GPU's own
arithmetic agrees.
"""

import weakref

import pytest

from helpers.command_line import cli, done
from helpers.processes import contents
from helpers.rehearsal import (
    ATTACKS,
    DEFENSES,
    FORMS,
    RHO,
    SHORT,
    Meter,
    check_waits,
    check_waits_of_training,
    rho_of,
    training_of,
    words_of,
)
from poisonbench import registry
from poisonbench.attacks import error_minimising, metapoison
from poisonbench.core.devices import send_network
from poisonbench.core.progress import relay
from poisonbench.data.splits import digest_tensors
from poisonbench.results.store import COPY, Store
from poisonbench.runs import craft_targeted
from poisonbench.runs.kept_models import read_weights
from poisonbench.targeting import SCENARIOS

device = pytest.importorskip("poisonbench.conformance.pretended_device", exc_type=ImportError)
WAITS, pretended_gpu = device.WAITS, device.pretended_gpu

pytestmark = pytest.mark.usefixtures("small")


def on_gpu(results, *words, meter=None):
    """A command on the pretended accelerator; its end and its meter."""
    meter = meter or Meter(WAITS)
    with pretended_gpu():
        token = relay.set(meter)
        try:
            outcome = cli(*words, "--results", results, "--device", "cuda")
        finally:
            relay.reset(token)
    return outcome, meter


def rehearse(folder, *words):
    """A command on both devices leaves the same; the meter of the accelerator's."""
    outcome, meter = on_gpu(folder / "gpu", *words)
    assert outcome.code == 0, outcome.err
    done(*words, "--results", folder / "cpu", "--device", "cpu")
    expected, copies = results_of(folder / "cpu")
    assert expected
    assert results_of(folder / "gpu") == (expected, copies)
    return meter


def results_of(folder):
    """Its contents but for the copies that filters share, which are the device's own; and these."""
    store = Store(folder)
    costs = [(path.stem, store.crafting_cost(path.stem)) for path in folder.glob("crafting/*")]
    names = [name for name, cost in costs if cost is not None and cost.attack.endswith(COPY)]
    paths = [store.model_path(name) for name in names]
    kept = contents(folder)
    for path in paths:
        del kept[str(path.relative_to(folder))]
    return kept, [digest_tensors(*read_weights(path).values()) for path in paths]


@pytest.mark.parametrize("name", registry.attacks())
def test_attacks_never_wait_in_a_gradient_step(name, data, tmp_path):
    words = ("craft", "--attack", name, "--dataset", data, *words_of(ATTACKS, name))
    meter = rehearse(tmp_path, *words, *rho_of(name))
    check_waits(name, meter.steps.get(name, []))


@pytest.mark.parametrize("profile", ["l0", "convolution"])
def test_noise_of_other_norms(profile, data, tmp_path):
    words = ("craft", "--attack", "untargeted-noise", "--profile", profile)
    rehearse(tmp_path, *words, "--dataset", data)


def test_error_minimising_noise_never_waits_between_its_passes(data, tmp_path, monkeypatch):
    """All images of the others fit one pass, and with it a round is one report."""
    monkeypatch.setattr(error_minimising, "pass_size", lambda images, gradients: 40)
    meter = rehearse(tmp_path, "craft", "--attack", "em", "--dataset", data, *ATTACKS["em"])
    assert meter.steps["em"]
    assert not any(meter.steps["em"])


@pytest.mark.parametrize("name", ["friends", "ueraser"])
def test_a_defense_that_draws_is_assumed_without_waiting(name, data, tmp_path):
    """A draw is of one pass, which holds more images on a GPU: the poisons are others there."""
    words = ("craft", "--attack", "pgd", "--dataset", data, "--steps", "2", "--against", name)
    outcome, meter = on_gpu(tmp_path / "gpu", *words, "--epochs", "6")
    assert outcome.code == 0, outcome.err
    assert not any(meter.steps["pgd"]), meter.steps["pgd"]


@pytest.mark.parametrize("words", FORMS, ids=" ".join)
def test_forms_of_attacks_never_wait_in_a_gradient_step(words, data, colour, tmp_path):
    is_colour = words[0] != "fc" and "original" not in words
    line = ("craft", "--attack", *words, "--dataset", colour if is_colour else data)
    meter = rehearse(tmp_path, *line, *rho_of(words[0]))
    # Matrices of colours are sent to a network, once.
    check_waits(words[0], meter.steps[words[0]], more=int("--color" in words))


def test_metapoison_has_one_state_at_a_time_on_the_device(data, tmp_path, monkeypatch):
    sent = []

    def watched(state, where):
        assert not any(weight.device == where for weight in state.state_dict().values())
        # The one before may go when the next has come.
        assert sum(one() is not None for one in sent) <= 1
        network = send_network(state, where)
        sent.append(weakref.ref(network))
        return network

    monkeypatch.setattr(metapoison, "send_network", watched)
    words = ("craft", "--attack", "mp", "--dataset", data, *ATTACKS["mp"], *RHO)
    outcome, _ = on_gpu(tmp_path, *words)
    assert outcome.code == 0, outcome.err
    # Two networks in each of two steps.
    assert len(sent) == 4


@pytest.mark.parametrize("name", registry.defenses())
def test_defenses_never_wait_in_a_step_of_training(name, data, colour, tmp_path):
    meter = rehearse(tmp_path, *training_of(name, data, colour))
    check_waits_of_training(name, meter)
    if name == "none":
        # The mean loss, the next batches, and two of the validation images.
        assert [epoch.total() for epoch in meter.epochs[name]] == [4, 4]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenarios(scenario, data, tmp_path, monkeypatch):
    # One of the clean models that say which targets are easy, since few steps leave weak ones.
    monkeypatch.setattr(craft_targeted, "NUM_CONTROLS", 1)
    words = ("defend", "--method", "none", "--attack", "bp", "--scenario", scenario, *RHO)
    words += ("--targets", "easy", "--batch-size", "6", "--bp.epochs", "3", "--bp.batch-size", "18")
    meter = rehearse(tmp_path, *words, "--dataset", data)
    assert not any(meter.steps["none"])


def test_the_augmentations_of_colours_never_wait(colour, tmp_path):
    words = ("defend", "--method", "ueraser", "--form", "max", "--draws", "4", "--epochs", "3")
    more = ("--batch-size", "6", "--attack", "durp", "--dataset", colour)
    meter = rehearse(tmp_path, *words, *more)
    assert not any(meter.steps["ueraser"])


@pytest.mark.parametrize("network", ["mnist-cnn", "cifar-resnet18", "cifar-alexnet", "cifar-small"])
def test_the_networks(network, data, colour, tmp_path):
    """In the GPU's own forms, of which the CPU has quicker ones; bfloat16 is asked for as well."""
    words = ("defend", "--method", "hint", "--schedule", "1", "--epochs", "2", "--clean")
    words += ("--dataset", data if network == "mnist-cnn" else colour, "--model", network)
    outcome, meter = on_gpu(tmp_path, *words, "--batch-size", "20", "--precision", "bfloat16")
    assert outcome.code == 0, outcome.err
    assert meter.steps["hint"]
    assert not any(meter.steps["hint"])


def figures_of(results):
    return {path.name: path.read_bytes() for path in (results / "figures").iterdir()}


FIGURE_1 = ("1", "--wrong-label", "--schedule", "1", "--epochs", "2")
FIGURE_2 = ("2", "--make", "--methods", "none,atda")


@pytest.mark.parametrize("words", [FIGURE_1, FIGURE_2], ids=["1", "2"])
def test_figures(words, data, tmp_path):
    rehearse(tmp_path, "figure", *words, "--attack", "durp", "--dataset", data)
    files = figures_of(tmp_path / "cpu")
    assert len(files) == 3
    assert figures_of(tmp_path / "gpu") == files


@pytest.mark.parametrize("name", ["hint", "atda", "epic"])
def test_a_run_resumes_from_its_checkpoint(name, data, tmp_path):
    words = ("defend", "--method", name, "--dataset", data, "--attack", "durp", *SHORT)
    resume(tmp_path, Meter(WAITS, (name, 10)), *words, *DEFENSES[name])


@pytest.mark.parametrize("name", ["dc", "gm", "cp", "mp"])
def test_an_attack_resumes_from_its_checkpoint(name, data, tmp_path):
    words = ("craft", "--attack", name, "--dataset", data, *ATTACKS[name])
    resume(tmp_path, Meter(WAITS, (name, 2)), *words, *rho_of(name))


def resume(folder, meter, *words):
    """A command is stopped on the accelerator and continued there, and leaves the same."""
    outcome, _ = on_gpu(folder / "gpu", *words, meter=meter)
    assert outcome.code == 75, outcome.err
    rehearse(folder, *words)
