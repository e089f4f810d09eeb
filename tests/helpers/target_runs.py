"""Synthetic runs of targeted attacks on the embedded images."""

from dataclasses import replace

from helpers.synthetic_runs import targeted_run
from poisonbench.results.records import spec_id
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
        **{"attack": "mp", "scenario": "finetune", "overrides": {"scenario": "finetune"}}
        | arguments,
    )
    record.spec["dataset"] = {"name": TARGETED_SAMPLE, "digest": data.digest}
    record.spec["goal"]["target_class"] = OWN
    record.metrics["target"] = {
        "prediction": prediction,
        "success": prediction == INTENDED,
        "confidence_of_own_class": 0.25,
        "confidence_of_intended_class": 0.125,
        **({"confidence": 0.5} if confidence else {}),
    }
    return record


def write(results, records):
    for record in records:
        # The id is the spec's, which was edited here.
        Store(results).write_record(replace(record, id=spec_id(record.spec)))
