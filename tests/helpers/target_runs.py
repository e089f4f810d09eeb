"""Synthetic runs of targeted attacks on the embedded images."""

from helpers.synthetic_runs import changed, targeted_run
from poisonbench.results.store import Store
from poisonbench.tables.cells import TARGETED_SAMPLE

OWN, INTENDED = 4, 9


def run_on(data, prediction, *, trial=0, row=None, confidence=True, **arguments):
    """A run whose target is a test image of class 4."""
    rows = (data.test.labels == OWN).nonzero().flatten()
    record = targeted_run(
        prediction == INTENDED,
        trial=trial,
        target=int(rows[trial]) if row is None else row,
        intended=INTENDED,
        rho=0.05,
        dataset=TARGETED_SAMPLE,
        **{"attack": "mp", "scenario": "finetune", "overrides": {"scenario": "finetune"}}
        | arguments,
    )
    answer = {"prediction": prediction, **({"confidence": 0.5} if confidence else {})}
    return changed(
        record,
        spec={"dataset": {"digest": data.digest}, "goal": {"target_class": OWN}},
        metrics={"target": answer},
    )


def write(results, records):
    for record in records:
        Store(results).write_record(record)
