"""Passes side by side: one thread's results in the same order."""

from threading import Event
from time import sleep

import pytest
import torch

from poisonbench.models import build_model
from poisonbench.models.cpu.parallel_passes import in_parallel

SHAPE = (1, 20, 20)


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model():
    return build_model("mnist-cnn", SHAPE, 3, (0.4,), (0.2,), torch.Generator().manual_seed(1))


def gradient(network, images):
    images = images.clone().requires_grad_(True)
    return torch.autograd.grad(network(images).square().sum(), images)[0]


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("sizes", [[], [4], [4, 4], [3, 5, 1, 2, 4, 7, 1]])
def test_results_are_those_of_one_thread(model, threads, sizes):
    images = torch.rand(sum(sizes), *SHAPE, generator=torch.Generator().manual_seed(2))
    parts = images.split(sizes)
    torch.set_num_threads(1)
    expected = in_parallel(model, parts, gradient)
    torch.set_num_threads(threads)
    gradients = in_parallel(model, parts, gradient)
    assert torch.get_num_threads() == threads
    assert len(gradients) == len(parts)
    for part, gradient_alone in zip(gradients, expected, strict=True):
        torch.testing.assert_close(part, gradient_alone)
        if threads < 2 * len(parts):
            assert torch.equal(part, gradient_alone)


def test_the_work_sees_the_callers_gradient_mode(model):
    torch.set_num_threads(2)
    with torch.no_grad():
        assert in_parallel(model, [0, 1, 2], lambda _, part: torch.is_grad_enabled()) == [False] * 3
    assert in_parallel(model, [0, 1], lambda _, part: torch.is_grad_enabled()) == [True] * 2


def test_threads_are_shared_out_and_given_back(model):
    torch.set_num_threads(5)
    assert in_parallel(model, [0, 1], lambda _, part: torch.get_num_threads()) == [2, 2]
    assert torch.get_num_threads() == 5


def test_an_error_arrives_and_gives_the_threads_back(model):
    def fails(_, part):
        if part == 2:
            raise ArithmeticError("part 2")

    torch.set_num_threads(2)
    with pytest.raises(ArithmeticError, match="part 2"):
        in_parallel(model, [0, 1, 2, 3], fails)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
def test_the_other_lanes_end_with_their_part_after_an_error(model, error):
    done, failed = [], Event()

    def work(_, part):
        if part == 0:
            failed.set()
            raise error
        failed.wait()
        sleep(0.05)
        done.append(part)

    torch.set_num_threads(2)
    with pytest.raises(error):
        in_parallel(model, list(range(40)), work)
    assert len(done) < 19
