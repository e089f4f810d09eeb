"""Orthogonal projection: take out of the images what a linear classifier sees in them.

Paper      Sandoval-Segura, Singla, Geiping, Goldblum, Goldstein, "What Can We Learn from
           Unlearnable Datasets?", NeurIPS 2023, Algorithm 1.
Reference  psandovalsegura/learn-from-unlearnable @ 605dea2 (no licence: only its behaviour is
           reproduced).
Cost       seconds, once; the changed images are kept in float32.

Algorithm  before the first epoch (numbers reappear below)
  1  train a linear classifier without bias on the pixels of the poisoned images
  2  Q = an orthonormal basis (QR) of its K weight vectors, each of length 1
  3  replace each image x by x - Q Q^T x, neither clipped nor rounded, and train on these; test
     images are not projected

Where      against noise that is linearly separable because each class has its own (LSP, OPS,
           class-wise EM), not against AR. It takes what classes differ by on average along, so
           it costs accuracy where that is how classes are told apart (digits).
Deviations The reference then trains with rotation, affine maps, jitter and CutMix; left out, so
           that a run differs from plain training by the projection alone. Its training of 50 epochs
           is the recipe that all defenses share.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from poisonbench.core.settings import BaseConfig, setting
from poisonbench.core.work import nothing_more
from poisonbench.defenses.base import Defense, TrainingSet, TrainingState

VERSION = 1

#: Images a pass.
PASS = 4096


@dataclass(frozen=True, kw_only=True)
class Config(BaseConfig):
    """How the linear classifier is trained: plain SGD, its rate divided by 10 twice."""

    probe_epochs: int = setting(20, "Epochs of the linear classifier.", low=1)
    probe_batch_size: int = setting(1024, "Its images a step.", low=1)
    probe_learning_rate: float = setting(
        0.1, "Its rate, divided by 10 after half and three quarters of its epochs.", over=0
    )


class OrthogonalProjection(Defense):
    """Projects the training images before the first epoch."""

    config: Config
    #: One-pixel shortcuts come out far over 1: the reference clips nothing either.
    keeps_range = False

    def start_epoch(self, state: TrainingState) -> TrainingSet:
        """The projected images at first; the training set then stays as it is."""
        if state.epoch != 0:
            return state.train
        train = state.train
        # 1 linear classifier
        weights = train_probe(train, self.config, state.generator("probe"))
        # 2 basis
        basis = span_of(weights)
        # 3 projection, in passes, since the images may fill a device's memory
        projected = torch.empty(train.images.shape, device=train.images.device)
        right = change = 0.0
        for rows in torch.arange(len(train), device=projected.device).split(PASS):
            pixels = train.pixels(rows)
            projected[rows] = without_span(pixels, basis)
            right += float(((pixels.flatten(1) @ weights.T).argmax(1) == train.labels[rows]).sum())
            change += float((projected[rows] - pixels).abs().sum())
        row = {"probe_accuracy": right / len(train), "mean_abs_change": change / projected.numel()}
        state.note({"round": "orthogonal-projection", **row})
        return train.with_images(projected)


def train_probe(train: TrainingSet, config: Config, generator: torch.Generator) -> Tensor:
    """Step 1: weights (K, D) of a linear classifier of images with D pixel values."""
    labels, device = train.labels, train.images.device
    num_pixels = train.images[0].numel()
    # Torch's own start of a linear layer.
    start = torch.rand(int(labels.max()) + 1, num_pixels, generator=generator) * 2 - 1
    weights: Tensor = (start / num_pixels**0.5).to(device).requires_grad_()
    for epoch in range(config.probe_epochs):
        share = epoch / config.probe_epochs
        rate = config.probe_learning_rate * 0.1 ** ((share >= 0.5) + (share >= 0.75))
        order = torch.randperm(len(train), generator=generator).to(device)
        for rows in order.split(config.probe_batch_size):
            logits = train.pixels(rows).flatten(1) @ weights.T
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels[rows]), weights)
            weights.data -= rate * gradient
    return weights.detach()


def span_of(weights: Tensor) -> Tensor:
    """Step 2: an orthonormal basis (D, K) of the space that the rows (K, D) span."""
    basis: Tensor = torch.linalg.qr(F.normalize(weights).T)[0]
    return basis


def without_span(images: Tensor, basis: Tensor) -> Tensor:
    """Step 3: images (N, C, H, W) less their part in the space of a basis (D, K)."""
    pixels = images.flatten(1)
    projected: Tensor = pixels - (pixels @ basis) @ basis.T
    return projected.view(images.shape)


build = OrthogonalProjection
work = nothing_more
