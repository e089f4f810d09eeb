"""The optimiser's settings, as the HINT paper trains (section VI-A; code f58a718)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from poisonbench.core.settings import BaseConfig, Profiles, require, setting

#: Share of a one-cycle schedule in which the learning rate rises.
CYCLE_RISE = 0.25


@dataclass(frozen=True, kw_only=True)
class Recipe(BaseConfig):
    """How a classifier is trained; the defaults are the paper's for CIFAR-10.

    An epoch's last batch has the images that are left; where that is one, and the network's batch
    norm cannot take statistics of it (maps of one pixel), it joins the batch before.
    """

    epochs: int = setting(80, "Training epochs.", low=1)
    batch_size: int = setting(128, "Images a step.", low=2)
    learning_rate: float = setting(0.1, "Initial learning rate of SGD.", over=0, high=1e30)
    momentum: float = setting(0.9, "Momentum; Nesterov's unless 0.", low=0, under=1)
    weight_decay: float = setting(5e-4, "L2 weight decay.", low=0)
    milestones: tuple[int, ...] = setting(
        (30, 50, 70), "Epochs after which the learning rate is divided by 10.", low=1
    )
    augment: Literal["none", "crop-flip"] = setting(
        "crop-flip",
        "crop-flip: integer shift by up to 4 pixels, zero padding, and horizontal flip.",
    )
    precision: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "Arithmetic of the network in training; auto: bfloat16 where it is quicker."
    )
    recalibrate: float = setting(
        0.0,
        "Share of the clean validation images, without labels, that batch norm's running "
        "statistics are taken from after the last epoch.",
        low=0,
        high=1,
        extension=True,
    )
    rate_schedule: Literal["steps", "one-cycle"] = setting(
        "steps",
        "steps: as the milestones say; one-cycle: linear from 0 to the learning rate in a quarter "
        "of the epochs and back to 0 in the others.",
        extension=True,
    )
    cycle_epochs: int | None = setting(
        None,
        "Epochs that one-cycle goes over, where the training ends before; all by default.",
        low=1,
        extension=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.cycle_epochs is None or self.rate_schedule == "one-cycle",
            f"cycle_epochs: expected it with rate_schedule one-cycle, got {self.cycle_epochs} "
            f"with {self.rate_schedule}",
        )

    def rate_at(self, epochs_done: float) -> float:
        """The learning rate when so many epochs are done, a part of the last one too."""
        if self.rate_schedule == "steps":
            decays = sum(milestone <= epochs_done for milestone in self.milestones)
            return self.learning_rate * 0.1**decays
        share = min(1.0, epochs_done / (self.cycle_epochs or self.epochs))
        return self.learning_rate * min(share / CYCLE_RISE, (1 - share) / (1 - CYCLE_RISE))

    def first_epochs(self, count: int) -> Self:
        """The recipe's first epochs alone, as they are within the whole.

        Batch norm's statistics are taken anew at the end of the whole, and so of no part of it.
        """
        cycle = None if self.rate_schedule == "steps" else self.cycle_epochs or self.epochs
        share = self.recalibrate if count == self.epochs else 0.0
        return replace(self, epochs=count, cycle_epochs=cycle, recalibrate=share)


#: The paper's MNIST recipe is plain SGD. The embedded sample has a sixth of MNIST's images and gets
#: settings that finish on a laptop, not the paper's.
RECIPE_PRESETS: Profiles = {
    "paper": {
        "mnist": {
            "epochs": 30,
            "learning_rate": 0.01,
            "momentum": 0.0,
            "weight_decay": 0.0,
            "milestones": (),
            "augment": "none",
        },
        "mnist-sample": {"epochs": 7, "learning_rate": 0.02, "momentum": 0.9, "milestones": (5,)},
        "mnist-sample@1000": {
            "epochs": 15,
            "learning_rate": 0.1,
            "weight_decay": 5e-4,
            "milestones": (6, 9, 13),
        },
        # Epochs and batches are by the number of images (data/quick.py).
        "quick": {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "milestones": ()},
    }
}


#: What HINT's reference code trains on MNIST by, for the profiles "code" of it and of no defense.
HINT_CODE_CHANGES: Profiles = {
    "code": {"mnist": {"epochs": 10}, "mnist-sample": {"epochs": 10, "milestones": (8,)}}
}


def recipe_profiles(
    changes: Profiles, presets: Mapping[str, Mapping[str, Any]] | None = None
) -> Profiles:
    """The paper's recipes with a method's own changes, for each profile that it changes.

    ``presets`` is what networks and data sets change in every profile.
    """
    paper = {**RECIPE_PRESETS["paper"], **(presets or {})}
    changed = {
        profile: {
            preset: {**paper.get(preset, {}), **by_preset.get(preset, {})}
            for preset in {*paper, *by_preset}
        }
        for profile, by_preset in changes.items()
    }
    return {"paper": paper, **changed}
