"""Tiny-ImageNet: 200 classes of ImageNet as 64 x 64, in the folder that is published.

Its validation images are the test split: the published test images have no labels.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from poisonbench.core.errors import ArtefactError
from poisonbench.data import fetching
from poisonbench.data.fetching import Published
from poisonbench.data.pictures import Picture, Size, decode, picture_of_file
from poisonbench.data.splits import RawData

FOLDER = "tiny-imagenet-200"
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
SUFFIXES = (".jpeg", ".jpg", ".png")
FILES = Published(
    "tiny-imagenet",
    tuple(
        f"{FOLDER}/{path}"
        for path in ("wnids.txt", "words.txt", "train", "val/images", "val/val_annotations.txt")
    ),
    f"the folder {FOLDER} of {URL}",
)


def load(name: str, path: Path, data_root: Path, size: Size | None = None) -> RawData:
    """Read the published train and val folders; a class is named by its first word.

    Raises:
        ArtefactError: files are missing or damaged; the message names them and the remedy.
    """
    FILES.check(data_root)
    root = data_root / FOLDER
    wnids = (root / "wnids.txt").read_text("utf-8", "replace").split()
    if not wnids or len(set(wnids)) != len(wnids):
        raise ArtefactError(
            f"{root / 'wnids.txt'}: expected a line with the name of each class's folder, got "
            f"{len(wnids)} names of which {len(set(wnids))} differ; fetch it again"
        )
    labels = {wnid: label for label, wnid in enumerate(sorted(wnids))}
    parts = [_training(root / "train", labels), _validation(root / "val", labels)]
    train, test = decode(parts, name, size)
    return RawData(train, test, _class_names(root / "words.txt", sorted(wnids)))


def fetch(name: str, data_root: Path, say: Callable[[str], None]) -> None:
    """Download the archive unless its folder is there."""
    from torchvision.datasets.utils import download_and_extract_archive

    fetching.fetch(
        FILES,
        data_root,
        say,
        lambda arrived: download_and_extract_archive(URL, arrived, md5=MD5),
    )


def _training(folder: Path, labels: dict[str, int]) -> list[Picture]:
    pictures = []
    for wnid, label in labels.items():
        images = folder / wnid / "images"
        paths = sorted(p for p in images.glob("*") if p.suffix.lower() in SUFFIXES)
        if not paths:
            raise ArtefactError(
                f"{images}: expected pictures ({', '.join(SUFFIXES)}) of a class of wnids.txt, got "
                "none; unpack the archive again"
            )
        pictures += [picture_of_file(path, label) for path in paths]
    return pictures


def _validation(folder: Path, labels: dict[str, int]) -> list[Picture]:
    table = folder / "val_annotations.txt"
    rows = [line.split("\t") for line in table.read_text("utf-8", "replace").splitlines()]
    for number, row in enumerate(rows, 1):
        if len(row) < 2 or row[1] not in labels:
            raise ArtefactError(
                f"{table}, line {number}: expected a file and a class of wnids.txt, parted by a "
                f"tab, got {' '.join(row)[:60]!r}; unpack the archive again"
            )
    if not rows:
        raise ArtefactError(f"{table}: expected a line a picture, got none; unpack it again")
    return [picture_of_file(folder / "images" / Path(row[0]).name, labels[row[1]]) for row in rows]


def _class_names(words: Path, wnids: list[str]) -> tuple[str, ...]:
    lines = (line.partition("\t") for line in words.read_text("utf-8", "replace").splitlines())
    firsts = {wnid: text.partition(",")[0].strip() for wnid, _, text in lines}
    names = [firsts.get(wnid) or wnid for wnid in wnids]
    counts = Counter(names)
    # Two birds are called "crane" in some lists: a name that is not unique has its folder's too.
    return tuple(
        name if counts[name] == 1 else f"{name} ({wnid})"
        for name, wnid in zip(names, wnids, strict=True)
    )
