"""A run stopped anywhere and continued ends in the same bytes."""

import os

import pytest
import torch

from helpers.tiny_training import CPU, batch_rows, recipe, split, train, weights_digest
from poisonbench.core.errors import InterruptedRunError, StoreError
from poisonbench.data.splits import digest_tensors
from poisonbench.defenses import hint
from poisonbench.training.checkpoint import Checkpoint, Snapshot
from poisonbench.training.state import Defense, TrainingSet

NEVER = 1e9


class DropSome(Defense):
    """Drops another row each epoch, at random; remembers how often each row was seen."""

    def start_epoch(self, state):
        keep = self.memory.get("keep", torch.ones(len(state.train), dtype=torch.bool)).clone()
        keep[torch.randint(0, len(keep), (1,), generator=state.generator("drop"))] = False
        self.memory["keep"] = keep
        self.memory.setdefault("seen", torch.zeros(len(keep)))
        state.note({"kept": int(keep.sum())})
        return state.train.with_keep(keep)

    def perturb_batch(self, state, images, labels):
        self.memory["seen"][batch_rows()] += 1
        noise = torch.rand(images.shape, generator=state.generator("noise"))
        return (images + 0.1 * noise * self.memory["seen"].mean()).clamp(0, 1)


class Darken(Defense):
    """Changes pixels and leaves them bytes."""

    def start_epoch(self, state):
        return state.train.with_images(state.train.images // (1 + state.epoch % 2))


class NoiseAndDrop(Defense):
    """Changes pixels in epoch 1 and, for good, the rows in epoch 2."""

    def start_epoch(self, state):
        if state.epoch == 1:
            images = state.train.images.float() / 255
            images[3:9] *= torch.rand(6, 1, 1, 1, generator=state.generator("noise"))
            return state.train.with_images(images)
        if state.epoch == 2:
            return state.train.with_keep(torch.arange(len(state.train)) % 5 != 0)
        return state.train


def make_hint(**changes):
    return hint.Hint(hint.Config(**({"schedule": (1, 3), "gamma": 20.0} | changes)))


DEFENSES = {
    "none": Defense,
    "hint": make_hint,
    "hint-code": lambda: make_hint(
        solver="lissa", lissa_steps=60, storage="uint8", hessian_set="selected"
    ),
    "drop": DropSome,
    "darken": Darken,
    "noise-and-drop": NoiseAndDrop,
}

EPOCHS, STEPS = 4, 3
SETTINGS = recipe(epochs=EPOCHS, augment="crop-flip")


def outcome(model, result, defense):
    return {
        "weights": weights_digest(model),
        "memory": {name: digest_tensors(value) for name, value in defense.memory.items()},
        "curve": result.curve,
        "peak": digest_tensors(*(result.peak[name] for name in sorted(result.peak))),
        "notes": result.notes,
        "digests": result.digests,
    }


def run(make, folder, *, stop_after=NEVER, every=NEVER, shape=(2, 8, 8)):
    """One session: as far as ``stop_after`` batches; the outcome and the interruptions."""
    done = []
    defense = make()

    def should_stop():
        done.append(1)
        return len(done) >= stop_after

    model, result = train(
        defense,
        recipe=SETTINGS,
        shape=shape,
        checkpoint=Checkpoint(folder, "run", every),
        should_stop=should_stop,
    )
    return outcome(model, result, defense), result.interruptions


def undisturbed(make, shape=(2, 8, 8)):
    defense = make()
    return outcome(*train(defense, recipe=SETTINGS, shape=shape), defense)


@pytest.mark.parametrize("shape", [(2, 8, 8), (1, 8, 8)])
@pytest.mark.parametrize("name", DEFENSES)
def test_a_run_stopped_after_any_batch_continues_to_the_same_bytes(name, shape, tmp_path):
    make = DEFENSES[name]
    expected = undisturbed(make, shape)
    for position in range(1, EPOCHS * STEPS + 1):
        folder = tmp_path / str(position)
        with pytest.raises(InterruptedRunError, match=f"epoch {(position + 2) // STEPS} of"):
            run(make, folder, stop_after=position, shape=shape)
        got, interruptions = run(make, folder, shape=shape)
        assert got == expected, f"stopped after batch {position}"
        assert interruptions == 1


def test_the_problem_has_edits_worth_restoring():
    """Otherwise the test above would show little: noise is there in both rounds, rows do go."""
    rounds = undisturbed(DEFENSES["hint"])["notes"]
    assert [row["epoch"] for row in rounds] == [1, 3]
    assert all(row["max_abs_noise"] > 0.01 for row in rounds)
    kept = [row["kept"] for row in undisturbed(DEFENSES["drop"])["notes"]]
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] < kept[0] < 22


@pytest.mark.parametrize("name", DEFENSES)
def test_a_run_stopped_after_every_batch_ends_in_the_same_bytes(name, tmp_path):
    make, sessions = DEFENSES[name], 0
    while True:
        try:
            got, interruptions = run(make, tmp_path, stop_after=1)
            break
        except InterruptedRunError:
            sessions += 1
    assert got == undisturbed(make)
    assert sessions == interruptions == EPOCHS * STEPS


def test_a_run_killed_between_saves_continues_from_the_last_one(tmp_path):
    """Without a stop there is no last word: what was saved by the clock must do."""

    class KilledError(BaseException):
        pass

    class KilledInUpdate(hint.Hint):
        def start_epoch(self, state):
            if state.epoch == 3:
                raise KilledError
            return super().start_epoch(state)

    config = hint.Config(schedule=(1, 3), gamma=20.0)
    with pytest.raises(KilledError):
        run(lambda: KilledInUpdate(config), tmp_path, every=0.0)
    got, interruptions = run(DEFENSES["hint"], tmp_path)
    assert got == undisturbed(DEFENSES["hint"])
    assert interruptions == 0


def test_nothing_is_saved_before_it_is_due(tmp_path):
    run(Defense, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Snapshots


def original(size: int = 10) -> TrainingSet:
    data = split(size)
    return TrainingSet(data.images, data.labels)


def snapshot(epoch: int, train=None, value: float = 0.0) -> Snapshot:
    position = {"epoch": epoch, "step": 1, "curve": [{"loss": 0.1}]}
    return Snapshot(position, {"model.a": torch.full((3, 2), value)}, train)


def edited(seed: int, size: int = 10) -> TrainingSet:
    base = original(size)
    images = base.images.float().div_(255)
    rows = torch.tensor([1, 4, 9])
    noise = torch.rand(3, *images.shape[1:], generator=torch.Generator().manual_seed(seed))
    images[rows] = (images[rows] + noise / 7).clamp(0, 1)
    return base.with_images(images)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("keep", [None, torch.arange(10) % 4 != 2])
def test_edits_come_back_to_the_last_bit(keep, tmp_path):
    train = edited(1)
    if keep is not None:
        train = train.with_keep(keep)
    Checkpoint(tmp_path, "run").save(snapshot(2, train), original())
    loaded = Checkpoint(tmp_path, "run").load(original()).train
    assert loaded.images.dtype == torch.float32
    assert torch.equal(loaded.images, train.images)
    assert torch.equal(loaded.labels, train.labels)
    assert (loaded.keep is None) == (keep is None)
    assert keep is None or torch.equal(loaded.keep, keep)


def test_a_mask_alone_leaves_the_pixels_bytes(tmp_path):
    keep, base = torch.arange(10) < 6, original()
    Checkpoint(tmp_path, "run").save(snapshot(1, base.with_keep(keep)), base)
    loaded = Checkpoint(tmp_path, "run").load(base).train
    assert loaded.images.dtype == torch.uint8
    assert torch.equal(loaded.keep, keep)


def test_only_changed_rows_are_stored(tmp_path):
    train = edited(1)
    Checkpoint(tmp_path, "run").save(snapshot(2, train), original())
    stored = (tmp_path / "edits-2.safetensors").stat().st_size
    assert stored < 3 * 2 * 8 * 8 * 4 + 500


def test_position_and_tensors_come_back(tmp_path):
    odd = torch.rand(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    saved = snapshot(2)
    saved.tensors |= {"defense.odd": odd, "defense.half": odd.half(), "loss_sum": torch.ones(())}
    Checkpoint(tmp_path, "run").save(saved, original())
    loaded = Checkpoint(tmp_path, "run").load(original())
    assert loaded.position == saved.position
    assert loaded.train is None
    assert loaded.tensors.keys() == saved.tensors.keys()
    assert all(torch.equal(loaded.tensors[key], saved.tensors[key]) for key in saved.tensors)


def test_tensors_that_share_memory_are_saved_apart(tmp_path):
    """A defense may remember a view of what it also remembers whole."""
    whole = torch.arange(6.0)
    shared = snapshot(1)
    shared.tensors |= {"defense.whole": whole, "defense.part": whole[:3], "defense.same": whole}
    Checkpoint(tmp_path, "run").save(shared, original())
    tensors = Checkpoint(tmp_path, "run").load(original()).tensors
    assert tensors["defense.part"].tolist() == [0, 1, 2]
    assert torch.equal(tensors["defense.same"], whole)


def test_edits_are_written_once_and_stale_ones_removed(tmp_path):
    first, second = edited(1), edited(2)
    checkpoint = Checkpoint(tmp_path, "run")
    checkpoint.save(snapshot(1, first), original())
    inode = (tmp_path / "edits-1.safetensors").stat().st_ino
    checkpoint.save(snapshot(3, first), original())
    assert files(tmp_path) == ["edits-1.safetensors", "state.safetensors"]
    assert (tmp_path / "edits-1.safetensors").stat().st_ino == inode
    checkpoint.save(snapshot(4, second), original())
    assert files(tmp_path) == ["edits-4.safetensors", "state.safetensors"]
    assert torch.equal(Checkpoint(tmp_path, "run").load(original()).train.images, second.images)
    checkpoint.save(snapshot(5), original())
    assert files(tmp_path) == ["state.safetensors"]


def test_edits_that_were_loaded_are_not_written_again(tmp_path):
    Checkpoint(tmp_path, "run").save(snapshot(1, edited(1)), original())
    inode = (tmp_path / "edits-1.safetensors").stat().st_ino
    checkpoint = Checkpoint(tmp_path, "run")
    loaded = checkpoint.load(original())
    checkpoint.save(snapshot(2, loaded.train), original())
    assert files(tmp_path) == ["edits-1.safetensors", "state.safetensors"]
    assert (tmp_path / "edits-1.safetensors").stat().st_ino == inode


def test_discard_removes_the_folder(tmp_path):
    checkpoint = Checkpoint(tmp_path / "run", "run")
    checkpoint.discard()
    checkpoint.save(snapshot(1, edited(1)), original())
    checkpoint.discard()
    assert not (tmp_path / "run").exists()
    assert checkpoint.load(original()) is None


# What cannot be read


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


DAMAGE = {
    "empty state": lambda folder: cut(folder / "state.safetensors", 0),
    "state cut in its header": lambda folder: cut(folder / "state.safetensors", 0.02),
    "state cut in its tensors": lambda folder: cut(folder / "state.safetensors", 0.95),
    "edits cut": lambda folder: cut(folder / "edits-1.safetensors", 0.5),
    "no edits": lambda folder: (folder / "edits-1.safetensors").unlink(),
    "no state": lambda folder: (folder / "state.safetensors").unlink(),
    "a foreign state": lambda folder: (folder / "state.safetensors").write_bytes(
        (folder / "edits-1.safetensors").read_bytes()
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_ignored_and_the_run_starts_over(damage, tmp_path):
    make = DEFENSES["hint"]
    with pytest.raises(InterruptedRunError):
        run(make, tmp_path, stop_after=5)
    DAMAGE[damage](tmp_path)
    assert Checkpoint(tmp_path, "run").load(original()) is None
    got, interruptions = run(make, tmp_path)
    assert got == undisturbed(make)
    assert interruptions == 0


def test_another_runs_checkpoint_is_ignored(tmp_path):
    Checkpoint(tmp_path, "one").save(snapshot(1, edited(1)), original())
    assert Checkpoint(tmp_path, "two").load(original()) is None
    assert Checkpoint(tmp_path, "one").load(original()) is not None


# A kill while writing


@pytest.mark.parametrize(
    ("error", "raised"),
    [(OSError(28, "full"), StoreError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
@pytest.mark.parametrize("at", [1, 2])
def test_a_kill_while_writing_keeps_the_previous_checkpoint(
    error, raised, at, tmp_path, monkeypatch
):
    """Killed while the new edits (1) or the new state (2) take their places."""
    checkpoint, first, second = Checkpoint(tmp_path, "run"), edited(1), edited(2)
    checkpoint.save(snapshot(1, first, value=1.0), original())
    replace, calls = os.replace, []

    def fail(source, target):
        calls.append(target)
        if len(calls) == at:
            raise error
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(raised):
            checkpoint.save(snapshot(2, second, value=2.0), original())
    assert len(calls) == at
    loaded = Checkpoint(tmp_path, "run").load(original())
    assert loaded.position["epoch"] == 1
    assert torch.equal(loaded.tensors["model.a"], torch.full((3, 2), 1.0))
    assert torch.equal(loaded.train.images, first.images)
    assert not [name for name in files(tmp_path) if name.endswith(".tmp")]
    # The same process may try again, once there is room.
    checkpoint.save(snapshot(2, second, value=2.0), original())
    loaded = Checkpoint(tmp_path, "run").load(original())
    assert torch.equal(loaded.train.images, second.images)
    assert loaded.train.labels.device == CPU
