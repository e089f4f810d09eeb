"""The checkpoint that an attack gets: its file, the clock, the signals."""

import time
from pathlib import Path

import pytest
import torch

from poisonbench.attacks.base import AttackCheckpoint
from poisonbench.core.errors import InterruptedRunError
from poisonbench.results.store import Store
from poisonbench.runs.context import RunContext
from poisonbench.runs.craft_checkpoint import CraftCheckpoint
from poisonbench.training.checkpoint import Checkpoint

POSITION = {"step": 3, "score": 0.1 + 0.2}


def tensors(value=0.0):
    whole = torch.full((2, 3, 4, 4), value).contiguous(memory_format=torch.channels_last)
    return {"whole": whole, "view": whole[0], "count": torch.tensor(7)}


@pytest.fixture
def context(tmp_path):
    remarks = []
    run_context = RunContext(
        Store(tmp_path / "results"), tmp_path, torch.device("cpu"), say=remarks.append
    )
    run_context.said = remarks
    return run_context


def checkpoint(context, poison_id="one", seed=0, every=1e9):
    generators = [torch.Generator().manual_seed(10 * seed + number) for number in range(3)]
    craft_checkpoint = CraftCheckpoint(context, "dc", poison_id, generators)
    craft_checkpoint.file.every = every
    return craft_checkpoint


def draws(checkpoint):
    """The next numbers of each generator."""
    return torch.stack([torch.rand(5, generator=each) for each in checkpoint.generators.values()])


def test_state_and_generators_come_back(context):
    first = checkpoint(context, every=0.0)
    assert first.load() is None
    draws(first)
    first.save_if_due(POSITION, tensors())
    expected = draws(first)
    assert len(expected.unique()) == expected.numel()
    second = checkpoint(context, seed=9)
    position, loaded = second.load()
    assert position == POSITION
    assert loaded.keys() == tensors().keys()
    assert all(torch.equal(loaded[name], value) for name, value in tensors().items())
    assert torch.equal(draws(second), expected)
    assert context.said == ["continuing dc from its checkpoint"]


def test_the_last_save_counts_and_discarding_leaves_nothing(context):
    first = checkpoint(context, every=0.0)
    first.load()
    for value in (1.0, 2.0):
        first.save_if_due(POSITION | {"step": value}, tensors(value))
    position, loaded = checkpoint(context).load()
    assert position["step"] == 2
    assert torch.equal(loaded["whole"], tensors(2.0)["whole"])
    first.file.discard()
    assert not list((context.store.root / "checkpoints").iterdir())
    assert checkpoint(context).load() is None


def test_a_save_is_due_by_the_clock(context, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    first = checkpoint(context, every=60.0)
    first.load()
    for seconds, saved in ((59, False), (2, True), (58, False), (2, True)):
        now[0] += seconds
        first.file.discard()
        first.save_if_due(POSITION, tensors())
        assert first.file.exists() == saved


def test_a_signal_saves_and_stops(context):
    first = checkpoint(context)
    first.load()
    first.save_if_due(POSITION, tensors())
    assert not first.file.exists()
    context.stopping.set()
    with pytest.raises(InterruptedRunError, match="crafting dc with a checkpoint; run the same"):
        first.save_if_due(POSITION, tensors())
    assert checkpoint(context).load()[0] == POSITION


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


DAMAGE = {
    "empty": lambda folder: cut(folder / "state.safetensors", 0),
    "cut in its header": lambda folder: cut(folder / "state.safetensors", 0.02),
    "cut in its tensors": lambda folder: cut(folder / "state.safetensors", 0.95),
    "not a checkpoint": lambda folder: (folder / "state.safetensors").write_bytes(b"x" * 5000),
    "another poison's": lambda folder: Checkpoint(folder, "two").write(POSITION, tensors()),
    "without generators": lambda folder: Checkpoint(folder, "one").write(POSITION, tensors()),
    "of fewer targets": lambda folder: Checkpoint(folder, "one").write(
        POSITION, tensors() | {"task.generator.0": torch.Generator().get_state()}
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_cannot_be_used_is_ignored_with_a_warning(damage, context):
    first = checkpoint(context, every=0.0)
    first.load()
    first.save_if_due(POSITION, tensors())
    DAMAGE[damage](first.file.folder)
    second = checkpoint(context)
    assert second.load() is None
    assert torch.equal(draws(second), draws(checkpoint(context)))
    (line,) = context.said
    assert line.startswith(f"warning: {first.file.folder}: expected a checkpoint of this dc poison")
    assert line.endswith("starting over")


def test_without_a_file_nothing_is_kept():
    plain = AttackCheckpoint()
    plain.save_if_due(POSITION, tensors())
    assert plain.load() is None
    assert not Path("checkpoints").exists()
