"""Features in classes, for the tests of filters."""

import torch


def problem(size=60, width=5, num_classes=3, seed=0, dtype=torch.float64):
    """Overlapping classes of unequal sizes, in a random order."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(size, generator=generator) ** 1.5 * num_classes).long()
    centres = torch.randn(num_classes, width, generator=generator, dtype=torch.float64)
    noise = torch.randn(size, width, generator=generator, dtype=torch.float64)
    return (3 + centres[labels] + noise).to(dtype), labels


def fresh():
    return torch.Generator().manual_seed(7)
