"""What only a device itself can show: the same bytes twice, bfloat16's accuracy, its speed.

Data are drawn here, so nothing need be downloaded: each class is a smooth pattern under noise.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from poisonbench.core.devices import is_accelerator
from poisonbench.core.errors import DivergedError
from poisonbench.core.seeds import Seeds
from poisonbench.data.splits import Split, digest_tensors
from poisonbench.models import build_model
from poisonbench.models.classifier import Classifier
from poisonbench.runs.environment import environment
from poisonbench.runs.hardware import ACCELERATORS
from poisonbench.runs.pass_costs import count_pass, prepared
from poisonbench.training.evaluation import accuracy
from poisonbench.training.recipe import Recipe
from poisonbench.training.trainer import Trainer

NUM_CLASSES, BATCH = 10, 128
#: By how much bfloat16's accuracy may differ: a tiny training's varies so from seed to seed.
TOLERANCE = 0.03


@dataclass(frozen=True)
class SelfTest:
    """A finding: whether it is as it should be, and the figures."""

    name: str
    is_well: bool
    detail: str


def run_self_test(device: torch.device) -> list[SelfTest]:
    """Findings on a device: two minutes on a GPU, seconds on a CPU, which takes a small network."""
    if is_accelerator(device):
        network, shape, count, epochs = "cifar-resnet18", (3, 32, 32), 10_000, 5
    else:
        network, shape, count, epochs = "mnist-cnn-small", (1, 28, 28), 640, 3
    train, validation = drawn_split(shape, count, 0), drawn_split(shape, 500, 1)
    digests, accuracies = [], []
    for precision in ("float32", "float32", "bfloat16"):
        recipe = Recipe(
            epochs=epochs, learning_rate=0.02, milestones=(), augment="none", precision=precision
        )
        model = _network(network, shape)
        try:
            Trainer(recipe=recipe, seeds=Seeds(), device=device).fit(model, train, validation)
            accuracies.append(accuracy(model, validation.to(device)))
        except DivergedError as error:
            return [SelfTest("training", False, f"{network}, {precision}: {error}")]
        digests.append(digest_tensors(*(t.cpu() for t in model.state_dict().values()))[:16])
    gap = abs(accuracies[2] - accuracies[0])
    return [
        SelfTest(
            "determinism",
            digests[0] == digests[1],
            f"{network}, {epochs} epochs of {count}, twice: {digests[0]}, {digests[1]}",
        ),
        SelfTest(
            "bfloat16",
            gap <= TOLERANCE,
            f"accuracy {accuracies[2]:.1%}, of float32 {accuracies[0]:.1%}",
        ),
        *(_speed(device, network, shape, precision) for precision in ("float32", "bfloat16")),
    ]


def block(device: torch.device, findings: Iterable[SelfTest]) -> str:
    """The findings and the surroundings in Markdown, for an issue."""
    surroundings = environment(device, "auto")
    lines = [f"| {name} | {value} |" for name, value in surroundings.items() if value is not None]
    for finding in findings:
        lines.append(f"| {finding.name} | {'ok' if finding.is_well else 'BAD'}: {finding.detail} |")
    return "\n".join(["| self-test | |", "| --- | --- |", *lines])


def drawn_split(shape: tuple[int, int, int], count: int, seed: int) -> Split:
    """Images of ten classes, uint8: a class's pattern, the same for all seeds, under noise."""
    patterns = torch.rand(NUM_CLASSES, shape[0], 4, 4, generator=torch.Generator().manual_seed(7))
    smooth = F.interpolate(patterns, size=shape[1:], mode="bilinear")
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % NUM_CLASSES
    noise = torch.randn(count, *shape, generator=generator)
    images = (smooth[labels] + 0.5 * noise).clamp(0, 1)
    return Split((255 * images).to(torch.uint8), labels)


def _network(name: str, shape: tuple[int, int, int]) -> Classifier:
    channels = shape[0]
    generator = torch.Generator().manual_seed(0)
    return build_model(name, shape, NUM_CLASSES, [0.5] * channels, [0.3] * channels, generator)


def _speed(
    device: torch.device, network: str, shape: tuple[int, int, int], precision: str
) -> SelfTest:
    """Images a second in training, beside the estimate where the table knows the device."""
    model = _network(network, shape).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.rand(BATCH, *shape, generator=torch.Generator().manual_seed(0))
    images = images.to(device, memory_format=torch.channels_last)
    labels = torch.zeros(BATCH, dtype=torch.int64, device=device)
    step = prepared("training", model, precision=precision)
    on_accelerator = is_accelerator(device)
    repeats = 200 if on_accelerator else 3

    def seconds(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            step(images, labels)
        if on_accelerator:
            torch.get_device_module(device).synchronize(device)
        return time.perf_counter() - started

    seconds(max(1, repeats // 10))
    a_step = seconds(repeats) / repeats
    count = count_pass("training", lambda: _network(network, shape), shape, BATCH)
    detail = f"{network}: {BATCH / a_step:.0f} images/s, {count.flops / a_step / 1e12:.3g} TFLOP/s"
    name = environment(device, precision)["device"].lower()
    known = [accelerator for key, accelerator in ACCELERATORS.items() if key in name]
    if known:
        estimate = known[0].seconds(count.operators, precision)
        detail += f", {a_step / estimate:.2f} of the estimated time"
    # No speed is a fault: the figure is what is asked for.
    return SelfTest(f"speed {precision}", True, detail)
