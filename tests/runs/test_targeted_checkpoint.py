"""Targeted attacks that are stopped after any step continue to the same bytes."""

import json
from dataclasses import replace

import pytest
import torch

from helpers.attack_tasks import SHAPE, K, fake_split, small_classifier
from helpers.command_line import cli, done, files_in
from poisonbench.attacks import (
    bullseye_polytope,
    convex_polytope,
    feature_collision,
    gradient_matching,
    metapoison,
)
from poisonbench.attacks.base import NO_CHECKPOINT, AttackCheckpoint, TargetedTask
from poisonbench.cli import session
from poisonbench.core.errors import InterruptedRunError
from poisonbench.core.progress import LogReporter
from poisonbench.results.store import Store
from poisonbench.training.checkpoint import Checkpoint

T, P = 2, 3

pytestmark = pytest.mark.usefixtures("short_targeted")


def task(seed=0, shape=SHAPE, report=lambda done, total: None):
    """Two targets, three poisons each; a surrogate of its own for each number and epoch."""
    train = fake_split(24, 0)
    rows = torch.stack([(train.labels == label).nonzero().flatten()[:P] for label in (1, 2)])
    return TargetedTask(
        images=train.images[rows].float() / 255,
        labels=train.labels[rows],
        rows=rows,
        targets=fake_split(T, 1).images.float() / 255,
        intended=torch.tensor([1, 2]),
        train=train,
        num_classes=K,
        epochs=3,
        snapshots=lambda number, epochs: [
            small_classifier(10 * number + epoch).requires_grad_(False) for epoch in epochs
        ],
        generators=[torch.Generator().manual_seed(seed + n) for n in range(T)],
        report=report,
    )


class Memory(AttackCheckpoint):
    """Keeps the state after a given number of saves as a file would, and stops there."""

    def __init__(self, stop_at):
        self.stop_at, self.state, self.generators = stop_at, None, []

    def load(self):
        if self.state is None:
            return None
        position, tensors, draws = self.state
        for generator, drawn in zip(self.generators, draws, strict=True):
            generator.set_state(drawn)
        return json.loads(position), {name: tensor.clone() for name, tensor in tensors.items()}

    def save_if_due(self, position, tensors):
        self.stop_at -= 1
        if self.stop_at == 0:
            copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
            draws = [generator.get_state() for generator in self.generators]
            self.state = json.dumps(position), copies, draws
            raise InterruptedRunError("stop")


BREW = {"steps": 4, "restarts": 2, "surrogates": 2}
#: Module, settings, and how often it could save itself.
CASES = {
    "gm": (gradient_matching, BREW, 4),
    "bp": (bullseye_polytope, BREW, 4),
    "bp authors": (
        bullseye_polytope,
        {"steps": 4, "restarts": 1, "brew_augment": "none", "form": "authors"},
        4,
    ),
    "fc": (feature_collision, BREW, 4),
    "fc watermark": (
        feature_collision,
        {"form": "watermark", "steps": 4, "restarts": 1, "brew_augment": "none", "surrogates": 2},
        8,
    ),
    "cp": (convex_polytope, {"steps": 4, "surrogates": 2}, 4),
    "mp": (
        metapoison,
        {"steps": 3, "surrogates": 2, "inner_batch_size": 8, "rate_drops": (1,), "warm_up": 2},
        6,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_stopped_after_any_step_it_continues_to_the_same_bytes(case):
    module, values, saves = CASES[case]
    config = module.Config(**values)
    undisturbed = task()
    whole = module.craft(undisturbed, config)
    ends = [generator.get_state() for generator in undisturbed.generators]
    for stop_at in range(1, saves + 1):
        memory = Memory(stop_at)
        first = task()
        memory.generators = first.generators
        with pytest.raises(InterruptedRunError):
            module.craft(replace(first, checkpoint=memory), config)
        steps = []
        second = task(seed=7, report=lambda done, total, steps=steps: steps.append(done))
        memory.generators = second.generators
        result = module.craft(replace(second, checkpoint=memory), config)
        assert torch.equal(result, whole), f"stopped after step {stop_at}"
        assert steps == list(range(stop_at + 1, saves + 1))
        states = [generator.get_state() for generator in second.generators]
        assert all(torch.equal(a, b) for a, b in zip(states, ends, strict=True))
    assert Memory(saves + 1).load() is None


def test_metapoison_with_colours_continues_too():
    """Colours are shifted by an optimiser group of their own; three channels."""
    config = metapoison.Config(
        steps=2, surrogates=2, inner_batch_size=8, color=0.04, bn="eval", unroll=1
    )

    def colourful(seed=0):
        given = task(seed)
        wide = {
            name: torch.cat([getattr(given, name), getattr(given, name)[..., :1, :, :]], -3)
            for name in ("images", "targets")
        }
        train = replace(given.train, images=given.train.images[:, [0, 1, 0]])
        return replace(given, train=train, snapshots=lambda n, e: [Third(n) for _ in e], **wide)

    whole = metapoison.craft(colourful(), config)
    for stop_at in range(1, 5):
        memory, first, second = Memory(stop_at), colourful(), colourful(7)
        memory.generators = first.generators
        with pytest.raises(InterruptedRunError):
            metapoison.craft(replace(first, checkpoint=memory), config)
        memory.generators = second.generators
        result = metapoison.craft(replace(second, checkpoint=memory), config)
        assert torch.equal(result, whole), f"stopped after step {stop_at}"


class Third(torch.nn.Module):
    """A classifier of two channels that leaves the third one alone."""

    def __init__(self, number):
        super().__init__()
        self.inner = small_classifier(number).requires_grad_(False)

    def forward(self, images):
        return self.inner(images[:, :2])


def test_without_a_checkpoint_nothing_is_kept():
    NO_CHECKPOINT.save_if_due({"step": 1}, {})
    assert NO_CHECKPOINT.load() is None


# Through the command line


class Stopping(LogReporter):
    """A reporter that asks the run to stop at a step, as a signal does."""

    where: tuple = ()
    steps: list = []  # noqa: RUF012

    def __call__(self, phase, done, total, detail=""):
        if phase in ("gm", "mp", "noise"):
            self.steps.append((phase, done, total))
        if (phase, done) == self.where:
            session.threading.Event.set(self.stopping)


@pytest.fixture
def stop_at(monkeypatch):
    """Makes the next commands stop there; returns the list of an attack's steps."""

    class Watched(session.threading.Event):
        def __init__(self):
            super().__init__()
            Stopping.stopping = self

    monkeypatch.setattr(session, "LogReporter", Stopping)
    monkeypatch.setattr(session.threading, "Event", Watched)

    def arrange(*where):
        Stopping.where, Stopping.steps = where, []
        return Stopping.steps

    return arrange


def bytes_of(results):
    return {
        path: (results / "poisons" / path).read_bytes() for path in files_in(results / "poisons")
    }


@pytest.mark.parametrize(("attack", "total", "trials"), [("gm", 2, 1), ("gm", 2, 3), ("mp", 4, 1)])
def test_a_signal_saves_and_the_same_command_continues(
    attack, total, trials, data, results, tmp_path, stop_at
):
    line = ("craft", "--attack", attack, "--trials", trials, "--dataset", data, "--results")
    undisturbed = tmp_path / "undisturbed"
    stop_at()
    done(*line, undisturbed)
    stop_at(attack, 1)
    outcome = cli(*line, results)
    assert outcome.code == 75
    assert "with a checkpoint; run the same command to continue" in outcome.err
    assert not (results / "poisons").exists()
    assert len(list((results / "checkpoints").iterdir())) == 1
    steps = stop_at()
    assert f"continuing {attack} from its checkpoint" in done(*line, results).err
    assert steps == [(attack, step, total) for step in range(2, total + 1)]
    assert not list((results / "checkpoints").iterdir())
    assert bytes_of(results) == bytes_of(undisturbed)
    assert len(bytes_of(results)) == 3 * trials
    # Of poisons crafted together the seconds are of all; of two sittings they are not known.
    assert Store(results).crafting() == []
    (cost,) = Store(undisturbed).crafting()
    assert (cost.attack, cost.poisons) == (attack, trials)


def test_other_trials_do_not_take_the_checkpoint(data, results, stop_at):
    line = ("craft", "--attack", "gm", "--dataset", data, "--results", results)
    stop_at("gm", 1)
    assert cli(*line, "--trials", 2).code == 75
    steps = stop_at()
    assert "continuing" not in done(*line).err
    assert steps == [("gm", step, 2) for step in (1, 2)]


def test_an_attack_that_keeps_no_state_leaves_nothing(data, results, stop_at):
    line = ("craft", "--attack", "noise", "--dataset", data, "--results", results)
    stop_at("noise", 1)
    assert done(*line).code == 0
    assert not (results / "checkpoints").exists() or not list((results / "checkpoints").iterdir())


def test_a_finished_poison_discards_a_checkpoint_left_behind(data, results):
    line = ("craft", "--attack", "noise", "--dataset", data, "--results", results, "--json")
    crafted = done(*line).json
    left = Checkpoint(results / "checkpoints" / crafted["id"], crafted["id"])
    left.write({}, {})
    assert not done(*line).json["is_new"]
    assert not left.folder.exists()
