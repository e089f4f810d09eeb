"""What kind of device tensors are on, asked here alone, and how not to wait for it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Network = TypeVar("Network", bound="nn.Module")


#: Bytes that are page-locked at most: PyTorch keeps such memory for what is sent next.
LARGEST_LOCKED = 2**26


def is_accelerator(device: torch.device) -> bool:
    """Tell a GPU or its like from the CPU: Python hands it work and waits where it reads results.

    ``torch.get_device_module(device)`` is what such a device is asked by.
    """
    return device.type != "cpu"


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on the device, which takes it while Python goes on; a large one is waited for.

    A plain ``to`` of memory that is not page-locked waits until all work before it is done.
    """
    if not is_accelerator(device) or tensor.nbytes > LARGEST_LOCKED:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def send_network(network: Network, device: torch.device) -> Network:
    """A copy on the device of a network on the CPU, sent as tensors are; on a CPU the network."""
    if not is_accelerator(device):
        return network
    from torch import nn

    # What is sent is never copied here: a memo tells deepcopy what stands in its place.
    memo: dict[int, Any] = {
        id(weight): nn.Parameter(send(weight.detach(), device), weight.requires_grad)
        for weight in network.parameters()
    }
    memo |= {id(buffer): send(buffer, device) for buffer in network.buffers()}
    return copy.deepcopy(network, memo)


class Flag:
    """A condition on a device, read without waiting: a GPU answers once it has come there.

    Args:
        condition: () bool.
    """

    def __init__(self, condition: Tensor) -> None:
        import torch

        self._condition, self._event = condition.to("cpu", non_blocking=True), None
        if is_accelerator(condition.device):
            module = torch.get_device_module(condition.device)
            self._event = module.Event()
            self._event.record(module.current_stream(condition.device))

    def is_known(self) -> bool:
        """Tell if the device has come there; a CPU always has."""
        return self._event is None or bool(self._event.query())

    def is_true(self) -> bool:
        """The condition; false until it is known."""
        return self.is_known() and bool(self._condition)
