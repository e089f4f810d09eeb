"""DC: its gradient against finite differences, and its order of steps against the paper's."""

import copy
import dataclasses
import functools
import itertools
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from poisonbench.attacks import deep_confuse as dc
from poisonbench.attacks.base import AttackCheckpoint, AttackTask, LabelledImages
from poisonbench.attacks.shared import deep_confuse_networks
from poisonbench.core.errors import AbortedError, DivergedError, InterruptedRunError, UsageError
from poisonbench.models.classifier import initialise

K = 4
GREY = (1, 16, 16)
#: Two rounds of two epochs of three batches; the last, smaller batch of an epoch is left out.
TINY = {
    "epsilon": 0.3,
    "rounds": 2,
    "epochs_per_round": 2,
    "batch_size": 8,
    "surrogate_rate": 0.1,
    "generator_rate": 3e-3,
    "generator": "autoencoder",
    "generator_width": 1 / 8,
    "surrogate": "cnn",
    "surrogate_width": 1 / 10,
}


def task_of(shape=GREY, size=26, seed=0, report=lambda done, total: None, num_classes=K):
    """Noise with a brighter band whose place tells the class."""
    generator = torch.Generator().manual_seed(7)
    labels = torch.arange(size) % num_classes
    images = 0.6 * torch.rand(size, *shape, generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 3 * label : 3 * label + 4] += 0.4
    return AttackTask(
        images=images,
        labels=labels,
        validation=LabelledImages(images[:K].clone(), labels[:K]),
        num_classes=num_classes,
        surrogate=lambda: pytest.fail("dc trains classifiers of its own"),
        untrained=lambda: pytest.fail("dc has networks of its own"),
        generator=torch.Generator().manual_seed(seed),
        report=report,
    )


def weights_of(module):
    return torch.cat([weight.detach().flatten().clone() for weight in module.parameters()])


def ready(module, seed):
    initialise(module, torch.Generator().manual_seed(seed))
    return module.train()


@pytest.fixture
def problem():
    """A generator, a classifier, its scratch buffers, images and labels."""
    generator = ready(deep_confuse_networks.Autoencoder(*GREY, 1 / 4), 1)
    model = ready(deep_confuse_networks.cnn(*GREY, K, 1 / 5), 2)
    task = task_of(size=24)
    return generator, model, dict(copy.deepcopy(model).named_buffers()), task.images, task.labels


class Net(nn.Module):
    """Small enough for a difference in each weight; smooth, or with kinks like the paper's."""

    def __init__(self, smooth, outputs):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1),
            nn.BatchNorm2d(2),
            nn.Softplus() if smooth else nn.ReLU(),
            nn.AvgPool2d(2) if smooth else nn.MaxPool2d(2),
        )
        if outputs:
            self.last = nn.Sequential(nn.Flatten(), nn.Linear(18, outputs), nn.BatchNorm1d(outputs))
        else:
            up = nn.ConvTranspose2d(2, 1, 2, stride=2)
            self.last = nn.Sequential(up, nn.BatchNorm2d(1), nn.Tanh())

    def forward(self, images):
        return self.last(self.body(images))


@pytest.mark.parametrize("smooth", [True, False])
def test_the_gradient_through_the_pseudo_step_is_exact(smooth):
    generator, model = ready(Net(smooth, 0), 1).double(), ready(Net(smooth, K), 2).double()
    draws = torch.Generator().manual_seed(3)
    images = torch.rand(8, 1, 6, 6, generator=draws, dtype=torch.float64)
    images[:, :, :3] = 0
    labels = torch.arange(8) % K
    scratch = dict(copy.deepcopy(model).named_buffers())

    def loss():
        seen = dc.perturb(generator, images, 0.3)
        return dc.loss_after_pseudo_step(model, scratch, (seen, labels), (images, labels), 0.5)

    weights = list(generator.parameters())
    exact = torch.cat([part.flatten() for part in torch.autograd.grad(loss(), weights)])
    differences = []
    with torch.no_grad():
        for weight in weights:
            for cell in weight.view(-1):
                around = []
                for step in (1e-6, -2e-6):
                    cell += step
                    with torch.enable_grad():
                        around.append(float(loss().detach()))
                cell += 1e-6
                differences.append((around[0] - around[1]) / 2e-6)
    approximate = torch.tensor(differences, dtype=torch.float64)
    assert float(exact.norm()) > 1e-3
    assert float(F.cosine_similarity(exact, approximate, dim=0)) > 0.99999
    assert float(exact.norm() / approximate.norm()) == pytest.approx(1, abs=1e-4)


def test_the_pseudo_step_is_one_step_of_sgd(problem):
    _, model, scratch, images, labels = problem
    seen, rate = images.flip(0), 0.3
    loss = dc.loss_after_pseudo_step(model, scratch, (seen, labels), (images, labels), rate)
    stepped = copy.deepcopy(model)
    F.cross_entropy(stepped(seen), labels).backward()
    torch.optim.SGD(stepped.parameters(), lr=rate).step()
    with torch.no_grad():
        expected = F.cross_entropy(stepped(images), labels)
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-5)


def test_the_pseudo_step_leaves_the_classifier_alone(problem):
    generator, model, scratch, images, labels = problem
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    untouched = {name: tensor.clone() for name, tensor in scratch.items()}
    seen = dc.perturb(generator, images, 0.3)
    loss = dc.loss_after_pseudo_step(model, scratch, (seen, labels), (images, labels), 0.1)
    loss.backward(inputs=list(generator.parameters()))
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert all(weight.grad is not None for weight in generator.parameters())
    assert not any(torch.equal(untouched[name], now) for name, now in scratch.items())


@pytest.mark.parametrize(("objective", "rises"), [("untargeted", True), ("next-class", False)])
def test_the_generator_climbs_or_descends(monkeypatch, objective, rises):
    """With a classifier that stands still, whatever changes the loss is the generator."""
    losses, judged, original = [], [], dc.loss_after_pseudo_step

    def remember(model, scratch, seen, clean, rate, precision):
        losses.append(original(model, scratch, seen, clean, rate, precision))
        judged.append(clean[1] - seen[1])
        return losses[-1]

    monkeypatch.setattr(dc, "loss_after_pseudo_step", remember)
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: None)
    changes = {"rounds": 1, "epochs_per_round": 15, "batch_size": 24, "generator_rate": 0.01}
    config = dc.Config(**(TINY | changes | {"objective": objective, "surrogate_rate": 1.0}))
    dc.craft(task_of(size=24), config)
    first, last = (
        sum(float(loss.detach()) for loss in part) / 3 for part in (losses[:3], losses[-3:])
    )
    assert (last > first + 0.05) if rises else (last < first - 0.05)
    assert set(torch.cat(judged).remainder(K).tolist()) == ({0} if rises else {1})


class Recorder:
    """What craft does, in order; networks and functions of the module are wrapped."""

    def __init__(self, monkeypatch):
        self.rounds, self.passes, self.scored = [], [], []
        perturb_one, everything = dc.perturb, dc._perturb_all
        build, pseudo = deep_confuse_networks.cnn, dc.loss_after_pseudo_step

        def perturb_all(generator, images, *rest):
            poisoned = everything(generator, images, *rest)
            self.rounds.append(
                {
                    "frozen": weights_of(generator),
                    "eval": not any(module.training for module in generator.modules()),
                    "poisoned": poisoned,
                    "copied": poisoned.clone(),
                    "students": [],
                    "classifiers": [],
                    "new": [],
                }
            )
            return poisoned

        def perturb(generator, images, epsilon, precision):
            if torch.is_grad_enabled():
                assert all(module.training for module in generator.modules())
                self.student = generator
                self.rounds[-1]["students"].append(weights_of(generator))
            return perturb_one(generator, images, epsilon, precision)

        def pseudo_step(model, *rest):
            self.rounds[-1]["classifiers"].append(weights_of(model))
            norms = [layer for layer in model if isinstance(layer, nn.BatchNorm2d)]
            self.rounds[-1]["new"].append(all((norm.weight == 1).all() for norm in norms))
            return pseudo(model, *rest)

        def cnn(*arguments):
            model = build(*arguments)
            model.register_forward_pre_hook(
                lambda module, given: (
                    self.passes.append((len(self.rounds), given[0].detach().clone()))
                    if module.training
                    else self.scored.append(given[0])
                )
            )
            return model

        monkeypatch.setattr(dc, "_perturb_all", perturb_all)
        monkeypatch.setattr(dc, "perturb", perturb)
        monkeypatch.setattr(dc, "loss_after_pseudo_step", pseudo_step)
        monkeypatch.setattr(deep_confuse_networks, "cnn", cnn)


def test_the_order_is_algorithm_2(monkeypatch):
    record, task = Recorder(monkeypatch), task_of()
    result = dc.craft(task, dc.Config(**TINY))
    # What is given back is made once more, by the best g.
    chosen = record.rounds.pop()
    assert len(record.rounds) == TINY["rounds"] + 1
    for previous, now in itertools.pairwise(record.rounds):
        # g is what g' has become, and not what it was.
        assert not torch.equal(previous["frozen"], now["frozen"])
        if now["students"]:
            assert torch.equal(now["frozen"], now["students"][0])
        # A new classifier each round.
        if now["classifiers"]:
            assert not torch.equal(previous["classifiers"][0], now["classifiers"][0])
    assert torch.equal(record.rounds[-1]["frozen"], weights_of(record.student))
    for each in record.rounds:
        assert each["eval"]
        assert torch.equal(each["poisoned"], each["copied"])
        for step in ("students", "classifiers"):
            assert not any(torch.equal(*pair) for pair in itertools.pairwise(each[step]))
    assert [len(each["students"]) for each in record.rounds] == [6, 6, 0]
    assert result is chosen["poisoned"]
    assert any(torch.equal(result, each["poisoned"]) for each in record.rounds[1:])
    assert all(torch.equal(seen, task.validation.images) for seen in record.scored)

    # Three passes a step: g' of the batch, the clean batch, and g's own for the real step.
    orders = set()
    for number in (1, 2):
        assert record.rounds[number - 1]["new"] == [True] + 5 * [False]
        passes = [images for index, images in record.passes if index == number]
        assert len(passes) == 3 * 6
        order = []
        for seen, clean, real in zip(passes[::3], passes[1::3], passes[2::3], strict=True):
            rows = [int((task.images == image).flatten(1).all(1).nonzero()) for image in clean]
            order += rows
            assert torch.equal(real, record.rounds[number - 1]["poisoned"][rows])
            assert not torch.equal(seen, real)
        epochs = order[:24], order[24:]
        assert all(len(set(epoch)) == 24 for epoch in epochs)
        orders |= {tuple(epoch) for epoch in epochs}
    assert len(orders) == 4
    assert len([1 for index, _ in record.passes if index == 3]) == 6


@pytest.mark.parametrize("objective", ["untargeted", "next-class"])
def test_the_best_trained_generator_is_taken(monkeypatch, objective):
    record, task = Recorder(monkeypatch), task_of()
    # The untrained generator would win; of the trained ones, the second of three.
    hits = iter([0, 3, 1, 2] if objective == "untargeted" else [4, 1, 3, 2])
    targets = (task.validation.labels + (objective == "next-class")) % K

    def scripted(model, images):
        assert images is task.validation.images
        share = next(hits)
        answers = torch.cat((targets[:share], (targets[share:] + 2) % K))
        return F.one_hot(answers, K).float()

    monkeypatch.setattr(dc, "logits_of", scripted)
    config = dc.Config(**(TINY | {"rounds": 3, "objective": objective}))
    assert torch.equal(dc.craft(task, config), record.rounds[2]["poisoned"])
    assert not torch.equal(record.rounds[1]["poisoned"], record.rounds[2]["poisoned"])


@pytest.mark.parametrize(
    ("shape", "networks"),
    [
        ((1, 28, 28), {"generator": "autoencoder", "surrogate": "cnn"}),
        ((1, 20, 24), {"generator": "autoencoder", "surrogate": "cnn"}),
        ((3, 17, 33), {"generator": "autoencoder", "surrogate": "cnn"}),
        ((3, 32, 32), {"generator": "unet", "surrogate": "vgg11"}),
        ((1, 20, 24), {"generator": "unet", "surrogate": "vgg11"}),
        ((3, 17, 33), {"generator": "unet", "surrogate": "cnn"}),
    ],
)
def test_any_size_gives_poisons_within_budget(shape, networks):
    task = task_of(shape, size=12)
    changes = {"rounds": 1, "generator_width": 1 / 16, "surrogate_width": 1 / 16}
    config = dc.Config(**(TINY | changes | networks))
    poisoned = dc.craft(task, config)
    again = dc.craft(task_of(shape, size=12), config)
    other = dc.craft(task_of(shape, size=12, seed=1), config)
    assert poisoned.shape == task.images.shape
    assert poisoned.dtype == torch.float32
    assert 0 <= float(poisoned.min()) <= float(poisoned.max()) <= 1
    assert 0.01 < float((poisoned - task.images).abs().max()) <= config.epsilon + 1e-6
    assert torch.equal(poisoned, again)
    assert not torch.equal(poisoned, other)


def test_the_networks_have_the_papers_size():
    def count(module):
        return sum(weight.numel() for weight in module.parameters())

    with torch.device("meta"):
        assert count(deep_confuse_networks.Autoencoder(1, 28, 28)) == 288_963
        assert count(deep_confuse_networks.UNet(3, 32, 32)) == 7_788_681
        assert count(deep_confuse_networks.cnn(1, 28, 28, 10)) == 432_240
        assert count(deep_confuse_networks.vgg11(3, 32, 32, 10)) == 9_225_984 + 1_026 + 30
        outputs = deep_confuse_networks.Autoencoder(1, 28, 28).layers(torch.zeros(2, 1, 28, 28))
    assert outputs.shape == (2, 1, 28, 28)


@pytest.mark.parametrize(
    ("change", "networks", "message"),
    [
        ({"num_classes": 1}, {}, "2 classes, got 26 and 1"),
        ({"images": torch.rand(1, *GREY)}, {}, "at least 2 images"),
        ({"images": torch.rand(26, 1, 15, 20)}, {}, "autoencoder: .* 16 x 16 .*15 x 20"),
        ({"images": torch.rand(26, 1, 15, 20)}, {"generator": "unet"}, "cnn: .* 16 x 16"),
        ({"images": torch.rand(26, 1, 7, 20)}, {"generator": "unet"}, "unet: .* 8 x 8"),
    ],
)
def test_what_it_cannot_attack(change, networks, message):
    task = dataclasses.replace(task_of(), **change)
    with pytest.raises(UsageError, match=f"dc: .*{message}"):
        dc.craft(task, dc.Config(**(TINY | networks)))


@pytest.mark.parametrize("flag", ["surrogate_rate", "generator_rate"])
def test_a_loss_that_diverges_names_the_setting(flag):
    config = dc.Config(**(TINY | {flag: 1e30}))
    with pytest.raises(DivergedError, match=f"dc: .* round .*--{flag.replace('_', '-')}"):
        dc.craft(task_of(), config)


def test_a_stop_comes_through():
    def stop(done, total):
        if done == 8:
            raise AbortedError("stop")

    with pytest.raises(AbortedError):
        dc.craft(task_of(report=stop), dc.Config(**TINY))


class Memory(AttackCheckpoint):
    """Keeps the state after a given number of saves as a file would, and stops there."""

    def __init__(self, generator, stop_at):
        self.generator, self.stop_at, self.state = generator, stop_at, None

    def load(self):
        if self.state is None:
            return None
        position, tensors, draws = self.state
        self.generator.set_state(draws)
        return json.loads(position), tensors

    def save_if_due(self, position, tensors):
        self.stop_at -= 1
        if self.stop_at == 0:
            copies = {
                name: tensor.detach().clone(memory_format=torch.contiguous_format)
                for name, tensor in tensors.items()
            }
            self.state = json.dumps(position), copies, self.generator.get_state()
            raise InterruptedRunError("stop")


@pytest.mark.parametrize(("objective", "stride"), [("untargeted", 1), ("next-class", 5)])
def test_stopped_after_any_step_it_continues_to_the_same_bytes(objective, stride):
    """In each round and epoch, at their ends, in the last round; and with nothing left behind."""
    config = dc.Config(**(TINY | {"objective": objective}))
    whole = dc.craft(task_of(), config)
    for stop_at in range(1, 19, stride):
        first = task_of()
        memory = Memory(first.generator, stop_at)
        with pytest.raises(InterruptedRunError):
            dc.craft(dataclasses.replace(first, checkpoint=memory), config)
        steps = []
        second = task_of(seed=5, report=lambda done, total, steps=steps: steps.append(done))
        memory.generator = second.generator
        result = dc.craft(dataclasses.replace(second, checkpoint=memory), config)
        assert torch.equal(result, whole), f"stopped after step {stop_at}"
        assert steps == list(range(stop_at + 1, 19))
        assert torch.equal(second.generator.get_state(), end_of(config))


@functools.cache
def end_of(config):
    """Where the task's generator stands when nothing disturbed the attack."""
    task = task_of()
    dc.craft(task, config)
    return task.generator.get_state()
