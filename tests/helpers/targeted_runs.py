"""What the tests of targeted runs share: tiny data, and attacks and trainings of few steps."""

from contextlib import contextmanager

import numpy as np
import pytest

from helpers.command_line import tiny_arrays
from poisonbench.attacks import (
    bullseye_polytope,
    convex_polytope,
    feature_collision,
    gradient_matching,
    metapoison,
)
from poisonbench.training import recipe

#: The short settings of each attack.
SHORT_ATTACKS = (
    (gradient_matching, {"steps": 2, "restarts": 2}),
    (bullseye_polytope, {"steps": 2, "restarts": 2}),
    (feature_collision, {"steps": 2, "restarts": 2}),
    (convex_polytope, {"steps": 2, "surrogates": 2}),
    (metapoison, {"steps": 2, "surrogates": 2, "inner_batch_size": 48}),
)
SHORT_TRAINING = {"epochs": 2, "learning_rate": 0.05, "momentum": 0.9}

#: Each defense with options that make it do its work in two epochs.
METHODS = {
    "none": (),
    "hint": ("--schedule", "1"),
    "friends": ("--begin-epoch", "1"),
    "atda": ("--steps", "2"),
    "epic": ("--warmup", "1", "--interval", "1"),
}
#: Two poisons of 144 images; transfer sets of four images a class.
RHO = ("--rho", "0.01")


@contextmanager
def shortened():
    """Attacks and trainings on grey images are short; for all commands inside."""
    with pytest.MonkeyPatch.context() as patch:
        for module, settings in SHORT_ATTACKS:
            for name, value in settings.items():
                patch.setitem(module.PROFILES["paper"]["mnist"], name, value)
        for name, value in SHORT_TRAINING.items():
            patch.setitem(recipe.RECIPE_PRESETS["paper"]["mnist"], name, value)
        yield


def make_data(folder):
    """A data set of 144 training, 16 validation and 40 test images of four classes."""
    path = folder / "tiny.npz"
    np.savez(path, **tiny_arrays(train=160, test=40))
    return f"npz:{path}"
