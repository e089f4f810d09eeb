"""What a run ran on, for its record."""

import platform
import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy
import torch

import poisonbench
from poisonbench.core.devices import is_accelerator
from poisonbench.training.precision import network_precision


def environment(device: torch.device, precision: str) -> dict[str, Any]:
    """Versions, machine, device, threads, precision and, in a checkout, the commit."""
    on_accelerator = is_accelerator(device)
    return {
        "poisonbench": poisonbench.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "cuda": torch.version.cuda if on_accelerator else None,
        "platform": platform.platform(),
        "processor": _processor(),
        "device": torch.get_device_module(device).get_device_name(device)
        if on_accelerator
        else "cpu",
        "threads": torch.get_num_threads(),
        "precision": str(network_precision(device, precision)).removeprefix("torch."),
        "commit": _commit(),
    }


def peak_memory(device: torch.device) -> int:
    """Most bytes in use: of the process on a CPU, of tensors on a GPU."""
    if is_accelerator(device):
        return int(torch.get_device_module(device).max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_memory(device: torch.device) -> None:
    """Start counting anew, where the device can; a process on a CPU keeps its peak."""
    if is_accelerator(device):
        torch.get_device_module(device).reset_peak_memory_stats(device)


def utc_now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str | None:
    """The commit of the checkout that this package is imported from, "-dirty" when edited."""
    root = Path(poisonbench.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
