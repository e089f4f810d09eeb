"""What a method says that it costs: which images go through which network, and how. No torch here.

The module of an attack or a defense may hold ``work(config, recipe, sizes)``, which returns a
:class:`Work`. The recipe is the victim's, of an attack its surrogates'. ``sweep plan --estimate``
turns it into FLOPs, memory and hours; no result depends on it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

#: How images go through a network. training: forward, back to the weights, a step; forward: frozen;
#: pixels: frozen, and back to the images; matching: the weights' gradient, and the images' gradient
#: of that; unrolled: a step whose result another loss is taken at, and back to the images.
PassKind = Literal["training", "forward", "pixels", "matching", "unrolled"]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a method's work depends on beside its settings and the recipe.

    Attributes:
        images: that are trained on; of a targeted attack the poisons of one target.
        train: all training images.
        validation: images.
        shape: (C, H, W).
        num_classes: K.
        weights: bytes of the network's weights in float32.
        scenario: how the victim is trained: scratch, transfer or finetune.
    """

    images: int
    train: int
    validation: int
    shape: tuple[int, int, int]
    num_classes: int
    weights: int
    scenario: str = "scratch"

    @property
    def pixels(self) -> int:
        """Bytes of the images in float32."""
        channels, height, width = self.shape
        return 4 * self.images * channels * height * width


@dataclass(frozen=True, kw_only=True)
class Passes:
    """Images that go through a network in one way.

    Attributes:
        kind: the way.
        images: how many, each time that one goes through.
        batch: how many at once; None is what a device is given at once of a frozen network.
        precision: as a recipe has it.
        network: makes another network than the run's or the surrogate's, on the default device.
    """

    kind: PassKind
    images: float
    batch: int | None = None
    precision: str = "float32"
    network: Callable[[], Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Work:
    """The cost of a method: of a defense beyond plain training, of an attack on one target.

    Attributes:
        passes: through networks.
        pretraining: of a network that the method pretrains in a way of its own, beyond plain
            training.
        copies: of the run's network, trained for the defense, each with whether it is on the
            poisoned images; other defenses of the trial share those on the same images.
        surrogates: the attacker's networks that are trained, as (number, epochs); of one number the
            most epochs count, as earlier ones are snapshots of the same training.
        memory: bytes that are held beside the largest pass.
        remarks: what of the method's work all this leaves out, each in a clause that an estimate
            prints.
    """

    passes: tuple[Passes, ...] = ()
    pretraining: tuple[Passes, ...] = ()
    copies: tuple[tuple[bool, Passes], ...] = ()
    surrogates: tuple[tuple[int, int], ...] = ()
    memory: float = 0
    remarks: tuple[str, ...] = ()


def nothing_more(config: Any, recipe: Any, sizes: Sizes) -> Work:
    """The work of a method that trains and passes nothing more than plain training does."""
    return Work()
