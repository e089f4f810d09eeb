"""The commands of docs/own-data.md, run as they stand on small files; not those that download."""

import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.command_line import done, records_of
from helpers.data_files import pixels, write_idx_root
from helpers.marks import LONG
from helpers.published_files import write_gtsrb, write_svhn

DOCUMENT = Path(__file__).parents[2] / "docs" / "own-data.md"

pytestmark = [pytest.mark.slow, LONG]

#: Parts of lines that need the network, or what only it gives.
ONLINE = ("data fetch", "hf:uoft-cs/cifar100", "torchvision:EuroSAT")


def write_photos(root):
    """Colour images of 24 x 24 pixels in three classes, told by their tint."""
    random = np.random.default_rng(0)
    for part, count in (("train", 30), ("test", 10)):
        for label, name in enumerate(("ant", "bee", "cat")):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                image = random.integers(0, 200, (24, 24, 3))
                image[..., label] += 55
                Image.fromarray(image.astype(np.uint8)).save(root / part / name / f"{number}.png")


def write_insects(root):
    """Parquet files as the hub has them."""
    hf = pytest.importorskip("datasets")
    root.mkdir()
    features = hf.Features(image=hf.Image(), label=hf.ClassLabel(names=["ant", "bee"]))
    for part, count in (("train", 20), ("test", 4)):
        images = [Image.fromarray(pixels(8, 8, 3, seed=row)) for row in range(count)]
        columns = {"image": images, "label": [row % 2 for row in range(count)]}
        rows = hf.Dataset.from_dict(columns, features=features)
        rows.to_parquet(root / f"{part}-00000-of-00001.parquet")


def test_the_guides_commands_run_in_its_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POISONBENCH_RESULTS", raising=False)
    monkeypatch.setenv("POISONBENCH_DATA", str(tmp_path / "data"))
    write_photos(tmp_path / "photos")
    write_insects(tmp_path / "insects")
    write_idx_root(tmp_path / "data")
    write_gtsrb(tmp_path / "data")
    write_svhn(tmp_path / "data")
    lines = [line.strip() for line in DOCUMENT.read_text().splitlines() if line[:4] == " " * 4]
    offline = [line for line in lines if not any(part in line for part in ONLINE)]
    assert len(offline) >= 12
    outcomes = {}
    for line in offline:
        program, *words = shlex.split(line)
        assert program == "poisonbench"
        outcomes[line] = done(*words)
    *sentences, page = outcomes["poisonbench assess --dataset folder:photos"].out.splitlines()
    assert len(sentences) == 5
    assert Path(page).stat().st_size > 100_000
    (planned,) = (line for line in offline if "sweep plan" in line)
    assert "poisonbench defend" in outcomes[planned].out
    kinds = {run.spec.dataset.name for run in records_of(tmp_path / "results")}
    assert kinds == {"folder", "svhn"}
