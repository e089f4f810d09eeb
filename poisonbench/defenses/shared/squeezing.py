"""Training images that are squeezed once, before the first epoch: what filters of pixels share."""

from abc import abstractmethod

from torch import Tensor

from poisonbench.defenses.base import Defense, TrainingSet, TrainingState

#: Images a pass, so that what is held in float32 stays small.
PASS = 4096


class Squeezing(Defense):
    """Trains on what a filter leaves of the images; test images stay as they are."""

    #: What the row of figures calls it.
    name: str

    @abstractmethod
    def squeezed(self, images: Tensor) -> Tensor:
        """What is left of images (N, C, H, W) uint8; uint8 on the same device."""

    def start_epoch(self, state: TrainingState) -> TrainingSet:
        """The filtered images at first; the training set then stays as it is."""
        if state.epoch != 0:
            return state.train
        images = state.train.images
        left = self.squeezed(images)
        pairs = zip(left.split(PASS), images.split(PASS), strict=True)
        change = sum(int((one.short() - other.short()).abs().sum()) for one, other in pairs)
        mean = change / images.numel() / 255
        state.note({"round": self.name, "mean_abs_change": mean})
        return state.train.with_images(left)
