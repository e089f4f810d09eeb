"""Commands that hand results on: verify, export and back by import, submit, and a leaderboard."""

import csv
import importlib.util
import io
import json
import shlex
import shutil
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from safetensors.torch import save_file as keep
from torchvision.datasets import ImageFolder

from helpers.command_line import cli, done, files_in, last_line, make_data, refused
from poisonbench.cli.verify import drawn
from poisonbench.core.canonical import spec_id
from poisonbench.core.seeds import Seeds
from poisonbench.data.artefacts import read_poison
from poisonbench.data.sources import load_dataset
from poisonbench.models import build_model
from poisonbench.results.records import Bits, read_record
from poisonbench.results.submissions import records_at
from poisonbench.specs import seal_of

FORMS = ("npz", "imagefolder", "croissant")
#: An attack of each norm, a mix, one with a trigger and changed labels, and a targeted one.
ATTACKS = ("durp", "lsp", "ops", "cuda", "durp+ops", "badnets", "noise")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A results folder with a poison of each kind and two runs, and the data set's name."""
    folder = tmp_path_factory.mktemp("hand-on")
    data, results = make_data(folder), folder / "results"
    for attack in ATTACKS:
        rho = ("--rho", "0.2") if attack == "durp+ops" else ()
        words = ("--target", "3", "--rho", "0.02") if attack == "noise" else rho
        done("craft", "--attack", attack, "--dataset", data, "--results", results, *words)
    line = ("defend", "--method", "none", "--dataset", data, "--results", results, "--epochs", "2")
    done(*line, "--attack", "badnets", "--rho", "0.1", "--save-model")
    done(*line, "--clean")
    return results, data


@pytest.fixture
def results(place, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(place[0], tmp_path / "results")
    return tmp_path / "results"


def poisons(results):
    return {"+".join(read_poison(p).card.attacks): p for p in (results / "poisons").iterdir()}


def records(results):
    paths = (results / "runs").glob("*.json")
    return {"clean" if (r := read_record(p)).spec.poison is None else "badnets": r for p in paths}


def exported(place, attack, form, folder):
    path = folder / (f"{attack}.npz" if form == "npz" else attack)
    done("export", poisons(place[0])[attack], "--to", form, "--output", path, "--quiet")
    return path


def bytes_of(folder):
    return {str(name): (folder / name).read_bytes() for name in files_in(folder)}


def edit_record(path, change):
    """Change a record's figures and seal it anew, as somebody who knows how would."""
    fields = json.loads(path.read_text())
    change(fields)
    fields["seal"] = seal_of(fields)
    path.write_text(json.dumps(fields))


def rezip(path, change):
    """The archive with its files changed by a function of a dict."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


# Export and import


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
        (damage_line("row", "one"), "expected a poison in form imagefolder"),
        (damage_line("source", "pgd"), "expected sources among"),
        (damage_line("file_name", "../../secret.png"), "which leads out"),
        (damage_line("file_name", "/etc/passwd"), "which leads out"),
        (damage_card, "expected the card that was sealed"),
        (replace_by_link, "which leads out"),
        (blow_up, "of 16 x 16 in mode L"),
        (lambda folder: (folder / "metadata.csv").unlink(), "expected the file metadata.csv"),
        (lambda folder: (folder / "card.json").write_text("["), "expected a poison in form"),
    ],
)
def test_an_edited_or_hostile_folder_is_refused(place, tmp_path, change, text):
    folder = exported(place, "durp", "imagefolder", tmp_path)
    change(folder)
    got = refused(65, tmp_path / "other", "import", folder, "--format", "imagefolder")
    assert text in got, got
    assert "anew" in got


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
    assert "got none, as it was run without --save-model" in refused(
        65, results, "export", run.id, "--to", "torch", *out
    )
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


# Verify


def verified(tmp_path, *words):
    return cli("verify", *words, "--scratch", tmp_path / "scratch", "--json")


def test_a_run_is_repeated_to_the_last_digit_and_the_folder_left_alone(results, tmp_path):
    before = bytes_of(results)
    outcome = verified(tmp_path, results)
    assert outcome.code == 0, outcome.err
    assert "2 run(s), which took" in outcome.err
    assert "1 poison(s) are crafted again first" in outcome.err
    runs = outcome.json["runs"]
    assert [run["state"] for run in runs] == ["same", "same"]
    assert {run["repeated_id"] for run in runs} == {run.id for run in records(results).values()}
    assert all(run["figures"] == [] and run["causes"] == [] for run in runs)
    assert bytes_of(results) == before
    again = verified(tmp_path, results)
    assert again.json["runs"] == runs
    assert "training" not in again.err


def flip(fields):
    bits = Bits(**fields["outcomes"]["test"])
    values = bits.unpack()
    values[values.nonzero()[0][:2]] = False
    fields["outcomes"]["test"]["bits"] = Bits.pack(values.tolist()).bits
    fields["metrics"]["test_accuracy"] = float(values.mean())


def test_a_figure_that_was_made_up_is_found_and_its_surroundings_named(results, tmp_path):
    run = records(results)["clean"]

    def change(fields):
        flip(fields)
        fields["environment"] |= {"torch": "1.0", "processor": "Another", "precision": "float8"}

    edit_record(run.path, change)
    outcome = verified(tmp_path, run.id[:6], "--results", results)
    assert outcome.code == 3, outcome.err
    (one,) = outcome.json["runs"]
    assert one["state"] == "differs"
    assert one["test_images_otherwise"] == 2
    assert {"metrics.test_accuracy", "outcomes.test.bits"} == {f["field"] for f in one["figures"]}
    assert [c["cause"] for c in one["causes"]] == ["precision", "libraries", "hardware"]
    assert one["causes"][1]["fields"][0]["recorded"] == "1.0"
    assert verified(tmp_path, run.path, "--within", "2").code == 0
    assert verified(tmp_path, run.path, "--within", "1").code == 3
    text = cli("verify", run.path, "--scratch", tmp_path / "scratch").out
    assert "differs within 2 of 40 test images, test accuracy" in text
    assert "likely causes: precision: precision float8 -> " in text
    assert "0 same, 1 differ, 0 not repeated, 0 refused" in text


def test_weights_that_were_kept_are_compared(results, tmp_path):
    run = records(results)["badnets"]
    path = results / "models" / f"{run.id}.safetensors"
    weights = load_file(path)
    weights["head.bias"] += 1e-3
    keep(weights, path)
    outcome = verified(tmp_path, run.id, "--results", results)
    assert outcome.code == 3
    assert [one["field"] for one in outcome.json["runs"][0]["figures"]] == ["weights"]


def test_a_poison_is_crafted_again_or_taken_as_it_is_kept(results, tmp_path):
    run = records(results)["badnets"]
    line = (run.id, "--results", results, "--poison", "kept")
    outcome = verified(tmp_path, *line)
    assert outcome.code == 0, outcome.err
    assert "crafting" not in outcome.err
    shutil.rmtree(results / "poisons")
    shutil.rmtree(tmp_path / "scratch")
    outcome = verified(tmp_path, *line)
    assert outcome.code == 4
    (one,) = outcome.json["runs"]
    assert one["state"] == "not_repeated"
    assert "--poison kept: expected poison" in one["reason"]


def test_a_given_poison_is_found_by_its_digest_or_said_to_be_lacking(results, tmp_path, place):
    poison = poisons(results)["durp+ops"]
    line = ("defend", "--method", "none", "--dataset", place[1], "--results", results)
    run = done(*line, "--epochs", "1", "--poison", poison, "--json").json
    assert verified(tmp_path, run["id"], "--results", results).code == 0
    shutil.rmtree(poison)
    outcome = verified(tmp_path / "b", run["id"], "--results", results)
    assert outcome.code == 4
    reason = outcome.json["runs"][0]["reason"]
    assert "a given mix of durp, ops and cannot be made again from the record" in reason


def test_other_data_under_the_same_name_is_no_difference_of_the_run(results, tmp_path, place):
    run = records(results)["clean"]
    path = Path(place[1].partition(":")[2])
    original = path.read_bytes()
    with np.load(path) as arrays:
        changed = {name: array.copy() for name, array in arrays.items()}
    changed["x_test"][0] ^= 1
    try:
        np.savez(path, **changed)
        outcome = verified(tmp_path, run.path)
    finally:
        path.write_bytes(original)
    assert outcome.code == 4
    assert "these are other images or splits" in outcome.json["runs"][0]["reason"]


def test_a_sample_is_drawn_by_the_seed_and_grows(results, tmp_path):
    many = [SimpleNamespace(id=f"{number:016x}") for number in range(40)]
    small, large = (drawn(many, size, 0) for size in (5, 9))
    assert len(small) == 5
    assert all(one in large for one in small)
    assert large == sorted(large, key=lambda one: one.id)
    assert drawn(many, 5, 0) == small != drawn(many, 5, 1)
    assert drawn(many, 99, 0) == drawn(many, None, 0) == many
    assert len(verified(tmp_path, results, "--sample", "1").json["runs"]) == 1


def test_bad_lines_and_edited_records_are_named(results, tmp_path):
    run = records(results)["clean"]
    assert "--scratch: expected another folder" in refused(
        2, results, "verify", "--scratch", results
    )
    nothing = last_line(65, results, "verify", "ffff", "--scratch", tmp_path / "s")
    assert "which 0 runs have" in nothing
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "expected run records, got none" in refused(
        2, empty, "verify", empty, "--scratch", tmp_path / "s"
    )
    text = run.path.read_text()
    run.path.write_text(text.replace('"trial": 0', '"trial": 1'))
    outcome = verified(tmp_path, results)
    assert outcome.code == 65
    assert run.path.name in outcome.json["refused"][0]
    assert [one["state"] for one in outcome.json["runs"]] == ["same"]


# Submissions


def submitted(results, path, name="Ada", *more):
    done("submit", results, "--name", name, "--output", path, *more)
    return path


def test_a_submission_has_the_same_bytes_and_shows_what_the_folder_does(results, tmp_path):
    first = submitted(results, tmp_path / "a.submission.zip")
    second = submitted(results, tmp_path / "b.submission.zip")
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        names = archive.namelist()
        for run in records(results).values():
            assert archive.read(f"runs/{run.id}.json") == run.path.read_bytes()
        assert len(names) == 1 + len(records(results)) + len(poisons(results))
    for words in (("--runs",), ("--summary",), ("--table", "matrix")):
        of_folder = done("report", *words, "--results", results).out
        assert done("report", *words, "--results", first).out == of_folder
    assert verified(tmp_path, first).code == 0


def test_a_leaderboard_shows_who_submitted_what(results, tmp_path):
    board = tmp_path / "board"
    submitted(results, board / "ada.submission.zip", "Ada <b>", "--note", "all & sundry")
    clean = records(results)["clean"]
    (results / "runs" / f"{records(results)['badnets'].id}.json").unlink()
    edit_record(clean.path, flip)
    submitted(results, board / "bob.submission.zip", "Bob")
    page = tmp_path / "page.html"
    outcome = done("page", "--results", board, "--output", page, "--json")
    assert outcome.json["runs"] == 2
    text = page.read_text()
    assert "Who submitted what" in text
    assert "Ada &lt;b&gt;" in text
    assert "<b>" not in text.partition("Who submitted what")[2].partition("</table>")[0]
    assert "all & sundry" in text
    assert text.count("1 with others") == 2
    assert "<dt>submitted by<dd>Ada &lt;b&gt;, Bob" in text
    whole = tmp_path / "whole.html"
    done("page", "--results", results, "--output", whole)
    assert "Who submitted what" not in whole.read_text()
    assert len(records_at(board, pytest.fail)) == 2


def accuracy_of_one(files):
    name = next(name for name in sorted(files) if name.startswith("runs/"))
    fields = json.loads(files[name])
    fields["metrics"]["test_accuracy"] = 1.0
    fields["seal"] = seal_of(fields)
    files[name] = json.dumps(fields).encode()


def take_one_out(files):
    del files[next(name for name in sorted(files) if name.startswith("runs/"))]


def add_one(files):
    fields = json.loads(files[next(name for name in sorted(files) if name.startswith("runs/"))])
    files["runs/0123456789abcdef.json"] = json.dumps(fields).encode()


def edit_card(files):
    name = next(name for name in sorted(files) if name.startswith("poisons/"))
    files[name] = files[name].replace(b'"num_poisons": ', b'"num_poisons": 1')


@pytest.mark.parametrize(
    ("change", "part", "left"),
    [
        (accuracy_of_one, "runs/", 1),
        (take_one_out, "runs/", 1),
        (add_one, "runs/0123456789abcdef.json", 2),
        (edit_card, "poisons/", 2),
    ],
)
def test_what_was_edited_is_refused_by_name_and_the_rest_is_read(
    results, tmp_path, change, part, left
):
    path = submitted(results, tmp_path / "x.submission.zip")
    rezip(path, change)
    outcome = done("page", "--results", path, "--output", tmp_path / "page.html", "--json")
    assert outcome.json["runs"] == left
    (damaged,) = outcome.json["damaged"]
    assert damaged.startswith(f"x.submission.zip: {part}")
    assert "left out" in outcome.err
    assert f"{path}: {part}" in done("report", "--runs", "--results", path).err


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda files: files.__setitem__("../../evil.json", b"{}"), "got '../../evil.json'"),
        (lambda files: files.__setitem__("/etc/passwd", b"{}"), "of another kind"),
        (lambda files: files.__setitem__("runs/a.pkl", b"{}"), "of another kind"),
        (lambda files: files.__setitem__(f"runs/{16 * '0'}.json", bytes(2**25)), "at most"),
        (lambda files: files.pop("submission.json"), "submission.json of schema 1"),
        (
            lambda files: files.__setitem__(
                "submission.json", files["submission.json"].replace(b'"Ada"', b'"Eve"')
            ),
            "sealed, got an edited one",
        ),
        (lambda files: files.__setitem__("submission.json", b"[" * 10**5), "of schema 1"),
    ],
)
def test_a_hostile_archive_is_refused_whole(results, tmp_path, change, text):
    path = submitted(results, tmp_path / "x.submission.zip")
    rezip(path, change)
    outcome = cli("report", "--runs", "--results", path)
    assert outcome.code == 65
    assert text in outcome.err, outcome.err
    board = tmp_path / "board"
    board.mkdir()
    shutil.copy(path, board)
    assert "left out" in done("report", "--runs", "--results", board).err


def link(archive, about):
    about.external_attr = 0o120777 << 16
    archive.writestr(about, "/etc/passwd")


def twice(archive, about):
    archive.writestr(about, "{}")
    with pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(about.filename, "{}")


@pytest.mark.parametrize(("write", "text"), [(link, "got a link"), (twice, "twice")])
def test_links_and_names_that_are_there_twice_are_refused(tmp_path, write, text):
    path = tmp_path / "x.submission.zip"
    with zipfile.ZipFile(path, "w") as archive:
        write(archive, zipfile.ZipInfo(f"runs/{16 * '0'}.json"))
    outcome = cli("report", "--runs", "--results", path)
    assert outcome.code == 65
    assert text in outcome.err


def test_what_cannot_be_submitted_is_said(results, tmp_path):
    path = records(results)["clean"].path
    path.write_text(path.read_text().replace('"trial": 0', '"trial": 1'))
    out = ("--output", tmp_path / "x.submission.zip")
    outcome = cli("submit", results, *out)
    assert outcome.code == 65
    assert path.name in outcome.err
    assert not out[1].exists()
    (tmp_path / "empty").mkdir()
    for words, text in (
        ((tmp_path / "empty", *out), "without any"),
        ((tmp_path / "none", *out), "which is none"),
        ((results, "--output", tmp_path / "x.zip"), "ends with .submission.zip"),
        ((results, *out, "--name", "a\nb"), "--name: expected one line"),
    ):
        outcome = cli("submit", *words)
        assert outcome.code == 2
        assert text in outcome.err


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
