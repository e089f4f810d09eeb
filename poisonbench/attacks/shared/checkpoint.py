"""What lets a long attack that was killed continue to the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class AttackCheckpoint:
    """A checkpoint of an attack in progress; this one keeps nothing.

    An attack that wants one calls :meth:`load` before its loop and :meth:`save_if_due` between any
    two steps. Without the calls a signal ends it with nothing saved.
    """

    def load(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """What was saved last: JSON values, and tensors on the CPU; None to start at the start.

        The task's generators are put back to where they were then.
        """
        return None

    def save_if_due(self, position: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Save when it is time to, and after a signal.

        Args:
            position: JSON values, by any name but "run".
            tensors: all that the next step depends on, but for the task and its generators.

        Raises:
            InterruptedRunError: saved after a signal; the same command continues.
        """


#: For whoever needs none.
NO_CHECKPOINT = AttackCheckpoint()


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
        prefix = f"adam.{number}."
        for key, value in tensors.items():
            if key.startswith(prefix):
                name = key.removeprefix(prefix)
                # Steps are counted on the CPU.
                restored = value if name == "step" else torch.empty_like(parameter).copy_(value)
                adam.state[parameter][name] = restored.detach()


def _parameters(adam: torch.optim.Adam) -> list[Tensor]:
    return [parameter for group in adam.param_groups for parameter in group["params"]]
