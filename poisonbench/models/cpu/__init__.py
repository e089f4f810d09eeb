"""Kernels that exist for CPUs alone: the same function in less arithmetic, memory or waiting."""
