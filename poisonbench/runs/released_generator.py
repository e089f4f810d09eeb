"""DC's poisons by a generator that its authors trained and released as weights.

Source      Feng, Cai and Zhou, "Learning to Confuse", NeurIPS 2019. Their code,
            kingfengji/DeepConfuse @ 1f49274, saves a state dict of its U-Net (CIFAR-10) or
            autoencoder (MNIST).
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from poisonbench.attacks.deep_confuse import perturb
from poisonbench.attacks.shared.deep_confuse_networks import Autoencoder, UNet
from poisonbench.core.errors import ArtefactError, one_line
from poisonbench.data.splits import Dataset
from poisonbench.data.tensor_files import load_tensors
from poisonbench.models.classifier import pass_size

#: The beginnings of the names of weights: the authors' and ours.
_UNET = {
    **{f"dconv_down{level}": f"down.{level - 1}" for level in (1, 2, 3, 4)},
    **{f"dconv_up{level}": f"up.{3 - level}" for level in (3, 2, 1)},
    "conv_last.0": "last",
    "conv_last.1": "norm",
}
#: Their decoder's layers follow on the eight of their encoder.
_AUTOENCODER = {
    **{f"encoder.{layer}": f"layers.{layer}" for layer in range(8)},
    **{f"decoder.{layer}": f"layers.{8 + layer}" for layer in range(7)},
    "decoder.7": "norm",
}


def perturbed_images(path: Path, dataset: Dataset, epsilon: float) -> Tensor:
    """The training images as the generator in a file perturbs them, (N, C, H, W) float in [0, 1].

    Args:
        path: a file of ``torch.save`` with a state dict.
        dataset: whose training images; they must have the shape that the generator was trained on.
        epsilon: what its output in [-1, 1] is multiplied by.

    Raises:
        ArtefactError: unreadable, unsafe, or not the weights of such a generator.
    """
    generator = _generator(load_tensors(path), path, dataset)
    size = pass_size(dataset.train.images, gradients=False)
    with torch.no_grad():
        parts = [
            perturb(generator, images.float().div_(255), epsilon)
            for images in dataset.train.images.split(size)
        ]
    return torch.cat(parts)


def _generator(weights: object, path: Path, dataset: Dataset) -> torch.nn.Module:
    if not isinstance(weights, Mapping) or not all(isinstance(name, str) for name in weights):
        raise ArtefactError(
            f"{path}: expected a state dict, weights by name, got another value; save it by "
            "torch.save(generator.state_dict(), PATH)"
        )
    # As several GPUs name them.
    names = {name.removeprefix("module."): weight for name, weight in weights.items()}
    is_unet = any(name.startswith("dconv_") for name in names)
    build, parts = (UNet, _UNET) if is_unet else (Autoencoder, _AUTOENCODER)
    try:
        with torch.device("meta"):
            generator = build(*dataset.image_shape)
        generator.to_empty(device="cpu")
        # PyTorch before 0.4.1 counted no batches, and in eval mode nobody reads the count.
        own = {
            name: torch.zeros_like(value)
            for name, value in generator.state_dict().items()
            if name.endswith("num_batches_tracked")
        }
        generator.load_state_dict(own | {_own_name(name, parts): names[name] for name in names})
    except (RuntimeError, ValueError) as error:
        raise ArtefactError(
            f"{path}: expected the weights of DeepConfuse's U-Net or autoencoder for images of "
            f"shape {dataset.image_shape}, got others: {one_line(error)[:300]}; "
            "choose another file or --dataset"
        ) from None
    return generator.eval().to(memory_format=torch.channels_last)


def _own_name(name: str, parts: Mapping[str, str]) -> str:
    """Our name of a weight; the authors' where they have no such part."""
    for theirs, own in parts.items():
        if name.startswith(f"{theirs}."):
            return own + name.removeprefix(theirs)
    return name
