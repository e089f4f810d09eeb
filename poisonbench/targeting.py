"""What an attack is after, and how the victim of a targeted one is trained. No torch here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from poisonbench.core.settings import BaseConfig, Profiles, options_of, require, resolve, setting

#: Epochs and optimiser of the second stage of a scenario, where they are not the recipe's.
STAGE_CHANGES: dict[str, dict[str, Any]] = {
    "finetune": {"epochs": 8, "learning_rate": 0.01, "momentum": 0.9, "milestones": ()},
}


@dataclass(frozen=True, kw_only=True)
class Targeting(BaseConfig):
    """Settings that every targeted attack shares; the defaults are the HINT paper's."""

    scenario: Literal["scratch", "transfer", "finetune"] = setting(
        "scratch",
        "scratch: train on the poisoned set; transfer: a new head on a frozen network; finetune: "
        "all layers of a trained network.",
    )
    rho: float = setting(
        0.01,
        "Poisons as a share of the training images. In transfer they take places of their class in "
        "the transfer set, by the paper's settings all; a lower share leaves clean images there.",
        low=0,
        high=1,
    )
    targets: Literal["random", "easy"] = setting(
        "random", "random: any test image; easy: one that clean models barely get right."
    )
    target: int | None = setting(
        None, "Row of the target in the test split; drawn by default.", low=0
    )
    intended_class: int | None = setting(
        None, "Class that the target shall be given; drawn.", low=0
    )
    poison_class: int | None = setting(None, "Class of the poisons; the intended class.", low=0)
    transfer_share: float = setting(
        0.1, "Transfer set as a share of the training images.", over=0, under=1
    )
    stage_epochs: int | None = setting(
        None,
        "Epochs of the second stage of transfer or finetune, milestones in proportion.",
        extension=True,
    )
    norm_drift: bool = setting(
        False, "Let frozen batch norm's statistics move, as reference codes do."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.stage_epochs is None or (self.stage_epochs >= 1 and self.scenario != "scratch"),
            f"stage_epochs: expected 1 or more with a second stage, got {self.stage_epochs} "
            f"with {self.scenario}",
        )
        require(
            not self.norm_drift or self.scenario != "scratch",
            "norm_drift: expected scenario transfer or finetune, got scratch",
        )


#: Ways to train a victim.
SCENARIOS = next(option.choices for option in options_of(Targeting) if option.name == "scenario")

#: The small subset of the sample has settings under which attacks succeed within two minutes; a
#: hundredth of a user's few images would be a handful of poisons.
#: ``PRESET/SCENARIO`` holds for one scenario.
PROFILES: Profiles = {
    "paper": {
        # The smallest class has 532 places in a transfer set of a tenth.
        "mnist/transfer": {"rho": 0.009},
        "mnist-sample/transfer": {"rho": 0.01},
        "mnist-sample@1000": {"rho": 0.05, "targets": "easy"},
        "mnist-sample@1000/transfer": {"rho": 0.025, "transfer_share": 0.25, "stage_epochs": 60},
        "quick": {"rho": 0.05},
        "quick/transfer": {"rho": 0.025, "transfer_share": 0.25},
    }
}


def own_targeting(
    presets: Sequence[str], scenario: str, given: Mapping[str, Any] | None = None
) -> Targeting:
    """What holds in a scenario where nothing else is asked for than what is given.

    Presets are the data set's, most general first.
    """
    return resolve(
        Targeting,
        PROFILES,
        profile="paper",
        presets=[name for preset in presets for name in (preset, f"{preset}/{scenario}")],
        overrides={"scenario": scenario, **(given or {})},
        owner="a targeted attack",
    )


class Goal(
    msgspec.Struct, frozen=True, tag_field="kind", tag="targeted", forbid_unknown_fields=True
):
    """One target, as specs and cards state it."""

    #: Row of the test split.
    target: int
    target_class: int
    #: What a poisoned victim shall call it.
    intended_class: int
    poison_class: int
    scenario: str
    #: How it was drawn: random, easy or given.
    targets: str

    @property
    def classes(self) -> tuple[int, int, int]:
        """The target's, the intended one and that of the poisons."""
        return self.target_class, self.intended_class, self.poison_class


class Untargeted(
    msgspec.Struct, frozen=True, tag_field="kind", tag="untargeted", forbid_unknown_fields=True
):
    """The goal of an untargeted poison."""


class Trigger(
    msgspec.Struct,
    frozen=True,
    tag_field="kind",
    tag="triggered",
    forbid_unknown_fields=True,
    omit_defaults=True,
):
    """What a poison with a trigger is after: any image that bears it, taken for one class."""

    target_class: int
    #: "dirty": poisons are of all classes, labelled as the target class; "clean": of that class.
    labels: Literal["dirty", "clean"]
    #: sha256 of the test images that it is judged by, with the trigger on them.
    test_digest: str
    #: The class of these images; null of all but the target class.
    source_class: int | None = None

    @property
    def images_text(self) -> str:
        """The images that it is judged by, in a word or two."""
        return "other" if self.source_class is None else f"class {self.source_class}"

    @property
    def text(self) -> str:
        """What tables call it."""
        return f"{self.labels} label"
