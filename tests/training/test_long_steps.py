"""Work of minutes before an epoch is shown, and stopped anywhere it ends in the same bytes."""

import pytest

from helpers.tiny_training import recipe, split, train, weights_digest
from poisonbench.core.errors import AbortedError, InterruptedRunError
from poisonbench.defenses import friends
from poisonbench.training.checkpoint import Checkpoint
from poisonbench.training.recipe import Recipe
from poisonbench.training.state import Defense

NEVER, STEPS, BATCHES = 1e9, 4, 3


class Slow(Defense):
    """In its second epoch darkens the images in steps, each of another share."""

    def __init__(self):
        super().__init__()
        self.done = []

    def start_epoch(self, state):
        if state.epoch != 1:
            return state.train
        images = state.train.images.float() / 255
        for number in state.long_steps("darkening", STEPS, {"images": images}):
            self.done.append(number)
            images[number::STEPS] *= 0.5 / (1 + number)
        return state.train.with_images(images)


def run(checkpoint=None, stop_after=None, report=None):
    """The weights, the result and the steps that were done in this process."""
    calls, slow = 0, Slow()

    def should_stop():
        nonlocal calls
        calls += 1
        return calls == stop_after

    options = {"report": report} if report else {}
    try:
        model, result = train(
            slow,
            recipe=recipe(epochs=3),
            data=split(24),
            checkpoint=checkpoint,
            should_stop=should_stop,
            **options,
        )
    except InterruptedRunError as error:
        return str(error), slow.done
    return weights_digest(model), result, slow.done


@pytest.mark.parametrize("every", [NEVER, 0.0])
@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_steps_done_are_not_done_again(step, every, tmp_path):
    weights, result, done = run()
    assert done == list(range(STEPS))
    message, before = run(Checkpoint(tmp_path, "run", every), BATCHES + step)
    assert f"darkening, step {step} of {STEPS}, with a checkpoint; run the same command" in message
    again, continued, after = run(Checkpoint(tmp_path, "run", every))
    assert (before, after) == (done[:step], done[step:])
    assert (again, continued.curve, continued.interruptions) == (weights, result.curve, 1)


def test_what_the_steps_took_before_counts(tmp_path, monkeypatch):
    now = iter(range(0, 100_000, 10))
    monkeypatch.setattr("time.monotonic", lambda: float(next(now)))
    run(Checkpoint(tmp_path, "run", NEVER), BATCHES + 3)
    _, whole, _ = run()
    _, continued, _ = run(Checkpoint(tmp_path, "run", NEVER))
    # The clock moves at each look: three steps and more were in the process before.
    assert continued.seconds["defense"] >= whole.seconds["defense"]


def test_a_state_of_the_steps_goes_once_the_run_is_saved(tmp_path):
    """Killed after the steps, a run has them; after its own next save it has no use for them."""
    run(Checkpoint(tmp_path, "run", NEVER), BATCHES + STEPS)
    assert (tmp_path / "darkening").is_dir()
    run(Checkpoint(tmp_path, "run", NEVER), 2 * BATCHES)
    assert not (tmp_path / "darkening").exists()


def test_a_run_that_is_killed_after_the_steps_has_them(tmp_path, monkeypatch):
    def start_epoch(self, state):
        train = start(self, state)
        if state.epoch == 1:
            raise MemoryError
        return train

    start = Slow.start_epoch
    with monkeypatch.context() as patch:
        patch.setattr(Slow, "start_epoch", start_epoch)
        with pytest.raises(MemoryError):
            run(Checkpoint(tmp_path, "run", NEVER))
    weights, _, done = run(Checkpoint(tmp_path, "run", NEVER))
    assert (weights, done) == (run()[0], [])


@pytest.mark.parametrize("fault", ["epoch", "total", "shape", "names", "bytes"])
def test_a_state_that_does_not_fit_is_left(fault, tmp_path):
    weights, _, _ = run()
    run(Checkpoint(tmp_path, "run", NEVER), BATCHES + 2)
    state = Checkpoint(tmp_path, "run").part("darkening")
    position, tensors = state.read()
    if fault in position:
        state.write({**position, fault: 0}, tensors)
    elif fault == "shape":
        state.write(position, {"images": tensors["images"][1:]})
    elif fault == "names":
        state.write(position, {"pictures": tensors["images"]})
    else:
        path = tmp_path / "darkening/state.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
    again, _, done = run(Checkpoint(tmp_path, "run", NEVER))
    assert (again, done) == (weights, list(range(STEPS)))


def test_they_are_shown_and_without_a_checkpoint_nothing_is_kept():
    shown = []
    run(report=lambda *words: shown.append(words[:3]))
    assert [words for words in shown if "darkening" in words[0]] == [
        ("training: darkening", number, STEPS) for number in range(STEPS + 1)
    ]
    with pytest.raises(AbortedError):
        run(stop_after=BATCHES + 1)


def test_friendly_noise_continues_within(tmp_path, monkeypatch):
    """70 images in parts of four are two steps; the run is stopped between them."""
    monkeypatch.setattr(friends, "pass_size", lambda *args, **options: 4)
    settings = Recipe(epochs=2, batch_size=35, precision="float32")

    def outcome(checkpoint=None, stop=()):
        asked = []
        try:
            model, result = train(
                friends.build(friends.Config(begin_epoch=1, steps=3), settings),
                recipe=settings,
                data=split(70),
                checkpoint=checkpoint,
                should_stop=lambda: asked.append(1) or len(asked) in stop,
            )
        except InterruptedRunError as error:
            return str(error)
        return weights_digest(model), result.notes

    assert "friendly noise, step 1 of 2" in outcome(Checkpoint(tmp_path, "run", NEVER), (3,))
    assert outcome(Checkpoint(tmp_path, "run", NEVER)) == outcome()
