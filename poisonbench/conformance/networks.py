"""The promises of a network."""

from types import ModuleType

import torch
from torch import nn

from poisonbench.conformance.check import expect
from poisonbench.data.splits import digest_tensors
from poisonbench.entries import NetworkEntry
from poisonbench.models.classifier import initialise


class NetworkChecks:
    """A network: features of the shape that it says, and weights by the seed."""

    def __init__(self, entry: NetworkEntry, module: ModuleType) -> None:
        self._entry, self._builder = entry, getattr(module, entry.builder)

    def _layers(self, shape: tuple[int, int, int]) -> tuple[nn.Module, int]:
        with torch.random.fork_rng(devices=[]):
            layers: tuple[nn.Module, int] = self._builder(*shape)
        return layers

    def feature_shape(self) -> None:
        """(B, C, H, W) become (B, F), for grey and colour images."""
        for shape in ((1, 28, 28), (3, 32, 32)):
            layers, width = self._layers(shape)
            got = tuple(layers.eval()(torch.zeros(2, *shape)).shape)
            expect(
                got == (2, width), f"features (2, {width}) of {shape}", got, "end in nn.Flatten()"
            )

    def determinism_by_seed(self) -> None:
        """The same generator gives the same initial weights."""
        digests = []
        for _ in range(2):
            layers, _width = self._layers((3, 32, 32))
            initialise(layers, torch.Generator().manual_seed(0))
            digests.append(digest_tensors(*layers.state_dict().values()))
        expect(
            digests[0] == digests[1],
            "the same initial weights from the same seed",
            "others",
            "use layers of convolution, batch norm and linear kind, or constant parameters",
        )

    def gradient(self) -> None:
        """Every weight has a finite gradient."""
        layers, _ = self._layers((3, 32, 32))
        layers(
            torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        ).sum().backward()
        bad = [
            n for n, p in layers.named_parameters() if p.grad is None or not p.grad.isfinite().all()
        ]
        expect(not bad, "a finite gradient of every weight", bad, "remove layers that are not used")
