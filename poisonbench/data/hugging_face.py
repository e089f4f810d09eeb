"""Hugging Face data sets, as hf:PATH: parquet files or a folder of ``save_to_disk``.

PATH is a folder or file here or, once ``data fetch`` has downloaded it, a data set of the hub; its
parquet files then lie in the data root, under ``hf/``. Nothing else of a data set is downloaded or
read, so none of its code runs.

Splits  train; test or, where there is none or its labels are withheld, validation; a data set that
        is not divided gives a fifth of each class, drawn once and for all, as the test split; each
        may number its classes in its own way, a class is what has its name
Images  the column of images, or of their encoded bytes
Labels  the column label, labels or fine_label, or else the only one of class labels: class labels,
        whole numbers or text
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from poisonbench.core.errors import ArtefactError, UsageError, one_line
from poisonbench.data.fetching import Published, arrive
from poisonbench.data.pictures import Picture, Size, decode, numbered, unknown_class
from poisonbench.data.splits import RawData, hold_out_fifth

TEST_NAMES = ("test", "validation", "valid", "val", "dev")
LABEL_NAMES = ("label", "labels", "fine_label")
#: A split's name in a file's path, as in data/train-00000-of-00001.parquet.
_SPLIT = re.compile(rf"(?<![a-z])(train|{'|'.join(TEST_NAMES)})(?![a-z])")


def load(name: str, path: Path, data_root: Path, size: Size | None = None) -> RawData:
    """Train and test splits of a Hugging Face data set that is on this machine.

    Raises:
        UsageError: the library is not installed.
        ArtefactError: there is none at the path, a file is damaged, or columns are lacking.
    """
    full_name = f"{name}:{path}"
    splits = _splits(full_name, path, data_root)
    train_name = "train" if "train" in splits or len(splits) > 1 else next(iter(splits))
    tests = [key for key in TEST_NAMES if key in splits and key != train_name]
    if train_name not in splits or (not tests and len(splits) > 1):
        raise ArtefactError(
            f"{full_name}: expected splits train and one of {', '.join(TEST_NAMES)}, or a single "
            f"one, got {', '.join(splits)}; rename them and save the data set anew"
        )
    images, labels = _columns(full_name, splits[train_name])
    values = {key: _values(splits[key], labels, full_name) for key in (train_name, *tests)}
    labelled = [key for key in tests if any(value != -1 for value in values[key])]
    lacking = [train_name] if not values[train_name] else tests if not labelled else []
    if lacking:
        raise ArtefactError(
            f"{full_name}: expected labelled images in {', '.join(lacking)}, got none, or -1 for "
            "every image; save the data set with labelled images there"
        )
    parts = [train_name, *labelled[:1]]
    kinds = {part: splits[part].features[labels] for part in parts}
    names, numbers = _numbers(full_name, kinds, values)
    pictures = [
        _pictures(splits[part], images, numbers[part], f"{full_name}, {part}") for part in parts
    ]
    train, *rest = decode(pictures, full_name, size)
    train, test = (train, rest[0]) if rest else hold_out_fifth(train, full_name)
    return numbered(full_name, train, test, names)


def fetch(name: str, data_root: Path, say: Callable[[str], None]) -> None:
    """Download the parquet files of ``hf:OWNER/NAME``, the hub's own where its owner has none.

    Raises:
        UsageError: the library is not installed, or the path is one of this machine.
        ArtefactError: no network, or the hub has no such data set.
        StoreError: the data root cannot be written.
    """
    _library()
    from huggingface_hub import snapshot_download

    repository = name.partition(":")[2]
    if Path(repository).expanduser().exists() or repository.count("/") > 1:
        raise UsageError(
            f"expected a data set of the hub, such as hf:OWNER/NAME, got {name!r}, a path; it is "
            "read where it is"
        )
    if _files(data_root / "hf" / repository):
        say(f"{name} is in {data_root / 'hf'} already; nothing to download")
        return

    def download(arrived: str) -> None:
        folder = Path(arrived) / "hf" / repository
        for revision in (None, "refs/convert/parquet"):
            snapshot_download(
                repository,
                repo_type="dataset",
                revision=revision,
                allow_patterns="*.parquet",
                local_dir=folder,
            )
            if _files(folder):
                return
        raise OSError(f"no parquet files in {repository} on the hub")

    by_hand = f"its parquet files in {data_root / 'hf' / repository}"
    arrive(Published(name, (f"hf/{repository}",), by_hand), data_root, say, download)


def _library() -> Any:
    try:
        import datasets
    except ImportError:
        raise UsageError(
            "hf:PATH: expected Hugging Face's datasets, which is not installed; pip install "
            "'poisonbench[hf]'"
        ) from None
    return datasets


def _files(folder: Path) -> list[Path]:
    if folder.suffix == ".parquet" and folder.is_file():
        return [folder]
    return sorted(folder.rglob("*.parquet"))


def _splits(name: str, path: Path, data_root: Path) -> dict[str, Any]:
    """The data sets by split: of parquet files, or as ``save_to_disk`` left them."""
    library = _library()
    if not path.exists():
        path = data_root / "hf" / path
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        try:
            saved = library.load_from_disk(str(path))
        # Damaged files raise nearly anything.
        except Exception as error:
            raise ArtefactError(
                f"{path}: expected a folder of save_to_disk, got: {one_line(error)}; save it again"
            ) from None
        return dict(saved) if isinstance(saved, dict) else {"train": saved}
    files = _files(path)
    if not files:
        raise ArtefactError(
            f"{name}: expected a folder of parquet files or of save_to_disk, or one fetched to "
            f"{data_root / 'hf'}, found none; check the path or, for a data set of the hub, run "
            f"`poisonbench data fetch {name} --data-root {data_root}`"
        )
    tables: dict[str, list[Any]] = {}
    for file in files:
        words = _SPLIT.findall(str(file.relative_to(path) if file != path else file.name).lower())
        tables.setdefault(words[-1] if words else "train", []).append(_table(library, file))
    try:
        return {
            split: library.concatenate_datasets(parts) if len(parts) > 1 else parts[0]
            for split, parts in tables.items()
        }
    except ValueError as error:
        raise ArtefactError(
            f"{name}: expected parquet files of the same columns, got: {one_line(error)}; give the "
            "folder of one configuration"
        ) from None


def _table(library: Any, file: Path) -> Any:
    from pyarrow import ArrowException, parquet

    try:
        return library.Dataset(parquet.read_table(file))
    except (ArrowException, OSError, ValueError) as error:
        raise ArtefactError(
            f"{file}: expected a parquet file, got: {one_line(error)}; replace or delete it"
        ) from None


def _columns(name: str, split: Any) -> tuple[str, str]:
    """The names of the columns of images and of labels."""
    library = _library()
    features = split.features
    images = [key for key, kind in features.items() if isinstance(kind, library.Image)]
    images = images or [key for key in ("image", "img") if key in features]
    classes = [key for key, kind in features.items() if isinstance(kind, library.ClassLabel)]
    labels = [key for key in LABEL_NAMES if key in features] or classes
    if not images or not labels or (labels == classes and len(labels) > 1):
        shown = ", ".join(f"{key} ({type(kind).__name__})" for key, kind in features.items())
        raise ArtefactError(
            f"{name}: expected a column of images and one of labels ({', '.join(LABEL_NAMES)}), "
            f"got {shown}; rename_column them and save the data set anew"
        )
    return images[0], labels[0]


def _values(split: Any, column: str, where: str) -> list[Any]:
    values = list(split[column]) if column in split.features else [None]
    if not all(isinstance(value, str) or _is_number(value) for value in values):
        raise ArtefactError(
            f"{where}: expected a class (a number or text) for each image in the column {column}, "
            "got none or something else; leave images without one out"
        )
    return values


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and -(2**63) <= value < 2**63


def _numbers(
    name: str, kinds: Mapping[str, Any], values: Mapping[str, list[Any]]
) -> tuple[list[str] | None, dict[str, list[int]]]:
    """The names of the numbers 0, 1, ..., null for the numbers themselves, and labels by split.

    The kinds are the columns' types by split, first train's.

    Raises:
        ArtefactError: a name that no class of train has.
    """
    own, *_ = kinds
    listed: dict[str, list[str]] = {part: getattr(kinds[part], "names", []) for part in kinds}
    is_text = isinstance(values[own][0], str | bool)
    if not (listed[own] or is_text):
        names, words = None, {part: values[part] for part in kinds}
    else:
        words = {part: [_named(value, listed[part]) for value in values[part]] for part in kinds}
        if is_text:
            words = {part: [str(word) for word in words[part]] for part in kinds}
        names = listed[own] or sorted(set(words[own]))
    position = {text: number for number, text in enumerate(names or ())}
    numbers = {part: [position.get(word, word) for word in words[part]] for part in kinds}
    for number in (number for part in kinds for number in numbers[part]):
        if isinstance(number, str):
            raise unknown_class(name, f"class {number!r}")
    return names, numbers


def _named(value: int | str, names: list[str]) -> int | str:
    """The name of a class that has one."""
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value


def _pictures(split: Any, column: str, labels: list[int], where: str) -> list[Picture]:
    library = _library()
    try:
        encoded = split.select_columns([column]).cast_column(column, library.Image(decode=False))
    # A column of another kind raises nearly anything.
    except Exception as error:
        raise ArtefactError(
            f"{where}: expected encoded images in the column {column}, got: {one_line(error)}; "
            "cast the column to datasets.Image() and save the data set anew"
        ) from None

    def read(row: int) -> tuple[Image.Image, int]:
        value = encoded[row][column]
        if not value or not (value["bytes"] or value["path"]):
            raise ValueError("no image")
        with Image.open(BytesIO(value["bytes"]) if value["bytes"] else value["path"]) as image:
            image.load()
            return image, labels[row]

    return [Picture(f"{where}, image {row}", partial(read, row)) for row in range(len(encoded))]
