"""One poison of each kind of budget, from the embedded sample to a record, at the smallest size."""

from pathlib import Path

import pytest

from helpers.command_line import done
from poisonbench.data.artefacts import read_poison
from poisonbench.results.records import read_record

#: Ten classes of twenty images.
PART = "mnist-sample@200"

#: By attack: settings that keep it short, the norm of its budget, and images that it poisons.
POISONS = {
    "em": (("--rounds", "1", "--steps", "1", "--batches", "1"), "linf", 200),
    "lsp": ((), "l2", 200),
    "ops": ((), "l0", 200),
    "cuda": ((), "convolution", 200),
    "badnets": (("--rho", "0.1"), "linf", 20),
}


@pytest.mark.parametrize("attack", POISONS)
def test_a_poison_is_crafted_audited_and_trained_on(attack, results):
    settings, norm, count = POISONS[attack]
    words = ("--dataset", PART, "--results", results, "--quiet")
    path = Path(done("craft", "--attack", attack, *settings, *words).out.strip())
    card = read_poison(path).card
    assert (card.attacks, card.norm, card.num_poisons) == ([attack], norm, count)
    assert card.measured.max_abs_levels > 0
    line = ("defend", "--method", "none", "--poison", path, "--epochs", "1", *words, "--json")
    record = read_record(Path(done(*line).json["path"]))
    assert record.spec.poison.attacks == [attack]
    assert record.spec.poison.digest == card.digest
    assert record.metrics.poison.count == count
    assert 0 < record.metrics.test_accuracy < 1
    trigger = record.metrics.trigger
    # Those of the nine other classes.
    assert (trigger.count if trigger else None) == (1800 if attack == "badnets" else None)
