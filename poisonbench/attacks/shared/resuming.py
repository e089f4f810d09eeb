"""What an attack puts into its checkpoint, and takes back in place."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from poisonbench.attacks.base import AttackCheckpoint, AttackTask
from poisonbench.training.checkpoint import part


def resume(
    checkpoint: AttackCheckpoint, tensors: Mapping[str, Tensor], adam: torch.optim.Adam | None
) -> dict[str, Any]:
    """Put what was saved last into tensors of these names and a new Adam; its position.

    At the start all stay as they are, and the position is empty.
    """
    if (saved := checkpoint.load()) is None:
        return {}
    position, kept = saved
    _put_back(kept, tensors)
    for number, parameter in enumerate(_parameters(adam)):
        for name, value in part(f"adam.{number}", kept).items():
            # Steps are counted on the CPU.
            restored = value if name == "step" else torch.empty_like(parameter).copy_(value)
            adam.state[parameter][name] = restored.detach()  # type: ignore[union-attr]
    return position


def resume_counts(
    task: AttackTask, tensors: Mapping[str, Tensor], start: Mapping[str, int]
) -> dict[str, int]:
    """As :func:`resume`, of a position that is what ``start`` counts.

    One that counts anything else, as of an earlier version, says nothing of where to go on: the
    task starts over with its generator as it is now.
    """
    draws = task.generator.get_state()
    if (saved := task.checkpoint.load()) is None:
        return dict(start)
    position, kept = saved
    if position.keys() != start.keys():
        warnings.warn(
            f"checkpoint: expected a position of {', '.join(start)}, got {', '.join(position)}, "
            "as another version has it; started over",
            stacklevel=2,
        )
        task.generator.set_state(draws)
        return dict(start)
    _put_back(kept, tensors)
    return position


def adam_tensors(adam: torch.optim.Adam) -> dict[str, Tensor]:
    """Adam's moments and step counts by name, for a checkpoint; nothing before its first step."""
    return {
        f"adam.{number}.{name}": value
        for number, parameter in enumerate(_parameters(adam))
        for name, value in adam.state[parameter].items()
    }


def _put_back(kept: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(kept[name])


def _parameters(adam: torch.optim.Adam | None) -> list[Tensor]:
    groups = [] if adam is None else adam.param_groups
    return [parameter for group in groups for parameter in group["params"]]
