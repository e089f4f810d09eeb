"""The networks that come with the package; their modules are in ``models``."""

from poisonbench.builtin import ours
from poisonbench.entries import NetworkEntry

NETWORKS = ours(
    "models",
    NetworkEntry(
        "mnist-cnn",
        "The HINT paper's MNIST network: two convolutions with batch norm and one linear layer",
        default_for=("mnist",),
    ),
    NetworkEntry(
        "mnist-cnn-small",
        "The same in a quarter of the width: 10 and 25 filters",
        module="mnist_cnn",
        builder="small_features",
    ),
    NetworkEntry(
        "cifar-resnet18",
        "ResNet-18 for 32 x 32 images, as the CIFAR-10 papers use it",
        default_for=("cifar10",),
    ),
    NetworkEntry(
        "cifar-alexnet",
        "The AlexNet-like network for CIFAR-10 that feature collision is run against end to end",
        # Without batch norm a rate of 0.1 diverges; a tenth is that of Witches' Brew's code.
        recipe={"learning_rate": 0.01},
    ),
    NetworkEntry(
        "cifar-small",
        "Six convolutions in three stages for 32 x 32 images, trained on a CPU in minutes",
        default_for=("cifar10@10000",),
        # On 10,000 images 83 % of the validation images; label smoothing of 0.1 gave 82 and is
        # left out. Nothing else was tried.
        recipe={
            "epochs": 18,
            "batch_size": 100,
            "learning_rate": 0.2,
            "milestones": (),
            "rate_schedule": "one-cycle",
        },
    ),
)
