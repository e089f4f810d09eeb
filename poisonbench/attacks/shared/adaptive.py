"""Adaptive attacks: the defense that the attacker expects, differentiable, in the crafting loop.

Source  Athalye, Carlini, Wagner, "Obfuscated Gradients Give a False Sense of Security", ICML 2018:
        a step without a gradient gets another's on the way back (BPDA), and randomness is averaged
        over draws (EOT); Tramer et al., "On Adaptive Attacks to Adversarial Example Defenses",
        NeurIPS 2020.

The attacker knows the defense and assumes its defaults for the data set, but for the setting of a
form (``jpeg:10`` is JPEG of quality 10):

jpeg       what is seen is the defense's own encoding and decoding of the images, rounded to grey
           levels; backward it is Kornia's differentiable JPEG, which passes little on to what the
           rounding of coefficients takes away. The identity instead leads steps into frequencies
           that are lost: behind quality 10 its poisons are no stronger than plain ones.
grayscale  the luma in all channels, a linear map, on the way back too.
friends    each step is of the mean loss over draws of FRIENDS' random noise. Its friendly noise is
           made for the victim's own network once training has begun, and is left out.
ueraser    each step is of the mean loss over draws of UEraser's augmentations; of them posterize
           passes no gradient, and equalize all of it. Which draw it would take by the loss of the
           victim's own network is left out. Each draw of the form lite-jpeg is of a JPEG of a
           random quality, as jpeg above.
epic       EPIC drops what stands alone among the gradients softmax - onehot of its class. Each
           poison's is drawn to the mean one of the clean images of its class.
hint       surrogates are trained on clean images with HINT's healthy noise, by HINT itself; an
           attack that trains a network on its own poisons has that noise added to these.

An attack offers what means something for it; its config refuses the rest with the reason.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from poisonbench.attacks.base import LabelledImages
from poisonbench.core.devices import send
from poisonbench.core.settings import BaseConfig
from poisonbench.data.splits import Split
from poisonbench.defenses import friends, grayscale, hint, jpeg, ueraser
from poisonbench.defenses.base import TrainingSet, TrainingState
from poisonbench.defenses.shared.jpeg_codec import decoded
from poisonbench.influence.head import residuals
from poisonbench.models.classifier import BLOCK, Classifier
from poisonbench.training.evaluation import logits_of
from poisonbench.training.projected_gradient import StepHooks

Against = Literal[
    "none",
    "jpeg",
    "jpeg:10",
    "grayscale",
    "epic",
    "friends",
    "ueraser",
    "ueraser:lite-jpeg",
    "hint",
]

#: The help text of an attack's setting ``against``, an extension.
IN_THE_LOOP = (
    "Defense in the loop while the poison is crafted, at its defaults for the data; jpeg:10 is "
    "JPEG of quality 10, ueraser is its light form too, ueraser:lite-jpeg that of JPEGs."
)

#: Draws of random noise that a step averages over.
DRAWS = 4

#: Of the distance to the class's gradient beside the attack's own loss.
EPIC_WEIGHT = 1.0


def looks_at(name: Against) -> int:
    """How many passes of the network a step on an image takes."""
    return DRAWS if name in ("friends", "ueraser", "ueraser:lite-jpeg") else 1


class AssumedDefense(StepHooks):
    """What the attacker expects to be done to its images: nothing."""

    def meet(self, model: Classifier, images: Tensor, labels: Tensor, num_classes: int) -> None:
        """Called with the network that is attacked, and the images (P, C, H, W) and labels (P,).

        Of an attack whose network learns, before each round.
        """

    def seen(self, images: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """The images (B, C, H, W) as a batch of the victim has them, once; differentiable.

        They are the rows of those that it met.
        """
        return images

    def view(self, images: Tensor, step: int) -> Tensor:
        """What a step looks at."""
        return self.seen(images)


class AssumedJpeg(AssumedDefense):
    """The defense's JPEG; on the way back Kornia's."""

    def __init__(self, config: jpeg.Config) -> None:
        self.quality = config.quality

    def seen(self, images: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """Decoded again, (B, C, H, W)."""
        return behind_jpeg(images, torch.tensor(self.quality).expand(len(images)))


class AssumedGrayscale(AssumedDefense):
    """The luma, without the defense's rounding."""

    def seen(self, images: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """The luma in all channels, (B, 3, H, W)."""
        weights = images.new_tensor(grayscale.LUMA) / 2**16
        luma = (images * weights[:, None, None]).sum(1, keepdim=True)
        return luma.expand_as(images)


class AssumedDraws(AssumedDefense):
    """A defense that draws; a step looks at several draws.

    With them a pass is as large as suits an accelerator.
    """

    images_in_a_pass = BLOCK

    def view(self, images: Tensor, step: int) -> Tensor:
        """DRAWS of them."""
        return torch.cat([self.seen(images) for _ in range(DRAWS)])

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean over draws."""
        return super().loss(logits, labels.repeat(DRAWS)) / DRAWS


class AssumedFriends(AssumedDraws):
    """FRIENDS' random noise."""

    def __init__(self, config: friends.Config, generator: torch.Generator) -> None:
        self.config, self.generator = config, generator

    def seen(self, images: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """With one draw of noise each, (B, C, H, W); not clipped, as the defense's is not."""
        if self.config.random_noise == "none":
            return images
        noise = friends.unit_noise(images.shape, self.config.random_noise, self.generator)
        return images + self.config.mu * send(noise, images.device)

    def view(self, images: Tensor, step: int) -> Tensor:
        """With DRAWS draws each, of one call."""
        return self.seen(images.repeat(DRAWS, 1, 1, 1))


class AssumedUEraser(AssumedDraws):
    """UEraser's augmentations."""

    def __init__(self, config: ueraser.Config, generator: torch.Generator) -> None:
        self.config, self.generator = config, generator

    def seen(self, images: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """One augmentation of each, (B, C, H, W)."""
        if self.config.form == "lite-jpeg":
            qualities = ueraser.draw_qualities(self.config, len(images), self.generator)
            images = behind_jpeg(images, qualities)
        return ueraser.augmented(images, self.config.probability, self.generator)


class AssumedEpic(AssumedDefense):
    """EPIC's feature of each poison, near that of clean images of its class."""

    centres: Tensor

    def meet(self, model: Classifier, images: Tensor, labels: Tensor, num_classes: int) -> None:
        """Take the classes' mean gradients from clean images."""
        self.centres = class_gradients(model, images, labels, num_classes)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Less the distance to the class."""
        distance = gradient_distance(logits, labels, self.centres).sum()
        return super().loss(logits, labels) - EPIC_WEIGHT * distance


class AssumedHint(AssumedDefense):
    """HINT's noise on the poisons that the attack's own network trains on."""

    def __init__(
        self,
        config: hint.Config,
        validation: LabelledImages,
        generator: torch.Generator,
        noise: Tensor,
    ) -> None:
        self.config, self.generator = config, generator
        levels = (validation.images * 255).round().to(torch.uint8)
        self.validation = Split(levels, validation.labels)
        #: Of the images that it met last, (P, C, H, W); zeros before, and the attack's to keep.
        self.noise = noise

    def meet(self, model: Classifier, images: Tensor, labels: Tensor, num_classes: int) -> None:
        """One round of HINT by the network as it is; the images are the poisons."""
        train = TrainingSet(images, labels)
        state = TrainingState(
            epoch=self.config.schedule[0],
            step=0,
            model=model,
            original=train,
            train=train,
            validation=self.validation,
            generator=lambda purpose: self.generator,
            note=lambda figures: None,
            train_copy=lambda purpose, split: model,
        )
        self.noise.copy_(hint.Hint(self.config).start_epoch(state).images - images)

    def seen(self, images: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """With their healthy noise, within [0, 1]."""
        return (images + self.noise[rows]).clamp(0, 1)

    def view(self, images: Tensor, step: int) -> Tensor:
        """Without it: it is made after the poisons."""
        return images


def assumed_defense(
    name: Against, config: BaseConfig | None, generator: torch.Generator
) -> AssumedDefense:
    """The attacker's model of a defense with these settings, which draws from the generator.

    Of HINT it is nothing: surrogates were trained under it.
    """
    if isinstance(config, jpeg.Config):
        return AssumedJpeg(config)
    if isinstance(config, friends.Config):
        return AssumedFriends(config, generator)
    if isinstance(config, ueraser.Config):
        return AssumedUEraser(config, generator)
    return {"grayscale": AssumedGrayscale, "epic": AssumedEpic}.get(name, AssumedDefense)()


def behind_jpeg(images: Tensor, qualities: Tensor) -> Tensor:
    """Images (B, C, H, W) encoded and decoded at qualities (B,) on the CPU; backward Kornia's."""
    seen = decoded(images, qualities)
    if not images.requires_grad:
        return seen
    soft = soft_jpeg(images, send(qualities, images.device))
    # The sum is the decoded image to the last bit, and has the other's gradient.
    return seen + (soft - soft.detach())


def soft_jpeg(images: Tensor, qualities: Tensor) -> Tensor:
    """Kornia's differentiable JPEG of images (B, C, H, W) at qualities (B,), in float32.

    Of other than three channels each goes by itself, as grey.
    """
    # Kornia takes 0.3 s to import.
    from kornia.enhance import jpeg_codec_differentiable

    has_colours = images.shape[1] == 3
    coloured = images if has_colours else images.flatten(0, 1)[:, None].expand(-1, 3, -1, -1)
    # It takes whole blocks of 16 pixels, for chroma at half the resolution.
    height, width = images.shape[-2:]
    padded = F.pad(coloured.float(), (0, -width % 16, 0, -height % 16), mode="replicate")
    asked = qualities.float().repeat_interleave(len(padded) // len(images))
    soft: Tensor = jpeg_codec_differentiable(padded, asked)[..., :height, :width]
    return (soft if has_colours else soft.mean(1).view_as(images)).to(images.dtype)


def class_gradients(model: Classifier, images: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """The mean over each class's images of softmax - onehot, (K, K); 0 of a class without any."""
    gradients = residuals(logits_of(model, images).softmax(1), labels)
    members = F.one_hot(labels, num_classes).to(gradients)
    return members.T @ gradients / members.sum(0)[:, None].clamp(min=1)


def gradient_distance(logits: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
    """Squared distance (B,) of each softmax - onehot from its class's centre of (K, K)."""
    gradients = residuals(logits.softmax(1), labels)
    return (gradients - centres[labels]).square().sum(1)
