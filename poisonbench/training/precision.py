"""The arithmetic of a network: float32, or bfloat16 where a device has it."""

import torch

from poisonbench.core.devices import is_accelerator


def network_precision(device: torch.device, precision: str) -> torch.dtype:
    """The arithmetic of the network in training: bfloat16 where "auto" finds it in hardware."""
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    if is_accelerator(device):
        has = torch.get_device_module(device).get_device_capability(device) >= (8, 0)
    else:
        has = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    return torch.bfloat16 if has else torch.float32


def precise(device: torch.device, precision: str) -> torch.autocast:
    """A context in which networks run in the precision that a setting names."""
    return autocast(device, network_precision(device, precision))


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """A context in which networks run in that precision; float32 leaves them as they are."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision is torch.bfloat16)
