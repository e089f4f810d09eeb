"""A network that an attack trains itself, between its own steps: what EM and REM share."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from poisonbench.models.classifier import Classifier
from poisonbench.training.precision import autocast, network_precision


@dataclass(frozen=True, kw_only=True)
class SgdSettings:
    """How it is trained: plain momentum, not Nesterov's, and the norm that gradients are cut to."""

    rate: float
    momentum: float
    weight_decay: float
    precision: str
    clip: float | None = None


class TrainedNetwork:
    """The network, in train mode but while it is looked at, and its SGD.

    ``tensors`` is all that the next step depends on, by name, for a checkpoint.
    """

    def __init__(self, model: Classifier, settings: SgdSettings) -> None:
        self.model, self._clip = model, settings.clip
        weights = dict(model.named_parameters())
        self._sgd = torch.optim.SGD(
            weights.values(),
            lr=settings.rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        momenta = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for name, weight in weights.items():
            self._sgd.state[weight]["momentum_buffer"] = momenta[name]
        self.tensors = {
            **{f"model.{name}": tensor for name, tensor in model.state_dict().items()},
            **{f"momentum.{name}": momentum for name, momentum in momenta.items()},
        }
        self._precision = network_precision(model.mean.device, settings.precision)

    def step(self, images: Tensor, labels: Tensor, rate: float | None = None) -> None:
        """One step of SGD on images (B, C, H, W) in [0, 1] at labels (B,), at a rate if given."""
        if rate is not None:
            self._sgd.param_groups[0]["lr"] = rate
        with autocast(images.device, self._precision):
            logits = self.model(images)
        self._sgd.zero_grad(set_to_none=True)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        F.cross_entropy(wide, labels).backward()
        if self._clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._clip)
        self._sgd.step()
