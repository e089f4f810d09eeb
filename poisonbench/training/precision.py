"""The arithmetic of a network: float32, or bfloat16 where a device is quicker in it."""

import torch

from poisonbench.core.devices import is_accelerator


def network_precision(device: torch.device, precision: str) -> torch.dtype:
    """The arithmetic of the network in training: bfloat16 where "auto" finds it quicker."""
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    if is_accelerator(device):
        quicker = torch.get_device_module(device).get_device_capability(device) >= (8, 0)
    else:
        # AVX-512's products of bfloat16 are twice as many a cycle as float32's on AMD, and on Intel
        # no more, since only one of two ports has them: there it takes the tiles of AMX.
        known = torch.cpu.get_capabilities()
        is_intel = str(known.get("cpu_name", "")).startswith("Intel")
        quicker = bool(known.get("amx_bf16" if is_intel else "avx512_bf16"))
    return torch.bfloat16 if quicker else torch.float32


def precise(device: torch.device, precision: str) -> torch.autocast:
    """A context in which networks run in the precision that a setting names."""
    return autocast(device, network_precision(device, precision))


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """A context in which networks run in that precision; float32 leaves them as they are."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision is torch.bfloat16)
