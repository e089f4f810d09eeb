"""What the rehearsal on a pretended GPU and the tests on a real one share.

Short command lines of every attack and defense, a network of few operations, a meter of waits.
"""

import os
import signal
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest

from helpers.command_line import shortened, tiny_arrays
from poisonbench import registry
from poisonbench.entries import NetworkEntry
from poisonbench.runs import context
from poisonbench.training import recipe

#: Options with which each attack does all its work in few steps.
ATTACKS = {
    "pgd": ("--steps", "2", "--augment", "crop-flip", "--precision", "float32"),
    "dap": ("--steps", "2", "--precision", "float32"),
    "durp": (),
    "dc": ("--rounds", "1", "--batch-size", "32"),
    "em": ("--rounds", "1", "--steps", "3", "--stop-error", "0", "--precision", "float32"),
    "rem": (
        *("--batches", "2", "--batch-size", "32", "--noise-steps", "2", "--draws", "2"),
        *("--adversary-steps", "2", "--augment", "crop-flip", "--precision", "float32"),
    ),
    "tap": ("--steps", "2", "--restarts", "2", "--augment", "crop-flip", "--precision", "float32"),
    "gm": ("--steps", "3", "--restarts", "2", "--brew-augment", "shift-flip"),
    "bp": ("--steps", "3", "--restarts", "2", "--brew-augment", "shift-flip"),
    "fc": ("--steps", "3", "--restarts", "2", "--brew-augment", "shift-flip"),
    "cp": ("--steps", "3", "--surrogates", "2"),
    "mp": ("--steps", "2", "--surrogates", "2", "--inner-batch-size", "32"),
    "badnets": (),
    "blended": ("--clean-label", "true"),
    "narcissus": ("--rounds", "3", "--precision", "float32"),
    "sleeper-agent": ("--steps", "4", "--retrainings", "1", "--patch", "5"),
    "noise": (),
    "lsp": (),
    "ar": (),
    "ops": (),
    "cuda": (),
    "untargeted-noise": ("--norm", "l2", "--epsilon", "1"),
}

#: The same for each defense in three epochs.
DEFENSES = {
    "none": (),
    "hint": ("--schedule", "1,2"),
    "atda": ("--steps", "2"),
    "friends": ("--begin-epoch", "1", "--steps", "2"),
    "epic": ("--warmup", "1", "--interval", "1"),
    "clean-only": (),
    "knn": (),
    "l2": (),
    "ocsvm": (),
    "random": (),
    "spectral": (),
    "activation-clustering": (),
    "robust-features": ("--steps", "2"),
    "jpeg": (),
    "grayscale": (),
    "bit-depth": (),
    "gaussian-blur": (),
    "orthogonal-projection": ("--probe-epochs", "2", "--probe-batch-size", "32"),
    # Draws are compared in the first two epochs, then one is taken.
    "ueraser": ("--draws", "2", "--full-share", "0.5"),
    "at": ("--steps", "2"),
    "bn-recalibrate": (),
    "mixup": (),
    "cutmix": (),
}
SHORT = ("--epochs", "3", "--batch-size", "32")
RHO = ("--rho", "0.03")


def rho_of(name):
    """The share of an attack whose own would be no image of so few."""
    entry = registry.attacks()[name]
    return RHO if entry.scenario or entry.rho < 0.03 else ()


NARROW = ("--generator-width", "0.05", "--surrogate-width", "0.05")
#: Forms of attacks that other steps are made of.
FORMS = [
    ("fc", "--profile", "watermark", "--steps", "3"),
    # All stop at once, which a GPU tells a few steps later.
    ("fc", "--profile", "watermark", "--steps", "9", "--step-size", "1e-8"),
    ("bp", "--profile", "original", "--steps", "2", "--surrogates", "1"),
    ("mp", "--color", "0.04", "--steps", "1", "--surrogates", "2", "--inner-batch-size", "15"),
    (
        *("em", "--noise", "class", "--share", "1", "--rounds", "1", "--batch-size", "8"),
        *("--precision", "float32"),
    ),
    ("dc", *NARROW, "--rounds", "1", "--epochs-per-round", "1", "--batch-size", "20"),
]
#: How often a step may wait: MetaPoison looks at the gradient of all networks once a craft step.
WAITS_A_STEP = {"mp": 1}
#: In how many of the rehearsed steps a round ends, in which DeepConfuse looks at its network.
ROUND_ENDS = {"dc": 1}
#: Attacks of no gradient steps; a round of EM has a test of its own.
NO_STEPS = {
    "durp",
    "em",
    "badnets",
    "blended",
    "noise",
    "lsp",
    "ar",
    "ops",
    "cuda",
    "untargeted-noise",
}


class Meter:
    """Waits between two reports of progress, by phase; it stands in for a command's reporter.

    Attributes:
        waits: how often Python has waited until now, by what says why.
        steps: of each phase, the waits in a step.
        epochs: the same of the first step of an epoch, with what ends the epoch before.
        stop_at: (phase, steps done) at which it sends what Ctrl-C sends.
    """

    def __init__(self, waits, stop_at=None):
        self.steps, self.epochs, self.waits, self.stop_at = {}, {}, waits, stop_at
        self._before, self._last = Counter(), None

    def __call__(self, phase, done, total, detail=""):
        if self._last == (phase, detail):
            self.steps.setdefault(phase, []).append(self.waits - self._before)
        elif self._last is not None and self._last[0] == phase:
            self.epochs.setdefault(phase, []).append(self.waits - self._before)
        self._before, self._last = Counter(self.waits), (phase, detail)
        if (phase, done) == self.stop_at:
            os.kill(os.getpid(), signal.SIGINT)


def words_of(table, name):
    assert name in table, f"{name} has no rehearsal: add its options to helpers/rehearsal.py"
    return table[name]


def check_waits(name, steps, more=0):
    """No step waits more often than it may, but those in which a round ends."""
    ends = ROUND_ENDS.get(name, 0)
    within = sorted(steps, key=Counter.total)[: len(steps) - ends]
    assert within or name in NO_STEPS, "no step was seen: rehearse more of them"
    assert all(step.total() <= WAITS_A_STEP.get(name, 0) + more for step in within), steps


def training_of(name, data, colour):
    """The command that trains with a defense on such images as it takes."""
    entry = registry.defenses()[name]
    attack = ("--attack", "durp")
    if entry.pretrains:
        attack = ("--attack", "noise", "--scenario", "finetune", *RHO)
    words = ("defend", "--method", name, "--dataset", colour if entry.colour_only else data)
    return (*words, *attack, *SHORT, *words_of(DEFENSES, name))


def check_waits_of_training(name, meter):
    """No step of a defense's training waits more often than it may."""
    assert len(meter.steps[name]) >= 3
    # Those who move on are gathered, once a search step.
    most = 2 if name == "atda" else 0
    for phase, steps in meter.steps.items():
        # Each pass of friendly noise is asked whether it has run away, before the next epoch.
        allowed = 1 if phase == "friends: friendly noise" else most
        assert all(step.total() <= allowed for step in steps), steps


@contextmanager
def tiny_network():
    """The network of few operations is everyone's; attacks and trainings are short."""
    with registry.forgetting(), shortened(), pytest.MonkeyPatch.context() as patch:
        registry.register(NetworkEntry("tiny", "of few operations", module="helpers.tiny_training"))
        patch.setattr(context, "default_network", lambda presets: "tiny")
        # Where a CPU has bfloat16, "auto" would take it there alone.
        presets = recipe.RECIPE_PRESETS["paper"]
        patch.setitem(presets["mnist"], "precision", "float32")
        patch.setitem(presets, "cifar10", {"precision": "float32", "epochs": 2})
        yield


def tiny_grey(folder):
    """The name of a data set of 110 training images of four classes."""
    path = folder / "tiny.npz"
    np.savez(path, **tiny_arrays(train=110, test=24))
    return f"npz:{path}"


def tiny_colour(folder):
    """The name of a data set of 45 colour images of three classes."""
    random = np.random.default_rng(1)
    arrays = {}
    for part, size in (("train", 45), ("test", 12)):
        images = random.integers(0, 256, (size, 16, 16, 3), dtype=np.uint8)
        arrays |= {f"x_{part}": images, f"y_{part}": np.arange(size) % 3}
    path = folder / "colour.npz"
    np.savez(path, **arrays)
    return f"npz:{path}"
