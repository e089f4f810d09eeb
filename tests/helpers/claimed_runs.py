"""An accuracy claim, and runs whose gains it is judged by."""

import numpy as np

from helpers.synthetic_runs import make_record, with_outcomes
from poisonbench.tables.cells import TRIALS, Cell
from poisonbench.tables.claims import Superiority, against

IMAGES = 10_000


def cell(method, *, trials=TRIALS, dataset="mnist", rho=0.6):
    return Cell(dataset=dataset, method=method, rho=rho, trials=trials)


def accuracy_claim(trials=TRIALS, dataset="mnist"):
    hint, none = (cell(name, trials=trials, dataset=dataset) for name in ("hint", "none"))
    return Superiority(claim="HINT beats none", comparisons=against(hint, [none]))


def gain_runs(gains, *, apart=20, **arguments):
    """Trials of two methods: each gets some images right that the other gets wrong, anew."""
    records = []
    for trial, gain in enumerate(gains):
        drawn = np.random.default_rng(trial).permutation(IMAGES)
        for method, wrong in (("hint", drawn[:apart]), ("none", drawn[apart : 2 * apart + gain])):
            right = np.ones(IMAGES, dtype=bool)
            right[wrong] = False
            record = make_record(method=method, rho=0.6, **{"trial": trial, **arguments})
            records.append(with_outcomes(record, right))
    return records
