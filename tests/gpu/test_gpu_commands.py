"""Whole commands on a GPU: every attack and defense by name, trained to the same bytes twice.

What the rehearsal beside it pretends is real here: the arithmetic is the GPU's own, and its
waits are those that PyTorch reports.
"""

import warnings
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from helpers.command_line import cli
from helpers.processes import contents
from helpers.rehearsal import (
    ATTACKS,
    FORMS,
    NO_STEPS,
    Meter,
    check_waits,
    check_waits_of_training,
    rho_of,
    training_of,
    words_of,
)
from helpers.waits import sync_debug_mode
from poisonbench import registry
from poisonbench.core.progress import relay
from poisonbench.data.artefacts import read_poison

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("small"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

#: The share of a poison's values that may differ from a CPU's by more than 1 of 255, where no
#: gradient is in it: rounding alone.
NEARLY_NONE = 0.001


@contextmanager
def counted_waits():
    """What PyTorch says that Python has waited for, by line, while it lasts."""
    waits: Counter[str] = Counter()

    def count(message, category, filename, lineno, file=None, line=None):
        if "synchronizing CUDA operation" in str(message):
            waits[f"{Path(filename).name}:{lineno}"] += 1

    with warnings.catch_warnings(), sync_debug_mode("warn"):
        warnings.simplefilter("always")
        warnings.showwarning = count
        yield waits


def test_a_wait_is_counted():
    values = torch.rand(3, device="cuda")
    with counted_waits() as waits:
        values.sum().item()
    assert waits.total() == 1


def on_gpu(results, *words):
    """A command on the GPU that must succeed; the meter of its waits."""
    with counted_waits() as waits:
        meter = Meter(waits)
        token = relay.set(meter)
        try:
            outcome = cli(*words, "--results", results, "--device", "cuda")
        finally:
            relay.reset(token)
    assert outcome.code == 0, outcome.err
    return meter


def twice(folder, *words):
    """A command leaves the same bytes twice on a GPU; the second's meter."""
    on_gpu(folder / "gpu", *words)
    meter = on_gpu(folder / "again", *words)
    assert contents(folder / "gpu") == contents(folder / "again")
    return meter


def poison_in(results):
    (path,) = results.glob("poisons/*")
    return read_poison(path)


def craft_on_both(folder, name, *words):
    """A poison of the GPU's has the CPU's rows, labels and budget; the meter."""
    line = ("craft", "--attack", name, *words)
    meter = on_gpu(folder / "gpu", *line)
    outcome = cli(*line, "--results", folder / "cpu", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    # Reading measures the budget and checks the seal.
    ours, theirs = poison_in(folder / "gpu"), poison_in(folder / "cpu")
    assert torch.equal(ours.indices, theirs.indices)
    if theirs.labels is not None:
        assert torch.equal(ours.labels, theirs.labels)
    if name in NO_STEPS - {"em"}:
        differ = (ours.images.int() - theirs.images.int()).abs() > 1
        assert differ.float().mean() <= NEARLY_NONE
    return meter


@pytest.mark.parametrize("name", registry.attacks())
def test_attacks(name, data, tmp_path):
    meter = craft_on_both(
        tmp_path, name, "--dataset", data, *words_of(ATTACKS, name), *rho_of(name)
    )
    check_waits(name, meter.steps.get(name, []))


@pytest.mark.parametrize("words", FORMS, ids=" ".join)
def test_forms_of_attacks(words, data, colour, tmp_path):
    is_colour = words[0] != "fc" and "original" not in words
    line = (*words[1:], "--dataset", colour if is_colour else data)
    meter = craft_on_both(tmp_path, words[0], *line, *rho_of(words[0]))
    # One that ends at once may have no step.
    if steps := meter.steps.get(words[0]):
        check_waits(words[0], steps, more=int("--color" in words))


@pytest.mark.parametrize("name", registry.defenses())
def test_defenses_train_to_the_same_bytes(name, data, colour, tmp_path):
    check_waits_of_training(name, twice(tmp_path, *training_of(name, data, colour)))


@pytest.mark.parametrize(
    "network", ["mnist-cnn", "mnist-cnn-small", "cifar-resnet18", "cifar-alexnet", "cifar-small"]
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_networks(network, precision, data, colour, tmp_path):
    words = ("defend", "--method", "hint", "--schedule", "1", "--epochs", "2", "--clean")
    words += ("--dataset", data if network.startswith("mnist") else colour, "--model", network)
    twice(tmp_path, *words, "--batch-size", "20", "--precision", precision)
