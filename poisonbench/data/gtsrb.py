"""GTSRB: German traffic signs in 43 classes, of 15 to 250 pixels a side, by default as 32 x 32.

The whole pictures are read, with the margin around each sign.
"""

import csv
from collections.abc import Callable
from pathlib import Path

from poisonbench.core.errors import ArtefactError, one_line
from poisonbench.data import fetching
from poisonbench.data.fetching import Published
from poisonbench.data.pictures import Picture, Size, decode, picture_of_file
from poisonbench.data.splits import RawData

CLASSES = 43
FILES = Published(
    "gtsrb",
    ("gtsrb/GTSRB/Training", "gtsrb/GTSRB/Final_Test/Images", "gtsrb/GT-final_test.csv"),
    "the folders of GTSRB-Training_fixed.zip and GTSRB_Final_Test_Images.zip and the file of "
    "GTSRB_Final_Test_GT.zip (https://benchmark.ini.rub.de/gtsrb_dataset.html)",
)


def load(name: str, path: Path, data_root: Path, size: Size | None = None) -> RawData:
    """Read the original train and test splits; classes are named by their number.

    Raises:
        ArtefactError: files are missing or damaged; the message names them and the remedy.
    """
    FILES.check(data_root)
    training, images, table = (data_root / part for part in FILES.paths)
    parts = [_training(training), _test(images, table)]
    train, test = decode(parts, name, size or (32, 32))
    return RawData(train, test, tuple(map(str, range(CLASSES))))


def fetch(name: str, data_root: Path, say: Callable[[str], None]) -> None:
    """Download the three archives unless their folders are there."""
    from torchvision.datasets import GTSRB

    def download(arrived: str) -> None:
        for part in ("train", "test"):
            GTSRB(arrived, split=part, download=True)

    fetching.fetch(FILES, data_root, say, download)


def _training(folder: Path) -> list[Picture]:
    pictures = []
    for label in range(CLASSES):
        paths = sorted((folder / f"{label:05}").glob("*.ppm"))
        if not paths:
            raise ArtefactError(
                f"{folder / f'{label:05}'}: expected pictures (.ppm) of class {label}, got none; "
                "delete the folder and fetch it again"
            )
        pictures += [picture_of_file(path, label) for path in paths]
    return pictures


def _test(folder: Path, table: Path) -> list[Picture]:
    try:
        with table.open(newline="", encoding="utf-8") as file:
            rows = [
                (row["Filename"], int(row["ClassId"]))
                for row in csv.DictReader(file, delimiter=";")
            ]
        if not rows or not all(0 <= label < CLASSES for _, label in rows):
            raise ValueError(f"{len(rows)} rows, or a class that is not in 0..{CLASSES - 1}")
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise ArtefactError(
            f"{table}: expected columns Filename and ClassId, parted by ;, got {one_line(error)}; "
            "delete it and fetch it again"
        ) from None
    return [picture_of_file(folder / Path(name).name, label) for name, label in rows]
