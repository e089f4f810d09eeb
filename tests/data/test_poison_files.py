"""A poison's files: what comes back from them, and everything that a reader must refuse."""

import io
import json
import pickle
import random
import struct
import zipfile

import numpy as np
import pytest
import torch
from msgspec import to_builtins
from PIL import Image
from safetensors.torch import load, save

from helpers.attack_tasks import EPSILON, K, craft_spec, crafted, fake_dataset
from poisonbench.core.canonical import canonical_json
from poisonbench.core.errors import ArtefactError
from poisonbench.data.artefacts import poison_files, read_poison
from poisonbench.data.poison import make_poison
from poisonbench.data.preview import preview_of
from poisonbench.data.splits import digest_tensors
from poisonbench.specs import seal_of
from poisonbench.targeting import Goal


def write(folder, files):
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def folder(tmp_path, poison, dataset):
    return write(tmp_path / "poison", poison_files(poison, dataset))


def assert_same(actual, expected):
    for name in ("indices", "images", "sources"):
        assert torch.equal(getattr(actual, name), getattr(expected, name))
    assert actual.card == expected.card
    assert actual.digest == expected.digest


# --- files


def test_round_trip_from_folder_and_from_file(folder, poison, dataset):
    for path in (folder, folder / "poison.safetensors"):
        assert_same(read_poison(path), poison)
        assert_same(read_poison(path, dataset), poison)


def test_the_same_poison_gives_the_same_bytes(dataset):
    assert poison_files(crafted(dataset), dataset) == poison_files(crafted(dataset), dataset)


def test_no_poisons_at_all_are_a_poison(tmp_path, dataset):
    empty = crafted(dataset, size=0)
    folder = write(tmp_path / "empty", poison_files(empty, dataset))
    assert_same(read_poison(folder, dataset), empty)
    assert torch.equal(empty.apply(dataset.train).images, dataset.train.images)
    assert set(to_builtins(empty.card.measured).values()) == {0}


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (4, 80, 8)])
def test_preview_is_a_png_for_any_channels(shape):
    dataset = fake_dataset(shape=shape)
    picture = poison_files(crafted(dataset), dataset)["preview.png"]
    assert picture.startswith(b"\x89PNG")


def corners_of(image, picture, scale):
    """Where an image (H, W) stands in a picture, enlarged by a factor: (top, left)."""
    enlarged = np.kron(image.numpy(), np.ones((scale, scale)))
    height, width = np.subtract(picture.shape, enlarged.shape) + 1
    matches = np.ones((height, width), dtype=bool)
    # Each pixel's first and last copy.
    copies = [
        step for start in range(0, len(enlarged), scale) for step in (start, start + scale - 1)
    ]
    for row in copies:
        for column in copies:
            part = picture[row : row + height, column : column + width]
            matches &= part == enlarged[row, column]
    return [tuple(corner) for corner in np.argwhere(matches).tolist()]


def test_a_targeted_preview_begins_with_the_target(dataset):
    """The target, then clean, poisoned and difference side by side, large, with captions."""
    goal = Goal(2, 2, 0, 0, "scratch", "random")
    rows = torch.arange(0, 12, 4)
    clean = dataset.train.images[rows]
    poison = make_poison(
        (clean.float() / 255 + EPSILON).clamp(0, 1),
        rows,
        dataset,
        attack="gm",
        epsilon=EPSILON,
        spec=craft_spec("gm"),
        goal=goal,
    )
    picture = preview_of(poison, dataset)
    assert picture == poison_files(poison, dataset)["preview.png"]
    opened = Image.open(io.BytesIO(picture)).convert("L")
    pixels = np.array(opened)

    def corner(image):
        (corner,) = corners_of(image.double().mean(0).round(), pixels, 18)
        return corner

    # Two channels are averaged; 127 levels of grey are the budget of 8.
    change = (poison.images.double() - clean.double()) * 127 / 8 + 128
    columns = [[corner(image) for image in images] for images in (clean, poison.images, change)]
    tops = [top for top, _ in columns[0]]
    assert corner(dataset.test.images[2])[0] < tops[0]
    assert tops == sorted(tops)
    for column in columns:
        assert [top for top, _ in column] == tops
        assert len({left for _, left in column}) == 1
    lefts = [column[0][1] for column in columns]
    assert lefts == sorted(lefts)
    assert lefts[1] >= lefts[0] + 8 * 18
    # Captions on the left of each image, headings above and the scale's words below.
    for top in tops:
        assert (pixels[top : top + 60, : lefts[0] - 2] < 128).any()
    assert (pixels[: tops[0] - 170] < 128).any()


# --- what a reader refuses


def refused(path, match, dataset=None):
    with pytest.raises(ArtefactError, match=match) as caught:
        read_poison(path, dataset)
    assert caught.value.exit_code == 65
    assert any(advice in str(caught.value) for advice in ("craft it again", "use it with"))


def test_missing_files(tmp_path, folder):
    refused(tmp_path / "nowhere", "no such file")
    (folder / "card.json").unlink()
    refused(folder, r"expected a card.json")


@pytest.mark.parametrize("size", [0, 5, 8, 100, -1, -300])
def test_truncated(folder, size):
    file = folder / "poison.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:size])
    refused(file, "expected")


def test_trailing_bytes(folder):
    file = folder / "poison.safetensors"
    file.write_bytes(file.read_bytes() + b"\0")
    refused(file, "not fully covered")


def test_a_pickle_or_a_zip_under_the_name(tmp_path):
    file = tmp_path / "poison.safetensors"
    file.write_bytes(pickle.dumps({"images": [1, 2, 3], "pad": b"x" * 100}))
    refused(file, "a pickle or zip is never opened")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data.pkl", b"x" * 100)
    refused(file, "a pickle or zip is never opened")
    torch.save({"images": torch.zeros(3)}, file)
    refused(file, "a pickle or zip is never opened")
    file.write_bytes(random.Random(0).randbytes(1000))
    refused(file, "a pickle or zip is never opened")


def test_a_header_that_lies_allocates_nothing(tmp_path):
    file = tmp_path / "poison.safetensors"
    file.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    refused(file, "header too large")
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", 2**25))
        stream.truncate(2**26)
    refused(file, "expected a poison")
    huge = 2**50
    header = {
        "__metadata__": {"card": "{}"},
        "images": {"dtype": "U8", "shape": [huge, 1, 1, 1], "data_offsets": [0, huge]},
        "indices": {"dtype": "I64", "shape": [0], "data_offsets": [huge, huge]},
        "sources": {"dtype": "U8", "shape": [0], "data_offsets": [huge, huge]},
    }
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text)
    # The library has had two words for it.
    refused(file, "not fully covered|MetadataIncompleteBuffer")


def tensors_of(poison):
    return {"indices": poison.indices, "images": poison.images, "sources": poison.sources}


def store(file, poison, tensors=None, card=None, metadata=None, reseal=True, **changes):
    """Write an artefact with other tensors or card, resealed unless told."""
    tensors = tensors_of(poison) | (tensors or {})
    card = (card or to_builtins(poison.card)) | changes
    if reseal and changes.get("digest") is None:
        card |= {
            "digest": digest_tensors(tensors["indices"], tensors["images"]),
            "sources_digest": digest_tensors(tensors["sources"]),
        }
    if reseal:
        card |= {"seal": seal_of(card)}
    metadata = {"card": canonical_json(card)} if metadata is None else metadata
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    file.write_bytes(save(kept, metadata=metadata))


@pytest.fixture
def file(tmp_path):
    return tmp_path / "poison.safetensors"


def test_resealing_alone_is_readable(file, poison):
    store(file, poison)
    assert_same(read_poison(file), poison)


def test_missing_and_extra_tensors(file, poison):
    data = tensors_of(poison)
    metadata = {"card": canonical_json(to_builtins(poison.card))}
    for name in data:
        file.write_bytes(save({n: t for n, t in data.items() if n != name}, metadata=metadata))
        refused(file, "expected the tensors images, indices, sources and a card")
    file.write_bytes(save(data | {"extra": torch.zeros(1)}, metadata=metadata))
    refused(file, "expected the tensors")


@pytest.mark.parametrize("metadata", [{}, {"card": "{}", "more": "x"}, {"other": "{}"}])
def test_metadata_must_be_one_card(file, poison, metadata):
    store(file, poison, metadata=metadata)
    refused(file, "expected")


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        (
            "indices",
            lambda t: t.int(),
            r"expected indices of shape \(10,\) and type torch.int64, got .* torch.int32",
        ),
        ("indices", lambda t: t[:, None], r"expected indices of shape \(10,\) .*, got \(10, 1\)"),
        ("indices", lambda t: t[:-1].contiguous(), "expected indices of shape"),
        (
            "images",
            lambda t: t.float(),
            "expected images .* type torch.uint8, got .* torch.float32",
        ),
        ("images", lambda t: t[0].contiguous(), "expected indices of shape"),
        ("images", lambda t: t[:, :1].contiguous(), "expected images of shape"),
        (
            "images",
            lambda t: t.view(torch.int8),
            "expected images .* type torch.uint8, got .* torch.int8",
        ),
        ("sources", lambda t: t.long(), "expected sources of shape"),
        ("sources", lambda t: t + 1, "expected sources among 1 attacks"),
        ("indices", lambda t: t.flip(0), "expected strictly increasing indices"),
        ("indices", lambda t: t // 4, "expected strictly increasing indices"),
        ("indices", lambda t: t - 1, r"expected indices in 0\.\.39, got -1"),
        ("indices", lambda t: t + 20, r"expected indices in 0\.\.39, got 20\.\.47"),
    ],
)
def test_wrong_types_shapes_and_rows(file, poison, name, change, match):
    store(file, poison, {name: change(tensors_of(poison)[name])})
    refused(file, match)


def test_an_edited_card(folder, poison):
    card = dict(to_builtins(poison.card), epsilon=0.5, levels=127)
    store(folder / "poison.safetensors", poison, card=card, reseal=False)
    refused(folder / "poison.safetensors", "an edited one")


def test_card_json_must_repeat_the_embedded_card(folder, poison):
    card = dict(to_builtins(poison.card), goal="another")
    (folder / "card.json").write_text(json.dumps(card))
    refused(folder, "expected card.json to repeat")
    (folder / "card.json").write_text("[" * 100_000)
    refused(folder, "expected")


def test_tensors_that_are_not_the_digest_s(file, poison):
    changed = poison.images.clone()
    changed[0, 0, 0, 0] ^= 1
    store(file, poison, {"images": changed}, digest=poison.digest)
    refused(file, "expected tensors with digest .* they were changed")


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"kind": "run"},
        {"attacks": []},
        {"attacks": [1]},
        {"epsilon": 2.0, "levels": 510},
        {"epsilon": 1},
        {"levels": 9},
        {"num_poisons": 3},
        {"num_poisons": True},
        {"spec": None},
        {"extra": 1},
        {"measured": {}},
        {"dataset": {"name": "fake"}},
    ],
    ids=str,
)
def test_a_card_that_does_not_make_sense(file, poison, changes):
    store(file, poison, **changes)
    refused(file, "expected")


GOAL = to_builtins(Goal(2, 2, 1, 1, "transfer", "random"))


def test_a_goal_comes_back(file, poison, dataset):
    store(file, poison, goal=GOAL)
    assert to_builtins(read_poison(file, dataset).goal) == GOAL
    assert poison.goal is None


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "untargeted"},
        {"target": -1},
        {"target": True},
        {"target_class": 1},
        {"intended_class": K},
        {"poison_class": -1},
        {"scenario": "nowhere"},
        {"scenario": None},
        {"more": 1},
    ],
    ids=str,
)
def test_a_goal_that_does_not_make_sense(file, poison, change):
    store(file, poison, goal=GOAL | change)
    refused(file, "expected")


@pytest.mark.parametrize("change", [{"target": 4}, {"target": 3}], ids=str)
def test_a_goal_that_is_not_in_the_data(file, poison, dataset, change):
    """There are four test images; the last one is of another class."""
    store(file, poison, goal=GOAL | change)
    read_poison(file)
    refused(file, f"expected test image {change['target']} of class 2", dataset)


def test_made_for_another_split(folder, dataset):
    read_poison(folder, dataset)
    refused(folder, "made for another split", fake_dataset(seed=9))
    refused(folder, r"expected images of shape \(1, 8, 8\)", fake_dataset(shape=(1, 8, 8)))


def test_over_its_budget(file, poison, dataset):
    changed = poison.images.clone()
    changed[0, 0, 0, 0] = (int(dataset.train.images[0, 0, 0, 0]) + 100) % 256
    store(file, poison, {"images": changed})
    read_poison(file)
    refused(file, "at most 8 grey levels", dataset)


def test_damage_is_an_error_or_harmless(file, poison, dataset):
    store(file, poison)
    data, rng = file.read_bytes(), random.Random(0)
    header = 8 + int.from_bytes(data[:8], "little")
    refusals = 0
    for trial in range(400):
        broken = bytearray(data)
        if trial % 8 == 0:
            broken = broken[: rng.randrange(len(data))]
        else:
            # Half of the flips hit the header, where the parsing is.
            broken[rng.randrange(header if trial % 2 else len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(broken)
        try:
            assert_same(read_poison(file, dataset), poison)
        except ArtefactError:
            refusals += 1
    assert refusals > 380


def test_saved_tensors_open_with_the_plain_library(folder, poison):
    tensors = load((folder / "poison.safetensors").read_bytes())
    assert torch.equal(tensors["images"], poison.images)
