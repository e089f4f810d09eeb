"""Files of data sets of random pixels, for tests of what reads them."""

import gzip
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from poisonbench.data import standard

NOWHERE = Path("no-such-data-root")


def rng(seed=0):
    return np.random.default_rng(seed)


def pixels(*shape, seed=0):
    return rng(seed).integers(0, 256, shape, dtype=np.uint8)


def arrays(shape=(8, 8), train=60, test=9, classes=3):
    return {
        "x_train": pixels(train, *shape),
        "y_train": np.arange(train) % classes,
        "x_test": pixels(test, *shape, seed=1),
        "y_test": np.arange(test) % classes,
    }


def write_npz(path, **changes):
    np.savez(path, **{k: v for k, v in (arrays() | changes).items() if v is not None})
    return f"npz:{path}"


def write_image(path, size=(6, 5), mode="RGB", seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) if mode in ("L", "1") else (size[1], size[0], 3)
    Image.fromarray(pixels(*shape, seed=seed)).convert(mode).save(path)
    return path


def write_folder(root, classes=("cat", "dog"), train=10, test=2, **image):
    for part, count in (("train", train), ("test", test)):
        for label in classes:
            for row in range(count):
                write_image(root / part / label / f"{row:02}.png", seed=row, **image)
    return f"folder:{root}"


def idx_bytes(array):
    return (
        bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + bytes(array)
    )


def write_idx_root(root, folder="MNIST/raw", packed=False, train=100, test=20):
    (root / folder).mkdir(parents=True, exist_ok=True)
    contents = (
        pixels(train, 28, 28),
        (np.arange(train) % 10).astype(np.uint8),
        pixels(test, 28, 28, seed=1),
        (np.arange(test) % 10).astype(np.uint8),
    )
    for name, array in zip(standard.IDX_FILES, contents, strict=True):
        data = idx_bytes(array)
        if packed:
            (root / folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (root / folder / name).write_bytes(data)
    return contents
