"""The second paper's Table 1: filters against feature collision, end to end. No torch here."""

from poisonbench.requests import Values
from poisonbench.tables.baseline_tables import Protocol, table_of
from poisonbench.tables.cells import TARGETED_SAMPLE
from poisonbench.tables.paper_table import TARGETED_DATASET

_WARM_START: Values = {
    "attack_profile": "watermark",
    "scenario": "finetune",
    "stage_epochs": 10,
}

#: 50 of 49,000 images, all layers of the AlexNet-like network for 10 epochs; on the sample 30 of
#: 1,000 and the MNIST network.
FEATURE_COLLISION = Protocol(
    key="baseline-1",
    title="filters against feature collision, end to end",
    attack="fc",
    scenario="finetune",
    rho={TARGETED_DATASET: 0.00102, TARGETED_SAMPLE: 0.03},
    overrides={
        TARGETED_DATASET: {**_WARM_START, "model": "cifar-alexnet"},
        TARGETED_SAMPLE: _WARM_START,
    },
    # epsilon and nu are the share of poisons in their class; the paper's 0.01 is the filters'
    # default.
    method_overrides={
        (TARGETED_SAMPLE, "l2"): {"fraction": 0.3},
        (TARGETED_SAMPLE, "ocsvm"): {"nu": 0.3},
    },
)

TABLE = table_of(FEATURE_COLLISION)
