"""A step of the targeted attacks against a training pass, and several trials at once.

    python benchmarks/targeted.py --markdown
    python benchmarks/targeted.py --networks mnist-cnn --poisons 50 --trials 8

A step is one gradient step of one restart on one surrogate, as ``craft`` makes it, with the
augmentation, the projection and the preparation of the target, all steps together divided by their
number. The training pass is an epoch of ``Trainer.fit`` over as many images, in batches of 128.
Several trials are crafted in one call, as runs do it, and in a call each.

Why it is fair: the same network and images of noise, device and threads, float32 and channels_last
on both sides, which take turns; a first round of each is thrown away.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from types import ModuleType

import torch
from common import Timing, measure, parser, prepare, show

from poisonbench.attacks import bullseye_polytope, feature_collision, gradient_matching
from poisonbench.attacks.base import TargetedTask
from poisonbench.attacks.shared.targeted_optimiser import BrewingConfig
from poisonbench.core.seeds import Seeds
from poisonbench.data.splits import Split
from poisonbench.models import build_model
from poisonbench.models.classifier import Classifier
from poisonbench.training.recipe import Recipe
from poisonbench.training.trainer import Trainer

#: Attacks that brew, by their names on the command line.
ATTACKS: dict[str, ModuleType] = {
    "gm": gradient_matching,
    "bp": bullseye_polytope,
    "fc": feature_collision,
}

#: Image shape, and whether victims of this network augment, by network.
NETWORKS = {
    "mnist-cnn": ((1, 28, 28), False),
    "cifar-small": ((3, 32, 32), True),
    "cifar-resnet18": ((3, 32, 32), True),
}
NUM_CLASSES = 10


def network(name: str, seed: int) -> Classifier:
    """Fresh weights."""
    shape, _ = NETWORKS[name]
    return build_model(
        name,
        shape,
        NUM_CLASSES,
        (0.5,) * shape[0],
        (0.25,) * shape[0],
        Seeds(seed).generator("initial weights"),
    )


def noise(name: str, size: int, seed: int) -> Split:
    """Images of noise whose labels take turns."""
    shape, _ = NETWORKS[name]
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (size, *shape), generator=generator, dtype=torch.uint8)
    return Split(images, torch.arange(size) % NUM_CLASSES)


def training_pass(name: str, train: Split, seed: int, device: torch.device) -> float:
    """Seconds of an epoch over the images, without validation."""
    recipe = Recipe(
        epochs=1,
        learning_rate=0.01,
        precision="float32",
        augment="crop-flip" if NETWORKS[name][1] else "none",
    )
    model = network(name, seed)
    trainer = Trainer(recipe=recipe, seeds=Seeds(seed), device=device)
    result = trainer.fit(model, train, train.rows(torch.arange(1)))
    return result.seconds["training"]


def task_of(
    model: Classifier, train: Split, trials: Sequence[int], poisons: int, device: torch.device
) -> TargetedTask:
    """Trials whose poisons are rows of ``train`` and whose targets are its first images."""
    split = train.to(device)
    rows = torch.arange(poisons).expand(len(trials), -1).to(device)
    targets = torch.tensor(trials, device=device)
    return TargetedTask(
        images=split.images[rows].float().div_(255),
        labels=split.labels[rows],
        rows=rows,
        targets=split.images[targets].float().div_(255),
        intended=(split.labels[targets] + 1) % NUM_CLASSES,
        train=split,
        num_classes=NUM_CLASSES,
        epochs=1,
        snapshots=lambda number, ends: [model for _ in ends],
        generators=[torch.Generator().manual_seed(trial) for trial in trials],
        report=lambda done, total: None,
    )


def config_of(attack: ModuleType, name: str, steps: int) -> BrewingConfig:
    """One restart, one surrogate, the augmentation that goes with the network."""
    augment = "shift-flip" if NETWORKS[name][1] else "none"
    config: BrewingConfig = attack.Config(
        steps=steps, restarts=1, surrogates=1, brew_augment=augment
    )
    return config


def craft(
    attack: ModuleType, name: str, trials: Sequence[int], options: argparse.Namespace
) -> Callable[[], object]:
    """A call of ``craft`` for some trials, with everything that it is given ready."""
    device = torch.device(options.device)
    model = network(name, options.seed).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    train = noise(name, max(options.poisons, options.trials), options.seed)
    config = config_of(attack, name, options.steps)
    # Generators run on from call to call; other noise takes the same time.
    task = task_of(model.eval().requires_grad_(False), train, trials, options.poisons, device)
    return partial(attack.craft, task, config)


def compare_steps(name: str, options: argparse.Namespace, device: torch.device) -> list[list[str]]:
    """A line for the training pass and one for a step of each attack; they take turns."""
    train = noise(name, options.poisons, options.seed)
    crafts = {label: craft(attack, name, [0], options) for label, attack in ATTACKS.items()}
    seconds: dict[str, list[float]] = {"training pass": [], **{label: [] for label in crafts}}
    for repeat in range(options.repeats + 1):
        step_seconds = {"training pass": training_pass(name, train, options.seed, device)}
        for label, call in crafts.items():
            step_seconds[label] = measure(call, 1, device).median / options.steps
        if repeat > 0:
            for label, value in step_seconds.items():
                seconds[label].append(value)
    timings = {label: Timing(tuple(values)) for label, values in seconds.items()}
    plain = timings["training pass"].median
    return [
        [name, label, f"{timing.median:.3g}", timing.spread, f"{timing.median / plain:.2f}"]
        for label, timing in timings.items()
    ]


def compare_trials(name: str, options: argparse.Namespace, device: torch.device) -> list[list[str]]:
    """A line for each attack: trials in one call against a call each; they take turns."""
    lines = []
    for label, attack in ATTACKS.items():
        together = craft(attack, name, range(options.trials), options)
        alone = [craft(attack, name, [trial], options) for trial in range(options.trials)]
        together()
        one, each = [], []
        for _ in range(options.repeats):
            one.append(measure(together, 1, device).median)
            each.append(sum(measure(call, 1, device).median for call in alone))
        ratio = Timing(tuple(b / a for a, b in zip(one, each, strict=True)))
        lines.append(
            [name, label, f"{median(one):.3g}", f"{median(each):.3g}", f"{ratio.median:.2f}"]
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    device = prepare(options)
    show(
        f"A step of the targeted attacks on {options.poisons} poisons",
        ["network", "what", "seconds (median)", "range", "training passes"],
        [line for name in options.networks for line in compare_steps(name, options, device)],
        [
            "A training pass is a forward pass, a backward pass to the activations and one to the "
            "weights. A step of gm needs these three and about four more: through the two backward "
            "passes, and back to the pixels. So 2.3 is the floor where convolutions are all."
        ],
        device,
        markdown=options.markdown,
    )
    if options.trials == 1:
        return
    show(
        f"{options.trials} trials of {options.poisons} poisons, {options.steps} steps",
        ["network", "attack", "one call, s", "a call each, s", "ratio"],
        [line for name in options.networks for line in compare_trials(name, options, device)],
        [],
        device,
        markdown=options.markdown,
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = parser(__doc__, data=False)
    options.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    options.add_argument("--poisons", type=int, default=500, help="images of a step")
    options.add_argument("--steps", type=int, default=2, help="in one call of craft")
    options.add_argument(
        "--trials", type=int, default=5, help="crafted in one call; 1: not compared"
    )
    options.add_argument("--repeats", type=int, default=3)
    return options.parse_args(arguments)


if __name__ == "__main__":
    main()
