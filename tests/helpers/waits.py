"""PyTorch's own account of what Python waits for on a GPU."""

import warnings
from contextlib import contextmanager

import torch


@contextmanager
def sync_debug_mode(mode):
    """While it lasts PyTorch warns of each wait ("warn"), or raises ("error")."""
    # It warns that it is a prototype.
    with warnings.catch_warnings(action="ignore"):
        torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
