"""Runs of the matrix without training, and its grid."""

from helpers.synthetic_runs import make_record
from poisonbench.tables import catalogue

SAMPLE = "mnist-sample"


def run(accuracy, method="none", attack=None, rho=1.0, trial=0, **more):
    poisoned = {"rho": rho, "attacks": [attack]} if attack else {}
    return make_record(accuracy, dataset=SAMPLE, method=method, trial=trial, **poisoned, **more)


def adaptive_run(accuracy, method, against, attack="pgd", **more):
    labels = {"overrides": {f"{attack}.against": against}}
    return run(accuracy, method, attack, digest=f"a{against}", labels=labels, **more)


def runs_of_each_kind():
    return [
        run(0.98, seconds=10.0),
        run(0.96, method="hint", seconds=20.0),
        run(0.20, attack="pgd", seconds=10.0),
        run(0.60, attack="dap", digest="q", seconds=10.0),
        run(0.50, attack="dap", rho=0.6, digest="r", seconds=10.0),
        *(
            run(value, method="hint", attack="pgd", trial=trial, seconds=30.0)
            for trial, value in enumerate((0.3, 0.4, 0.5))
        ),
    ]


def grid(records, key="matrix"):
    (block,) = catalogue.build(key, records, SAMPLE).blocks
    return block, {row[0]: dict(zip(block.columns[1:], row[1:], strict=True)) for row in block.rows}
