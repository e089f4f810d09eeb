"""Pictures of a poison: clean, poisoned and difference, as PNGs inside the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from poisonbench.core.errors import ArtefactError, PoisonbenchError
from poisonbench.entries import shown_name
from poisonbench.page.poison_pages import Artefact, Image, Pictures
from poisonbench.requests import DEFAULT_DATASET
from poisonbench.specs import CraftSpec

if TYPE_CHECKING:
    from torch import Tensor

    from poisonbench.data.poison import Poison
    from poisonbench.data.splits import Dataset

#: Images of one poison.
_COUNT = 10
#: The largest side of an embedded picture, in pixels.
_LARGEST = 128
#: The width that a picture is shown at, at least: of small images a whole multiple of theirs.
_SHOWN = 112


class DataSets:
    """Data sets for pictures, the last few kept: reading one takes longer than all its pictures.

    Attributes:
        root: where downloaded data sets are.
        is_embedded_alone: whether only the embedded one is read, whose pictures are the same on
            every machine.
    """

    def __init__(self, root: Path, *, is_embedded_alone: bool = False) -> None:
        self.root = root
        self.is_embedded_alone = is_embedded_alone
        self.load = lru_cache(maxsize=4)(self._load)

    def _load(self, name: str, seed: int) -> Dataset:
        """A data set with its splits by that seed.

        Raises:
            PoisonbenchError: it is not here, or is not to be read.
        """
        from poisonbench.data.sources import load_dataset

        if self.is_embedded_alone and name.partition("@")[0] != DEFAULT_DATASET:
            raise ArtefactError(f"expected {DEFAULT_DATASET} or a part of it, got {name!r}")
        return load_dataset(name, self.root, seed)


@dataclass(frozen=True)
class TestImages:
    """Images of a test split as data addresses by row, and the names of its classes.

    Both are empty where the data set is not on this machine.
    """

    #: Not a class of tests.
    __test__ = False

    addresses: dict[int, str] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    size: int = _SHOWN

    def name(self, label: int) -> str:
        """A class's name, or its number."""
        known = 0 <= label < len(self.class_names)
        return self.class_names[label] if known else str(label)


def read_test_images(
    dataset: str, digest: str, seed: int, sets: DataSets, rows: Sequence[int]
) -> TestImages:
    """Some test images of the data set with that digest; none where it is not at hand."""
    try:
        data = sets.load(dataset, seed)
    except PoisonbenchError:
        return TestImages()
    if data.digest != digest:
        return TestImages()
    images = data.test.images
    addresses = {row: _address(images[row].cpu()) for row in rows if 0 <= row < len(images)}
    return TestImages(addresses, tuple(data.class_names), shown_width(max(images.shape[-2:])))


def pictures_of(artefact: Artefact, dataset: str, sets: DataSets) -> Pictures:
    """Ten images of a poison beside the clean ones, or a remark on why there are none."""
    from poisonbench.data.artefacts import read_poison

    spec = artefact.card.spec
    assert artefact.path is not None
    try:
        data = sets.load(dataset, spec.seed if isinstance(spec, CraftSpec) else 0)
        poison = read_poison(artefact.path, data)
    except PoisonbenchError as error:
        reason = str(error).replace(str(artefact.path), artefact.id)
        return Pictures(remark=f"No pictures: {reason.replace(str(sets.root), 'DATA')}")
    return _drawn(poison, data, dataset)


def _drawn(poison: Poison, data: Dataset, dataset: str) -> Pictures:
    import torch

    sample = torch.linspace(0, len(poison) - 1, min(_COUNT, len(poison))).round().long()
    rows, poisoned = poison.indices[sample], poison.images[sample]
    clean = data.train.images[rows].cpu()
    labels = None if poison.labels is None else poison.labels[sample]
    levels = max(poison.card.largest_levels, 1)
    change = (poisoned.double() - clean.double()) * 127 / levels + 128
    difference = change.round().clamp(0, 255).to(torch.uint8)
    names, attacks = data.class_names, poison.card.attacks
    makers = [
        f", by {attacks[source]}" if len(attacks) > 1 else ""
        for source in poison.sources[sample].tolist()
    ]
    images = tuple(
        Image(
            _address(clean[i]),
            _address(poisoned[i]),
            _address(difference[i]),
            f"training image {int(rows[i])}, class {names[int(data.train.labels[rows[i]])]}"
            + ("" if labels is None else f", labelled {names[int(labels[i])]}")
            + makers[i],
        )
        for i in range(len(sample))
    )
    target, caption = "", ""
    if (goal := poison.goal) is not None:
        target = _address(data.test.images[goal.target].cpu())
        caption = (
            f"The target: test image {goal.target} of class {names[goal.target_class]}, which a "
            f"victim shall call {names[goal.intended_class]}; the poisons are of class "
            f"{names[goal.poison_class]}."
        )
    size = shown_width(max(clean.shape[-2:]))
    remark = "" if len(sample) else f"No image of {shown_name(dataset)} is poisoned."
    return Pictures(images, target, caption, size, levels, remark)


def shown_width(side: int) -> int:
    """The width that a picture is shown at: of small ones a whole multiple of theirs."""
    return side * -(-_SHOWN // side) if side < _SHOWN else min(side, _LARGEST)


def _address(image: Tensor) -> str:
    """A picture (C, H, W) uint8 as a data address."""
    from poisonbench.figures.images import png_text

    return "data:image/png;base64," + png_text(image, _LARGEST)
