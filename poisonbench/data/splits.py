"""Images, labels and their splits.

Shapes: N images, C channels, H x W pixels, K classes. Images are uint8 (0..255) at rest and
float32 in [0, 1] in arithmetic; nothing here is normalised, the model does that.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from poisonbench.core.errors import ArtefactError
from poisonbench.core.seeds import generator_for


@dataclass(frozen=True)
class Split:
    """A labelled set of images.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ArtefactError(
                "expected images of shape (N, C, H, W) and type uint8, "
                f"got {tuple(self.images.shape)} {self.images.dtype}"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ArtefactError(
                f"expected {len(self.images)} labels of type int64, "
                f"got {tuple(self.labels.shape)} {self.labels.dtype}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, indices: Tensor) -> Split:
        """The images and labels at the given rows, (M,) int64."""
        return Split(self.images[indices], self.labels[indices])

    def without(self, indices: Tensor) -> Split:
        """All other rows, in their order."""
        kept = torch.ones(len(self), dtype=torch.bool)
        kept[indices] = False
        return self.rows(kept.nonzero().flatten())

    def to(self, device: torch.device, *, copy: bool = False) -> Split:
        """The same split on a device; a copy also where it lies there already, if asked for."""
        return Split(self.images.to(device, copy=copy), self.labels.to(device, copy=copy))

    def digest(self) -> str:
        """sha256 of the images and labels, in their order."""
        return digest_tensors(self.images, self.labels)


@dataclass(frozen=True)
class RawData:
    """What a data set's module loads.

    Attributes:
        train: the training images, of which some are held out for validation.
        test: the test images.
        class_names: K names; by default the labels, which must then be 0..K-1.
        validation: the validation images, where they are fixed; none are held out then.
        mean, std: per-channel normalisation in [0, 1] units, used inside the model, both or
            neither; by default 0 and 1 for grey images, and the training images' own for others.
    """

    train: Split
    test: Split
    class_names: tuple[str, ...] | None = None
    validation: Split | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Dataset:
    """Train, validation and test splits of one data set.

    Attributes:
        name: as the user writes it, e.g. ``mnist`` or ``folder:photos``.
        presets: whose settings fit it, most general first: ``("mnist", "mnist-sample")``.
        class_names: K names.
        mean, std: per-channel normalisation in [0, 1] units, used inside the model.
        is_paper: whether this is one of the paper's data sets, whole.
        network: its default; empty for that of the first preset.
        train_rows: (N,) int64, which image of the data set's own training images each of ``train``
            is, before any was held out; None where they are the same.
        settings: its own, by method, and under the empty name those of the training recipe; they
            go before those of networks and presets.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    presets: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    is_paper: bool = False
    network: str = ""
    train_rows: Tensor | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test"):
            split = getattr(self, part)
            if len(split) == 0:
                raise ArtefactError(f"{self.name}: expected images in the {part} split, got none")
            if split.images.shape[1:] != self.train.images.shape[1:]:
                raise ArtefactError(
                    f"{self.name}: expected images of one size, got "
                    f"{tuple(self.train.images.shape[1:])} in train and "
                    f"{tuple(split.images.shape[1:])} in {part}; resize them first"
                )
            low, high = int(split.labels.min()), int(split.labels.max())
            if low < 0 or high >= len(self.class_names):
                raise ArtefactError(
                    f"{self.name}: expected labels in 0..{len(self.class_names) - 1}, "
                    f"got {low if low < 0 else high} in {part}"
                )

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @cached_property
    def digest(self) -> str:
        """sha256 over the three splits' digests; identifies the data in specs and cards."""
        parts = [split.digest() for split in (self.train, self.validation, self.test)]
        return hashlib.sha256("".join(parts).encode()).hexdigest()


def digest_tensors(*tensors: Tensor) -> str:
    """sha256 over dtype, shape and bytes of tensors, in order."""
    state = hashlib.sha256()
    for tensor in tensors:
        state.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        array = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        state.update(array.tobytes())
    return state.hexdigest()


def pixels_of(images: Tensor) -> Tensor:
    """Images (N, C, H, W), uint8 or in [0, 1] already, in [0, 1]; channels last in memory."""
    pixels = images.float().div_(255) if images.dtype == torch.uint8 else images
    return pixels.contiguous(memory_format=torch.channels_last)


def other_labels(labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
    """Another of the K classes for each of (N,) labels, all equally likely; a CPU generator."""
    shift = torch.randint(1, num_classes, labels.shape, generator=generator).to(labels.device)
    return (labels + shift) % num_classes


def rounded_up(share: float, count: int) -> int:
    """The ceiling of share x count, both >= 0, less rounding: 0.07 of 100 is 7 and not 8."""
    return math.ceil(share * count * (1 - 1e-12))


def room_to_hold_out(labels: Tensor, size: int) -> int:
    """The size of a validation set, or a smaller one where a class cannot give its share.

    All classes then give as many images as are half of the smallest class.
    """
    _, counts = torch.unique(labels, return_counts=True)
    smallest, count = int(counts.min()), len(counts)
    # As hold_out gives them.
    shares = torch.tensor([size // count + (place < size % count) for place in range(count)])
    has_room = bool((counts > shares).all()) or smallest < 2
    return size if has_room else count * (smallest // 2)


def hold_out(
    labels: Tensor, size: int, root_seed: int, dataset: str, name: str = ""
) -> tuple[Tensor, Tensor]:
    """Increasing rows that are kept, and those of a class-balanced validation set of that size.

    The draw depends on the root seed and the data set alone, so every trial and every attack sees
    the same split. Classes get equal shares; a remainder goes to the first classes. The name is
    what errors call the data set, where that is not what the draw depends on.

    Raises:
        ArtefactError: a class has too few images to give its share.
    """
    classes = torch.unique(labels).tolist()
    generator = generator_for(root_seed, "split", dataset)
    is_kept = torch.ones(len(labels), dtype=torch.bool)
    for position, label in enumerate(classes):
        members = (labels == label).nonzero().flatten()
        share = size // len(classes) + (position < size % len(classes))
        if len(members) <= share:
            raise ArtefactError(
                f"{name or dataset}: expected more than {share} training images of class {label} "
                f"to hold {share} out for validation, got {len(members)}; add images of that class"
            )
        is_kept[members[torch.randperm(len(members), generator=generator)[:share]]] = False
    return is_kept.nonzero().flatten(), (~is_kept).nonzero().flatten()


def hold_out_fifth(split: Split, name: str) -> tuple[Split, Split]:
    """Train and test splits of images that nobody has divided: a fifth of each class is for tests.

    The draw depends on nothing, so that all seeds share the test images.

    Raises:
        ArtefactError: a class of one image.
    """
    generator = generator_for(0, "test split")
    rows = []
    for label in torch.unique(split.labels).tolist():
        members = (split.labels == label).nonzero().flatten()
        if len(members) < 2:
            raise ArtefactError(
                f"{name}: expected at least 2 images of class {label}, as one is held out for the "
                "test split, got 1; add images of that class"
            )
        drawn = torch.randperm(len(members), generator=generator)[: max(1, len(members) // 5)]
        rows.append(members[drawn])
    test = torch.cat(rows).sort().values
    return split.without(test), split.rows(test)
