"""Published poisons as plain tensor files: what is read, and what is refused without being run."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from helpers.command_line import done, refused
from helpers.data_files import arrays
from poisonbench.attacks.shared.deep_confuse_networks import Autoencoder, UNet
from poisonbench.data.artefacts import read_poison
from poisonbench.data.sources import load_dataset
from poisonbench.models.classifier import initialise


@pytest.fixture(scope="module", params=[(10, 10, 3), (16, 16)], ids=["colour", "grey"])
def data(request, tmp_path_factory):
    """A data set's name, its training images (N, H, W, C) and labels, and itself."""
    content = arrays(request.param, train=120, test=20, classes=4)
    path = tmp_path_factory.mktemp("data") / "a.npz"
    np.savez(path, **content)
    name = f"npz:{path}"
    images = content["x_train"].reshape(120, *request.param[:2], -1)
    return name, images, content["y_train"], load_dataset(name, Path("."), 0)


def mixed(data, share=0.5, budget=8, seed=0):
    """All training images in another order, a share of them poisoned, (N, C, H, W) in [0, 1]."""
    _, images, labels, _ = data
    random = np.random.default_rng(seed)
    order = random.permutation(len(images))
    poisoned = order[: round(share * len(images))]
    changed = images.astype(int)
    delta = random.choice([-budget, budget], images[poisoned].shape)
    changed[poisoned] = np.clip(changed[poisoned] + delta, 0, 255)
    pixels = torch.from_numpy(changed[order]).permute(0, 3, 1, 2).float() / 255
    return pixels, torch.from_numpy(labels[order]), changed, poisoned


def import_line(path, data, form="tensors"):
    return ("import", path, "--format", form, "--dataset", data[0])


def imported(path, data, results, *words):
    outcome = done(*import_line(path, data), "--results", results, *words)
    return read_poison(Path(outcome.out.strip()), data[3]), outcome.err


def assert_holds(poison, data, changed, poisoned):
    rows = {int(own): row for row, own in enumerate(data[3].train_rows)}
    expected = {rows[own]: changed[own] for own in poisoned.tolist() if own in rows}
    assert poison.indices.tolist() == sorted(expected)
    for row, image in zip(poison.indices.tolist(), poison.images, strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), expected[row])


FORMS = {
    "dict": lambda x, y: {"poisoned_images": x, "poison_targets": y},
    "tuple": lambda x, y: (x, y),
    "list": lambda x, y: [x, y.int()],
    "TensorDataset": TensorDataset,
    "grey levels": lambda x, y: (torch.floor(255 * x + 0.5).to(torch.uint8), y),
    "channels last": lambda x, y: (x.permute(0, 2, 3, 1).contiguous(), y),
    "no channels": lambda x, y: (x[:, 0] if x.shape[1] == 1 else x, y),
    "with more": lambda x, y: {"x": x, "y": y, "epsilon": 8 / 255, "name": "mix"},
}


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "old"])
@pytest.mark.parametrize("form", list(FORMS))
def test_the_poisons_among_the_images_are_found(form, is_zip, data, tmp_path, results):
    images, labels, changed, poisoned = mixed(data)
    path = tmp_path / "mix.pt"
    torch.save(FORMS[form](images, labels), path, _use_new_zipfile_serialization=is_zip)
    poison, remarks = imported(path, data, results)
    assert_holds(poison, data, changed, poisoned)
    assert f"left out {len(poisoned) - len(poison)} of {len(poisoned)}" in remarks
    assert poison.card.levels == 8
    assert poison.goal is None
    assert poison.card.attacks == ["tensors"]


def test_a_whole_pool_with_a_large_budget(data, tmp_path, results):
    images, labels, changed, poisoned = mixed(data, share=1, budget=76)
    torch.save((images, labels), tmp_path / "pool.pt")
    words = ("--attack", "durp", "--epsilon", "76/255")
    poison, _ = imported(tmp_path / "pool.pt", data, results, *words)
    assert_holds(poison, data, changed, poisoned)
    assert len(poison) == len(data[3].train)
    assert poison.card.attacks == ["durp"]
    words = ("--method", "none", "--epochs", "1", "--poison", poison.path, "--dataset", data[0])
    if data[3].image_shape[0] == 1:
        assert done("defend", *words, "--results", results, "--json").json["id"]


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (lambda x, y: x, "one tensor of images"),
        (lambda x, y: (x, y[:-1]), "as many whole-number labels"),
        (lambda x, y: (x, y.float()), "as many whole-number labels"),
        (lambda x, y: (x, x, y), "one tensor of images"),
        (lambda x, y: {"a": [x, y]}, "got no tensors"),
        (lambda x, y: (x[:, :, :5], y), "expected images of shape"),
        (lambda x, y: (255 * x, y), "floats in [0, 1]"),
        (lambda x, y: (x + float("nan"), y), "floats in [0, 1]"),
        (lambda x, y: (x.double() - 1, y), "floats in [0, 1]"),
        (lambda x, y: (x.clamp(0.4, 0.6), y), "base images among the training"),
        (lambda x, y: (x, y + 7), "base images among the training"),
    ],
)
def test_something_else_is_refused(change, fragment, data, tmp_path, results):
    images, labels, _, _ = mixed(data)
    torch.save(change(images, labels), tmp_path / "mix.pt")
    assert fragment in refused(65, results, *import_line(tmp_path / "mix.pt", data))


def test_clean_images_alone_are_no_poison(data, tmp_path, results):
    images, labels, _, _ = mixed(data, share=0)
    torch.save((images, labels), tmp_path / "mix.pt")
    assert "that are all" in refused(65, results, *import_line(tmp_path / "mix.pt", data))


def test_a_scenario_is_of_targeted_sets(data, tmp_path, results):
    (tmp_path / "mix.pt").write_bytes(b"")
    line = (*import_line(tmp_path / "mix.pt", data), "--scenario", "transfer")
    assert "--scenario: expected scratch" in refused(2, results, *line)


class Calls:
    """Pickled as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def archive(pickled, compression=zipfile.ZIP_STORED):
    """A file of ``torch.save`` with another pickle in it."""
    stream, other = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.zeros(2)}, stream)
    with zipfile.ZipFile(stream) as before, zipfile.ZipFile(other, "w", compression) as after:
        for record in before.infolist():
            data = before.read(record)
            after.writestr(
                record.filename, pickled(data) if "data.pkl" in record.filename else data
            )
    return other.getvalue()


def damaged(trap):
    """By name, files that must be refused."""
    command = f"touch {trap}"
    call = pickle.dumps(Calls(os.system, command), protocol=2)
    module = io.BytesIO()
    torch.save(torch.nn.Linear(1, 1), module)
    return {
        "a call": archive(lambda data: call),
        "a bare pickle that calls": call,
        "a module": module.getvalue(),
        "far memo": archive(lambda data: b"\x80\x02K\x01r\xff\xff\xff\x7f."),
        "compressed": archive(lambda data: data, zipfile.ZIP_DEFLATED),
        "cut short": archive(lambda data: data)[:-100],
        "another zip": archive(lambda data: b"x"),
        "empty": b"",
    }


@pytest.mark.parametrize("name", list(damaged(Path("x"))))
@pytest.mark.parametrize("form", ["tensors", "dc-generator"])
def test_what_is_not_tensors_alone_is_refused_and_not_run(name, form, data, tmp_path, results):
    trap, path = tmp_path / "trap", tmp_path / "mix.pt"
    path.write_bytes(damaged(trap)[name])
    assert str(path) in refused(65, results, *import_line(path, data, form))
    assert not trap.exists()


# DeepConfuse's generators


def authors_names(network):
    """A state dict of ours under the names of the authors' code."""
    names = {f"down.{level}": f"dconv_down{level + 1}" for level in range(4)}
    names |= {f"up.{level}": f"dconv_up{3 - level}" for level in range(3)}
    names |= {"last": "conv_last.0", "norm": "conv_last.1"}
    if isinstance(network, Autoencoder):
        names = {f"layers.{layer}": f"encoder.{layer}" for layer in range(8)}
        names |= {f"layers.{layer}": f"decoder.{layer - 8}" for layer in range(8, 15)}
        names["norm"] = "decoder.7"
    weights = {}
    for name, value in network.state_dict().items():
        (own,) = (own for own in names if name.startswith(f"{own}."))
        weights[names[own] + name.removeprefix(own)] = value
    return weights


@pytest.fixture(scope="module")
def sixteen(tmp_path_factory):
    """A data set large enough for both generators."""
    path = tmp_path_factory.mktemp("data") / "a.npz"
    np.savez(path, **arrays((16, 16, 3), train=40, test=8, classes=2))
    return f"npz:{path}", load_dataset(f"npz:{path}", Path("."), 0)


def generator_of(kind):
    network = kind(3, 16, 16)
    initialise(network, torch.Generator().manual_seed(0))
    with torch.no_grad():
        network(torch.rand(8, 3, 16, 16))
    return network.eval()


@pytest.mark.parametrize("kind", [UNet, Autoencoder])
@pytest.mark.parametrize("writer", ["new", "old", "several GPUs"])
def test_a_released_generator_perturbs_every_image(kind, writer, sixteen, tmp_path, results):
    name, dataset = sixteen
    network = generator_of(kind)
    weights = authors_names(network)
    if writer == "old":
        weights = {n: value for n, value in weights.items() if "num_batches" not in n}
    if writer == "several GPUs":
        weights = {f"module.{n}": value for n, value in weights.items()}
    path = tmp_path / "atk.pth"
    torch.save(weights, path, _use_new_zipfile_serialization=writer != "old")
    line = ("import", path, "--format", "dc-generator", "--dataset", name, "--results", results)
    poison = read_poison(Path(done(*line).out.strip()), dataset)
    assert poison.card.attacks == ["dc"]
    assert poison.card.levels == 8
    assert len(poison) == len(dataset.train)
    images = dataset.train.images.float() / 255
    with torch.no_grad():
        exact = (images + 8 / 255 * network(images)).clamp(0, 1)
    assert float((poison.images.float() - 255 * exact).abs().max()) <= 0.51
    assert "made before" in done(*line).err
    other = read_poison(Path(done(*line, "--epsilon", "4/255").out.strip()), dataset)
    assert other.card.levels == 4


@pytest.mark.parametrize("change", ["shape", "name", "missing", "no dict"])
def test_other_weights_are_refused(change, sixteen, tmp_path, results):
    weights = authors_names(generator_of(UNet))
    if change == "shape":
        weights["conv_last.0.weight"] = torch.zeros(1, 64, 1, 1)
    elif change == "name":
        weights["more.weight"] = torch.zeros(1)
    elif change == "missing":
        del weights["dconv_up1.0.weight"]
    path = tmp_path / "atk.pth"
    torch.save(list(weights.values()) if change == "no dict" else weights, path)
    line = ("import", path, "--format", "dc-generator", "--dataset", sixteen[0])
    fragment = "expected a state dict" if change == "no dict" else "DeepConfuse's U-Net"
    assert fragment in refused(65, results, *line)
