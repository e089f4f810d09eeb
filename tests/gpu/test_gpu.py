"""A whole run on a GPU: that it works, resumes to the same bytes, and never waits in a step."""

import pytest
import torch

from helpers.waits import sync_debug_mode
from poisonbench.attacks.base import AttackTask, LabelledImages
from poisonbench.attacks.pgd import Config as PgdConfig
from poisonbench.attacks.pgd import craft
from poisonbench.core.devices import Flag, send
from poisonbench.core.errors import InterruptedRunError
from poisonbench.core.seeds import Seeds
from poisonbench.data.splits import Split
from poisonbench.defenses.deep_knn import neighbour_votes
from poisonbench.defenses.hint import Config, Hint
from poisonbench.models import build_model
from poisonbench.runs.context import find_device
from poisonbench.training.checkpoint import Checkpoint
from poisonbench.training.recipe import Recipe
from poisonbench.training.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

NETWORKS = {"mnist-cnn": (1, 28, 28), "cifar-resnet18": (3, 32, 32)}


def split(shape, size, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (size, *shape), generator=generator, dtype=torch.uint8)
    return Split(images, torch.arange(size) % 10)


def network(name):
    shape = NETWORKS[name]
    generator = torch.Generator().manual_seed(1)
    return build_model(name, shape, 10, (0.4,) * shape[0], (0.2,) * shape[0], generator)


def train(name, config, checkpoint=None, should_stop=lambda: False):
    model = network(name)
    trainer = Trainer(
        recipe=Recipe(epochs=3, batch_size=64, milestones=(2,)),
        seeds=Seeds(),
        device=find_device("cuda"),
        checkpoint=checkpoint,
        should_stop=should_stop,
    )
    splits = split(NETWORKS[name], 300, 2), split(NETWORKS[name], 50, 3)
    result = trainer.fit(model, *splits, Hint(config))
    return {key: value.cpu() for key, value in model.state_dict().items()}, result


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    "config",
    [
        Config(schedule=(1, 2)),
        Config(schedule=(1, 2), solver="lissa", hessian_set="selected", storage="uint8"),
    ],
    ids=["exact", "lissa"],
)
def test_hint_runs_and_resumes_to_the_same_bytes(name, config, tmp_path):
    weights, result = train(name, config)
    assert len(result.notes) == 2
    calls = iter(range(100))
    with pytest.raises(InterruptedRunError):
        train(name, config, Checkpoint(tmp_path, "run"), lambda: next(calls) == 7)
    resumed, _ = train(name, config, Checkpoint(tmp_path, "run"))
    assert all(torch.equal(weights[key], resumed[key]) for key in weights)


def test_crafting_runs():
    device = find_device("cuda")
    data = split((1, 28, 28), 100, 4).to(device)
    model = network("mnist-cnn").to(device)
    images = craft(
        AttackTask(
            images=data.images.float() / 255,
            labels=data.labels,
            validation=LabelledImages(data.images[:10].float() / 255, data.labels[:10]),
            num_classes=10,
            surrogate=lambda: model,
            untrained=lambda: network("mnist-cnn").to(device),
            generator=torch.Generator().manual_seed(5),
            report=lambda done, total: None,
        ),
        PgdConfig(steps=3, augment="crop-flip"),
    )
    assert images.is_cuda
    assert float((images - data.images.float() / 255).abs().max()) <= 8 / 255 + 1e-6


def test_neighbours_vote_as_on_a_cpu():
    generator = torch.Generator().manual_seed(6)
    labels = torch.arange(400) % 10
    features = torch.randn(400, 64, generator=generator) + labels[:, None] / 20
    device = find_device("cuda")
    for k in (1, 40, 399):
        votes = [
            neighbour_votes(features.to(at), labels.to(at), 10, k, count_self=False).cpu()
            for at in ("cpu", device)
        ]
        assert torch.equal(*votes)


def test_draws_are_sent_and_flags_are_read_without_waiting():
    device = find_device("cuda")
    values = torch.rand(1000, generator=torch.Generator().manual_seed(7))
    with sync_debug_mode("error"):
        sent = send(values, device)
        flags = [Flag((sent >= 0).all()), Flag((sent > 1).any())]
    assert torch.equal(sent.cpu(), values)
    torch.cuda.synchronize(device)
    assert [flag.is_true() for flag in flags] == [True, False]


def test_float32_is_float32():
    find_device("cuda")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.deterministic
