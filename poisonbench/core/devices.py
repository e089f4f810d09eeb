"""What kind of device tensors are on; the one place that asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def is_accelerator(device: torch.device) -> bool:
    """Tell a GPU or its like from the CPU: Python hands it work and waits where it reads results.

    ``torch.get_device_module(device)`` is what such a device is asked by.
    """
    return device.type != "cpu"
