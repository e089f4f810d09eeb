"""The one table of attacks and the one of defenses. No torch here: modules are named, not imported.

Third parties enter by the same door: an entry point in the group ``poisonbench.attacks`` or
``poisonbench.defenses`` whose value names a module with the same contents.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from poisonbench.core.errors import UsageError
from poisonbench.core.settings import did_you_mean


@dataclass(frozen=True)
class Entry:
    """One algorithm.

    Attributes:
        name: what the user types.
        label: what tables print.
        module: what holds it: ``Config``, ``PROFILES``, ``VERSION`` and ``craft`` (attacks)
            or ``build`` (defenses).
        summary: one line on what it does.
        trains: whether it uses a classifier trained by the recipe: every defense, and attacks with
            a surrogate. The recipe's settings are options of these alone.
        scenario: how a targeted attack's victim is trained in the HINT paper; empty for untargeted
            attacks and for defenses.
        not_in: scenarios that a targeted attack has no form for.
        oracle: a control that is told which images are poisoned; no plug-in is one.
    """

    name: str
    label: str
    module: str
    summary: str
    trains: bool = True
    scenario: str = ""
    not_in: tuple[str, ...] = ()
    oracle: bool = False

    def load(self) -> ModuleType:
        """Import the algorithm's module."""
        return importlib.import_module(self.module)


#: The norm of adversarial training is part of the name that tables and figures show.
ATDA_LABELS = {"l2": "ATDA (L2)", "linf": "ATDA (Linf)"}


ATTACKS = (
    Entry("pgd", "PGD", "poisonbench.attacks.pgd", "climb the loss of the true label"),
    Entry(
        "dap",
        "DAP",
        "poisonbench.attacks.delusive_adversarial",
        "descend towards the next class's label",
    ),
    Entry(
        "durp",
        "DURP",
        "poisonbench.attacks.delusive_universal",
        "one random perturbation a class",
        trains=False,
    ),
    Entry(
        "dc",
        "DC",
        "poisonbench.attacks.deep_confuse",
        "a generator trained to mislead classifiers in training",
        trains=False,
    ),
    Entry(
        "gm",
        "GM",
        "poisonbench.attacks.gradient_matching",
        "poisons whose gradient is the target's with the wrong label",
        scenario="scratch",
        not_in=("transfer",),
    ),
    Entry(
        "bp",
        "BP",
        "poisonbench.attacks.bullseye_polytope",
        "poisons whose mean feature is the target's",
        scenario="transfer",
    ),
    Entry(
        "fc",
        "FC",
        "poisonbench.attacks.feature_collision",
        "poisons that look like the target to the network",
        scenario="transfer",
    ),
    Entry(
        "cp",
        "CP",
        "poisonbench.attacks.convex_polytope",
        "few poisons around the target's feature",
        scenario="transfer",
    ),
    Entry(
        "mp",
        "MP",
        "poisonbench.attacks.metapoison",
        "MetaPoison: lead training steps towards the wrong class of the target",
        scenario="scratch",
        not_in=("transfer",),
    ),
    Entry(
        "noise",
        "Noise",
        "poisonbench.attacks.random_noise",
        "control: as many images with random noise of the same size",
        trains=False,
        scenario="scratch",
    ),
)

DEFENSES = (
    Entry(
        "none",
        "W/o Defense",
        "poisonbench.defenses.none",
        "plain training: what every defense is held against",
    ),
    Entry(
        "hint",
        "HINT",
        "poisonbench.defenses.hint",
        "healthy noise on the most influential images; untargeted poisons, with trusted images",
    ),
    Entry(
        "atda",
        ATDA_LABELS["l2"],
        "poisonbench.defenses.atda",
        "adversarial training, stopped early; untargeted poisons, at several times the cost",
    ),
    Entry(
        "friends",
        "FRIENDS",
        "poisonbench.defenses.friends",
        "noise that leaves predictions alone, and random noise; targeted poisons, none trusted",
    ),
    Entry(
        "epic",
        "EPIC",
        "poisonbench.defenses.epic",
        "drops examples that stand alone; few, targeted poisons, nearly free",
    ),
    Entry(
        "clean-only",
        "Clean only (oracle)",
        "poisonbench.defenses.clean_only",
        "the oracle: exactly the poisons go, whose places it is told; a bound for filters",
        oracle=True,
    ),
    Entry(
        "knn",
        "Deep k-NN",
        "poisonbench.defenses.deep_knn",
        "drops examples whose neighbours have other labels; against few, targeted poisons",
    ),
    Entry(
        "l2",
        "L2 centroid",
        "poisonbench.defenses.l2_centroid",
        "drops a class's outliers; the cheapest look, when the share of poisons is known",
    ),
    Entry(
        "ocsvm",
        "One-class SVM",
        "poisonbench.defenses.one_class_svm",
        "drops the rim of a class's support; for comparison, l2 is better and cheaper",
    ),
    Entry(
        "random",
        "Random filter",
        "poisonbench.defenses.random_filter",
        "drops examples by lot; the control beside every filter",
    ),
    Entry(
        "spectral",
        "Spectral signatures",
        "poisonbench.defenses.spectral_signatures",
        "drops a class's extremes along its main direction; against backdoors",
    ),
    Entry(
        "activation-clustering",
        "Activation clustering",
        "poisonbench.defenses.activation_clustering",
        "splits a class in two and drops a small part; against backdoors in much of a class",
    ),
    Entry(
        "robust-features",
        "Robust features",
        "poisonbench.defenses.robust_features",
        "pretrains adversarially; when a network is transferred or fine-tuned",
    ),
    Entry(
        "jpeg",
        "JPEG",
        "poisonbench.defenses.jpeg",
        "re-encodes the training images; costs seconds, so try it first",
    ),
    Entry(
        "mixup",
        "mixup",
        "poisonbench.defenses.mixup",
        "trains on blends of pairs of images; costs nothing, also against unknown poisons",
    ),
    Entry(
        "cutmix",
        "CutMix",
        "poisonbench.defenses.cutmix",
        "trains on images with a patch of another; costs nothing, for images with detail",
    ),
)

#: The untargeted attacks that the paper's mix is made of.
MIX = ("pgd", "dap", "durp", "dc")


def attacks() -> dict[str, Entry]:
    """All attacks by name, plug-ins included."""
    return _with_plugins(ATTACKS, "poisonbench.attacks")


def defenses() -> dict[str, Entry]:
    """All defenses by name, plug-ins included."""
    return _with_plugins(DEFENSES, "poisonbench.defenses")


def find(kind: str, table: dict[str, Entry], name: str) -> Entry:
    """The entry of that name.

    Raises:
        UsageError: unknown; lists the known ones.
    """
    if name not in table:
        raise UsageError(
            f"expected {kind} among {', '.join(table)}, got {name!r}{did_you_mean(name, table)}"
        )
    return table[name]


def _with_plugins(built_in: tuple[Entry, ...], group: str) -> dict[str, Entry]:
    table = {entry.name: entry for entry in built_in}
    for point in entry_points(group=group):
        table.setdefault(
            point.name, Entry(point.name, point.name.upper(), point.value, "from a plug-in")
        )
    return table


def label_of(method: str, config: Mapping[str, Any]) -> str:
    """How figures name a run's defense."""
    if method == "atda" and config.get("norm") in ATDA_LABELS:
        return ATDA_LABELS[config["norm"]]
    table = defenses()
    return table[method].label if method in table else method
