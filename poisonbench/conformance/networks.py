"""The promises of a network."""

import torch
from torch import nn

from poisonbench.conformance.check import ConformanceError, expect
from poisonbench.conformance.problem import global_generators_kept
from poisonbench.core.errors import UsageError
from poisonbench.entries import NetworkEntry
from poisonbench.models import features_of
from poisonbench.models.outside import check_repeats


class NetworkChecks:
    """A network: features of the shape that it says, and weights by the seed."""

    def __init__(self, entry: NetworkEntry) -> None:
        self._entry = entry

    def _layers(self, shape: tuple[int, int, int]) -> tuple[nn.Module, int]:
        with torch.random.fork_rng(devices=[]):
            try:
                return features_of(self._entry, shape)
            except UsageError as error:
                raise ConformanceError(str(error)) from None

    def feature_shape(self) -> None:
        """(B, C, H, W) become (B, F), for grey and colour images."""
        for shape in ((1, 28, 28), (3, 32, 32)):
            layers, width = self._layers(shape)
            got = tuple(layers.eval()(torch.zeros(2, *shape)).shape)
            expect(
                got == (2, width), f"features (2, {width}) of {shape}", got, "end in nn.Flatten()"
            )

    def determinism_by_seed(self) -> None:
        """The seed alone gives the initial weights, and a pass in training draws nothing more."""
        shape = (3, 32, 32)
        with global_generators_kept():
            try:
                check_repeats(self._entry.name, lambda: self._layers(shape)[0], shape)
            except UsageError as error:
                raise ConformanceError(str(error)) from None

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
