"""The pretended accelerator: values as on the CPU, devices kept apart and waits counted."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.tiny_training import network, split
from poisonbench.core.devices import LARGEST_LOCKED, Flag, send, send_network
from poisonbench.runs import context

device = pytest.importorskip("poisonbench.conformance.pretended_device", exc_type=ImportError)
GPU, PretendedTensor, pretended_gpu = device.GPU, device.PretendedTensor, device.pretended_gpu


@pytest.fixture
def waits():
    with pretended_gpu() as waits:
        yield waits


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_what_is_made_there_says_so_and_stays_there(waits):
    tensors = [
        torch.zeros(2, device="gpu"),
        torch.arange(3, device=GPU),
        torch.full((2,), 1.0, device="gpu:0"),
        numbers(2).to(GPU),
    ]
    tensors += [
        tensors[0] + 1,
        tensors[3].double().mean(),
        tensors[1][1:],
        tensors[0].new_zeros(1),
        tensors[3] > 0,
    ]
    assert all(tensor.device == GPU for tensor in tensors)
    assert all(isinstance(tensor, PretendedTensor) for tensor in tensors)
    assert tensors[3].cpu().device.type == torch.zeros(1).device.type == "cpu"


@pytest.mark.parametrize(
    "mixed",
    [
        lambda here, there: here + there,
        lambda here, there: here.add_(there),
        lambda here, there: there.add_(here),
        lambda here, there: torch.cat([here, there]),
        lambda here, there: torch.stack([here.sum(), there.sum()]),
        lambda here, there: here @ there,
        lambda here, there: torch.where(here > 0, here, there),
        lambda here, there: there[here.argsort()],
        lambda here, there: here.__setitem__(slice(None), here[there.argsort()] + there),
        lambda here, there: here.index_put_((here.argsort(),), there),
        lambda here, there: F.linear(here[None], there[None]),
        lambda here, there: np.asarray(here),
        lambda here, there: there.numpy() + here.numpy(),
    ],
)
def test_devices_do_not_mix(mixed, waits):
    with pytest.raises((RuntimeError, TypeError), match=r"expected .*got"):
        mixed(numbers(4).to(GPU), numbers(4))


def test_a_cpu_tensor_without_dimensions_passes_for_a_number(waits):
    here = numbers(4).to(GPU)
    waits.clear()
    assert (here * torch.tensor(2.0)).device == GPU
    assert not waits


@pytest.mark.parametrize(
    ("what", "wait"),
    [
        ("value", lambda here: here.sum().item()),
        ("value", lambda here: float(here[0])),
        ("value", lambda here: bool((here > 0).any())),
        ("value", lambda here: here.tolist()),
        ("value", lambda here: torch.equal(here, here + 0)),
        ("shape", lambda here: (here > 0).nonzero()),
        ("shape", lambda here: here[here > 0]),
        ("shape", lambda here: here.unique()),
        ("shape", lambda here: here.__setitem__(here > 9, here[:0])),
        ("copy to the CPU", lambda here: here.cpu()),
        ("copy to the CPU", lambda here: torch.zeros(4).copy_(here)),
        ("copy to the device", lambda here: torch.zeros(4).to(here)),
        ("copy to the device", lambda here: here.copy_(torch.zeros(4))),
        ("copy to the device", lambda here: torch.tensor([1.0], device=GPU)),
        ("copy to the device", lambda here: here.new_tensor([1.0])),
        ("index from the CPU", lambda here: here[torch.tensor([1, 0])]),
        ("index from the CPU", lambda here: here.__setitem__(torch.tensor([1]), 0.0)),
        ("bincount", lambda here: torch.bincount(here.argsort())),
    ],
)
def test_waits_are_counted(what, wait, waits):
    here = numbers(4).to(GPU)
    waits.clear()
    wait(here)
    assert dict(waits) == {(what, "outside"): 1}


def test_what_does_not_wait_is_not_counted(waits):
    here = numbers(4).to(GPU)
    waits.clear()
    here[here.argsort()] = here[here.argsort()] * 2 - torch.zeros(4, device=GPU)
    here[here > 0] = 1.0
    assert torch.equal(here, here)
    here.sort().values.cumsum(0).to(torch.float64).clone().view(2, 2).split(1)
    assert not waits


def test_only_page_locked_memory_is_taken_without_waiting(waits):
    numbers(4).to(GPU, non_blocking=True)
    assert list(waits) == [("copy to the device", "outside")]
    waits.clear()
    sent = send(numbers(4), GPU)
    assert not waits
    assert torch.equal(sent.inner, numbers(4))
    send(torch.zeros(LARGEST_LOCKED + 1, dtype=torch.uint8), GPU)
    ((what, line),) = waits
    assert (what, line.partition(":")[0]) == ("copy to the device", "core/devices.py")


def test_a_network_is_sent_without_waiting_and_stays_on_the_cpu_too(waits):
    kept = network().eval().requires_grad_(False)
    sent = send_network(kept, GPU)
    assert not waits
    assert send_network(kept, torch.device("cpu")) is kept
    assert not sent.training
    state, other = kept.state_dict(), sent.state_dict()
    assert list(state) == list(other)
    assert not any(isinstance(tensor, PretendedTensor) for tensor in state.values())
    assert all(isinstance(tensor, PretendedTensor) for tensor in other.values())
    assert not any(weight.requires_grad for weight in sent.parameters())
    images = numbers(2, *split().images.shape[1:])
    assert torch.equal(sent(images.to(GPU)).cpu(), kept(images))


def test_a_flag_is_read_once_the_device_has_come_there(waits):
    flag = Flag(numbers(4).to(GPU).isfinite().all())
    waits.clear()
    assert [flag.is_true() for _ in range(4)] == [False, False, True, True]
    assert not waits
    assert not Flag(numbers(4).to(GPU).isnan().any()).is_true()
    assert Flag(torch.tensor(True)).is_true()


def test_a_wait_is_counted_with_the_line_of_the_package(waits):
    from poisonbench.training.evaluation import accuracy_by_class

    accuracy_by_class(torch.ones(4).bool().to(GPU), torch.arange(4).to(GPU), 4)
    lines = {line for what, line in waits if what == "bincount"}
    assert len(lines) == 2
    assert all(line.startswith("training/evaluation.py:") for line in lines)


def test_a_clone_of_the_packages_name_is_not_the_package():
    from poisonbench.conformance.pretended_device import package_line

    path = "/home/me/poisonbench/.venv/lib/python3/site-packages/torch/_dynamo/eval_frame.py"
    names = {"package_line": package_line}
    exec(compile("line = package_line()", path, "exec"), names)
    assert names["line"] == "outside"


def trained(device):
    model = network().to(device=device, memory_format=torch.channels_last)
    copied = copy.deepcopy(model)
    data = split().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for _ in range(3):
        images = (data.images.float() / 255).requires_grad_()
        loss = F.cross_entropy(model(images), data.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert images.grad.device.type == device.type
    tensors = [images.grad, *model.state_dict().values(), *copied.state_dict().values()]
    return [tensor.cpu() for tensor in tensors]


def test_training_gives_the_bits_of_the_cpu(waits):
    for here, there in zip(trained(GPU), trained(torch.device("cpu")), strict=True):
        assert torch.equal(here, there)


def test_a_module_moves_there_and_back(waits):
    layer = nn.Linear(3, 2)
    before = layer.weight.detach().clone()
    assert layer.to(GPU).weight.device == GPU
    assert isinstance(layer.weight, nn.Parameter)
    assert torch.equal(layer.to("cpu").weight, before)


def test_afterwards_all_is_as_before():
    inference_mode, find_device = torch.inference_mode, context.find_device
    with pretended_gpu():
        assert context.find_device("cuda") == GPU
        assert torch.inference_mode is torch.no_grad
    assert torch.inference_mode is inference_mode
    assert context.find_device is find_device
    assert not torch.__future__.get_swap_module_params_on_conversion()
    # The device goes on in name alone.
    with pytest.raises(RuntimeError):
        torch.zeros(2, device="gpu") + 1
