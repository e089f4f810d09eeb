"""Export and back by import, kept models that plain torch loads, and the guide to it all."""

import csv
import importlib.util
import io
import json
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from safetensors.torch import save_file as keep
from torchvision.datasets import ImageFolder

from helpers.command_line import done, make_data, refused
from helpers.handed_on import (
    ATTACKS,
    bytes_of,
    exported,
    poisons,
    records,
    rezip,
)
from poisonbench.core.canonical import spec_id
from poisonbench.core.seeds import Seeds
from poisonbench.data import exchange
from poisonbench.data.artefacts import read_poison
from poisonbench.data.exchange import COLUMNS
from poisonbench.data.sources import load_dataset
from poisonbench.models import build_model
from poisonbench.results.records import Bits
from poisonbench.specs import seal_of

FORMS = ("npz", "imagefolder", "croissant")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_exported_is_imported_as_the_same_artefact(place, tmp_path, attack, form):
    path = exported(place, attack, form, tmp_path)
    line = ("import", path, "--format", form, "--results", tmp_path / "other", "--json")
    summary = done(*line).json
    original = poisons(place[0])[attack]
    assert summary["id"] == original.name
    assert bytes_of(Path(summary["path"])) == bytes_of(original)
    assert not done(*line).json["is_new"]


@pytest.mark.parametrize("form", FORMS)
def test_an_export_has_the_same_bytes_each_time(place, tmp_path, form):
    first = exported(place, "badnets", form, tmp_path / "a")
    second = exported(place, "badnets", form, tmp_path / "b")
    assert bytes_of(first.parent) == bytes_of(second.parent)


def test_arrays_hold_what_a_victim_trains_on(place, tmp_path):
    results, data = place
    poison, dataset = read_poison(poisons(results)["badnets"]), load_dataset(data, results, 0)
    with np.load(exported(place, "badnets", "npz", tmp_path), allow_pickle=False) as arrays:
        train = poison.apply(dataset.train)
        rows = torch.from_numpy(arrays["rows"])
        assert np.array_equal(arrays["images"], train.images[rows].permute(0, 2, 3, 1).numpy())
        assert np.array_equal(arrays["labels"], train.labels[rows].numpy())
        assert (arrays["labels"] == 0).all()
        assert json.loads(str(arrays["card"]))["digest"] == poison.digest


def test_a_folder_of_images_is_one_to_torchvision(place, tmp_path):
    results, data = place
    folder = exported(place, "durp", "imagefolder", tmp_path)
    pictures = ImageFolder(folder / "images")
    poison, dataset = read_poison(poisons(results)["durp"]), load_dataset(data, results, 0)
    assert len(pictures) == len(poison)
    by_row = {int(Path(path).stem): label for path, label in pictures.samples}
    assert [by_row[row] for row in poison.indices.tolist()] == dataset.train.labels.tolist()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_croissants_own_library_accepts_and_reads_it(place, tmp_path):
    croissant = pytest.importorskip("mlcroissant")
    folder = exported(place, "badnets", "croissant", tmp_path)
    description = croissant.Dataset(jsonld=folder / "croissant.json")
    assert not description.metadata.issues.errors
    lines = list(description.records("poisons"))
    poison = read_poison(poisons(place[0])["badnets"])
    lines.sort(key=lambda line: int(line["poisons/row"]))
    assert [int(line["poisons/row"]) for line in lines] == poison.indices.tolist()
    assert all(int(line["poisons/label"]) == 0 for line in lines)
    for line, image in zip(lines, poison.images, strict=True):
        picture = line["poisons/image"]
        assert np.array_equal(np.asarray(picture.convert("L")), image[0].numpy())


def damage_pixel(folder):
    path = sorted((folder / "images").rglob("*.png"))[0]
    pixels = np.array(Image.open(path))
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(path)


def damage_line(column, value):
    def change(folder):
        path = folder / "metadata.csv"
        lines = list(csv.DictReader(io.StringIO(path.read_text())))
        lines[0][column] = value
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, lines[0].keys())
            writer.writeheader()
            writer.writerows(lines)

    return change


def damage_table(change):
    """Change the table's text."""

    def damage(folder):
        path = folder / "metadata.csv"
        path.write_bytes(change(path.read_bytes()))

    return damage


def drop_column(column):
    def change(table):
        lines = [line.split(b",") for line in table.splitlines()]
        at = lines[0].index(column)
        return b"\n".join(b",".join([*line[:at], *line[at + 1 :]]) for line in lines)

    return damage_table(change)


def damage_card(folder):
    path = folder / "card.json"
    path.write_text(path.read_text().replace('"num_poisons": ', '"num_poisons": 1'))


def replace_by_link(folder):
    path = sorted((folder / "images").rglob("*.png"))[0]
    path.unlink()
    path.symlink_to("/etc/passwd")


def blow_up(folder):
    path = sorted((folder / "images").rglob("*.png"))[0]
    Image.new("L", (5000, 5000)).save(path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (damage_pixel, "expected tensors with digest"),
        (damage_line("label", "3"), "expected the labels of the data set's own images"),
        (damage_line("row", "1"), "expected strictly increasing indices"),
        (damage_line("row", "one"), "got row 'one' and label"),
        (damage_line("source", "pgd"), "expected sources among"),
        (damage_line("file_name", "../../secret.png"), "which leads out"),
        (damage_line("file_name", "/etc/passwd"), "which leads out"),
        (damage_card, "expected the card that was sealed"),
        (replace_by_link, "which leads out"),
        (blow_up, "of 16 x 16 in mode L"),
        (lambda folder: (folder / "metadata.csv").unlink(), "expected the file metadata.csv"),
        (lambda folder: (folder / "card.json").write_text("["), "expected a poison in form"),
        *((drop_column(name.encode()), f"lines with {', '.join(COLUMNS)}") for name in COLUMNS),
        (damage_table(lambda table: b""), "lines with file_name, row"),
        (damage_table(lambda table: table[:200]), "lines with file_name, row"),
        (damage_table(lambda table: table + b"only.png,3\n"), "lines with file_name, row"),
        (damage_table(lambda table: _line_two(table, 2)), "in line 2 of metadata.csv, got 2"),
        (damage_table(lambda table: _line_two(table, 9)), "in line 2 of metadata.csv, got 9"),
        (damage_table(lambda table: table.replace(b"durp", b"d\xffrp", 1)), "can't decode byte"),
        (damage_table(lambda table: table + b"\0" * 9), "lines with file_name, row"),
        (damage_line("file_name", "images/none.png"), "expected the file images/none.png"),
        (damage_line("file_name", "a\0b"), "expected a poison in form imagefolder"),
        (damage_line("file_name", "x" * 300), "expected a poison in form imagefolder"),
        (damage_line("label", ""), "got row '0' and label '' in line 2 of metadata.csv"),
        (damage_line("row", str(2**63)), f"got row '{2**63}'"),
        (damage_line("class", "x" * 200_000), "field larger than field limit"),
    ],
)
def test_an_edited_or_hostile_folder_is_refused(place, tmp_path, change, text):
    folder = exported(place, "durp", "imagefolder", tmp_path)
    change(folder)
    got = refused(65, tmp_path / "other", "import", folder, "--format", "imagefolder")
    assert text in got, got
    assert "anew" in got


def _line_two(table, fields):
    """The table with so many fields in its second line."""
    head, first, *rest = table.split(b"\n")
    parts = [*first.split(b","), *[b"more"] * fields][:fields]
    return b"\n".join([head, b",".join(parts), *rest])


def array_of(value):
    stream = io.BytesIO()
    np.save(stream, value, allow_pickle=True)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("images.npy", array_of(np.zeros((10**5, 10**3), np.uint8)), "expected images of shape"),
        ("labels.npy", array_of(np.array([{}], dtype=object)), "expected labels of shape"),
        ("card.npy", array_of(np.array([print], dtype=object)), "expected card of shape"),
        ("../evil.npy", b"", "expected at most 5 files"),
        ("rows.npy", None, "got '../rows.npy'"),
        ("rows.npy", b"", "expected a poison in form npz"),
        ("rows.npy", b"\x93NUMPY\x01\x00\x88\x13" + b"-" * 5000, "expected a poison in form npz"),
        ("rows.npy", b"\x93NUMPY\x01\x00\x02\x00([", "expected a poison in form npz"),
        ("card.npy", array_of(np.array("\ud800")), "expected a poison in form npz"),
    ],
)
def test_hostile_arrays_are_refused_before_they_are_made(place, tmp_path, name, data, text):
    path = exported(place, "durp", "npz", tmp_path)

    def change(files):
        if data is None:
            files[f"../{name}"] = files.pop(name)
        else:
            files[name] = data

    rezip(path, change)
    assert text in refused(65, tmp_path / "other", "import", path, "--format", "npz")


def edit_card_of(path, change):
    """Change the card in an .npz file and seal it anew."""
    with np.load(path) as arrays:
        card = json.loads(str(arrays["card"]))
    change(card)
    card["seal"] = seal_of(card)
    rezip(path, lambda files: files.__setitem__("card.npy", array_of(np.array(json.dumps(card)))))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"image_shape": [1, 10**4, 10**4]}, "expected images of shape (1, 16, 16)"),
        ({"train_size": 10**9}, "and 144 training images"),
        ({"train_size": 1}, "expected no more poisons than the 1 training images"),
    ],
)
def test_a_card_asks_for_no_more_than_its_data_set_has(place, tmp_path, monkeypatch, fields, text):
    path = exported(place, "durp", "npz", tmp_path)
    edit_card_of(path, lambda card: card["dataset"].update(fields))
    monkeypatch.setattr(exchange._Arrays, "tensors", pytest.fail)
    assert text in refused(65, tmp_path / "other", "import", path, "--format", "npz")


def test_options_that_the_card_settles_are_refused_and_wrong_forms_named(place, tmp_path):
    results, _ = place
    path, other = exported(place, "durp", "npz", tmp_path), tmp_path / "other"
    line = ("import", path, "--format", "npz")
    assert "--epsilon: expected it with a published set" in refused(
        2, other, *line, "--epsilon", "8/255"
    )
    assert "expected a folder, found none" in refused(
        65, other, "import", path, "--format", "croissant"
    )
    poison, run = poisons(results)["durp"], records(results)["clean"]
    out = ("--output", tmp_path / "out")
    assert "for a poison, got torch" in refused(2, results, "export", poison, "--to", "torch", *out)
    assert "for a run, got npz" in refused(2, results, "export", run.id, "--to", "npz", *out)
    unsaved = refused(65, results, "export", run.id, "--to", "torch", *out)
    assert "got none, as it was run without --save-model" in unsaved
    assert f"--save-model --results {results}" in unsaved
    exists = refused(2, results, "export", poison, "--to", "npz", "--output", path)
    assert "which exists" in exists
    assert not (tmp_path / "out").exists()


def loaded(folder, monkeypatch):
    """The network of a folder, by its own file; nothing of ours is imported by it."""
    assert "import poisonbench" not in (folder / "network.py").read_text()
    assert "from poisonbench" not in (folder / "network.py").read_text()
    spec = importlib.util.spec_from_file_location("exported_network", folder / "network.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "exported_network", module)
    spec.loader.exec_module(module)
    return module.load_network()


@pytest.mark.parametrize("form", ["torch", "safetensors"])
def test_a_kept_model_loads_in_plain_torch(place, tmp_path, monkeypatch, form):
    results, data = place
    run, folder = records(results)["badnets"], tmp_path / "model"
    line = ("export", run.id, "--to", form, "--output", folder, "--results", results)
    done(*line)
    assert {"README.md", "network.py", "record.json"} < {path.name for path in folder.iterdir()}
    assert run.id in (folder / "README.md").read_text()
    network = loaded(folder, monkeypatch)
    dataset = load_dataset(data, results, 0)
    images = dataset.test.images.float() / 255
    right = network(images).argmax(1) == dataset.test.labels
    assert Bits.pack(right.tolist()) == run.outcomes.test


@pytest.mark.parametrize("network", ["cifar-small", "torchvision:resnet18", "timm:resnet10t"])
def test_every_networks_source_can_be_handed_on(place, tmp_path, monkeypatch, network):
    """Of weights that were never trained: the file must build the network that they are of."""
    results, data = tmp_path / "results", place[1]
    line = ("defend", "--method", "none", "--dataset", data, "--results", results, "--clean")
    run = done(*line, "--epochs", "1", "--model", "mnist-cnn-small", "--save-model", "--json").json
    dataset = load_dataset(data, results, 0)
    model = build_model(
        network, dataset.image_shape, 4, dataset.mean, dataset.std, Seeds().generator("any")
    )
    model.eval()
    keep(model.state_dict(), results / "models" / f"{run['id']}.safetensors")

    def rename(fields):
        fields["spec"]["model"] = network

    path = Path(run["path"])
    fields = json.loads(path.read_text())
    rename(fields)
    old, fields["id"] = fields["id"], spec_id(fields["spec"])
    fields["seal"] = seal_of(fields)
    path.with_name(f"{fields['id']}.json").write_text(json.dumps(fields))
    weights = results / "models"
    (weights / f"{old}.safetensors").rename(weights / f"{fields['id']}.safetensors")
    folder = tmp_path / "model"
    done(*("export", fields["id"], "--to", "safetensors", "--output", folder, "--results", results))
    images = dataset.test.images[:4].float() / 255
    with torch.no_grad():
        assert torch.equal(loaded(folder, monkeypatch)(images), model(images))
    assert load_file(folder / "weights.safetensors").keys() == model.state_dict().keys()


# The guide

GUIDE = Path(__file__).parents[2] / "docs" / "hand-on.md"


def test_the_guides_commands_run_in_its_order(tmp_path, monkeypatch):
    make_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POISONBENCH_RESULTS", raising=False)
    Path("tiny.npz").rename("mydata.npz")
    lines = [line[4:] for line in GUIDE.read_text().splitlines() if line.startswith("    ")]
    commands = [shlex.split(line) for line in lines if line.startswith(("poisonbench", "mk", "mv"))]
    assert {command[1] for command in commands} > {"verify", "export", "import", "submit", "page"}
    for program, *words in commands:
        if program == "mkdir":
            Path(words[0]).mkdir()
        elif program == "mv":
            shutil.move(*words)
        else:
            ids = {
                "RUN": next((one.stem for one in Path("results/runs").glob("*.json")), ""),
                "POISON": next((one.name for one in Path("results/poisons").glob("*")), ""),
            }
            done(*(ids.get(word, word) for word in words))
    spec = importlib.util.spec_from_file_location("network", "network/network.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.load_network()(torch.rand(2, 1, 16, 16)).shape == (2, 4)
