"""Adam's state in the checkpoint of an attack."""

from collections.abc import Mapping

import torch
from torch import Tensor

from poisonbench.training.checkpoint import part


def adam_tensors(adam: torch.optim.Adam) -> dict[str, Tensor]:
    """Adam's moments and step counts by name, for a checkpoint; nothing before its first step."""
    return {
        f"adam.{number}.{name}": value
        for number, parameter in enumerate(_parameters(adam))
        for name, value in adam.state[parameter].items()
    }


def restore_adam(adam: torch.optim.Adam, tensors: Mapping[str, Tensor]) -> None:
    """Put what :func:`adam_tensors` gave into a new optimiser of the same parameters."""
    for number, parameter in enumerate(_parameters(adam)):
        for name, value in part(f"adam.{number}", tensors).items():
            # Steps are counted on the CPU.
            restored = value if name == "step" else torch.empty_like(parameter).copy_(value)
            adam.state[parameter][name] = restored.detach()


def _parameters(adam: torch.optim.Adam) -> list[Tensor]:
    return [parameter for group in adam.param_groups for parameter in group["params"]]
