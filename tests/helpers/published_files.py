"""Small files in the form in which the sites of data sets publish theirs."""

import io
import pickle

import numpy as np
from PIL import Image
from scipy.io import savemat

from helpers.data_files import pixels


def write_cifar100(root, train=300, test=100):
    """The binary version; returns test images (N, 3, 32, 32) and fine labels."""
    folder = root / "cifar-100-binary"
    folder.mkdir(parents=True)
    for part, count in (("train", train), ("test", test)):
        images = pixels(count, 3072, seed=count)
        fine = (np.arange(count) % 100).astype(np.uint8)
        records = np.column_stack([fine // 5, fine, images])
        (folder / f"{part}.bin").write_bytes(records.astype(np.uint8).tobytes())
    names = [f"kind_{number}" for number in range(100)]
    (folder / "fine_label_names.txt").write_text("\n".join(names) + "\n")
    return images.reshape(-1, 3, 32, 32), fine


def write_cifar100_python(root, train=300, test=100):
    """The Python version, pickles of protocol 2."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for part, count in (("train", train), ("test", test)):
        images = pixels(count, 3072, seed=count)
        fine = (np.arange(count) % 100).tolist()
        batch = {
            "filenames": [f"{row}.png" for row in range(count)],
            "batch_label": part,
            "fine_labels": fine,
            "coarse_labels": fine,
            "data": images,
        }
        (folder / part).write_bytes(pickle.dumps(batch, protocol=2))
    meta = {"fine_label_names": [f"kind_{number}" for number in range(100)]}
    (folder / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    return images.reshape(-1, 3, 32, 32), np.array(fine)


def write_svhn(root, train=100, test=20):
    root.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", train), ("test", test)):
        images = pixels(count, 32, 32, 3, seed=count)
        digits = np.arange(count) % 10
        labels = np.where(digits == 0, 10, digits).astype(np.uint8)[:, None]
        savemat(root / f"{part}_32x32.mat", {"X": images.transpose(1, 2, 3, 0), "y": labels})
    return images.transpose(0, 3, 1, 2), digits


def write_gtsrb(root, train=2, test=50):
    """Pictures of 32 x 32 in class 0 and wider ones elsewhere."""
    base = root / "gtsrb"
    for label in range(43):
        folder = base / "GTSRB" / "Training" / f"{label:05}"
        folder.mkdir(parents=True)
        for row in range(train):
            width = 32 if label == 0 else 40
            Image.fromarray(pixels(32, width, 3, seed=row)).save(folder / f"{row:05}.ppm")
    folder = base / "GTSRB" / "Final_Test" / "Images"
    folder.mkdir(parents=True)
    images, labels = pixels(test, 32, 32, 3, seed=9), np.arange(test) % 43
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image).save(folder / f"{row:05}.ppm")
        lines.append(f"{row:05}.ppm;32;32;5;5;27;27;{label}")
    (base / "GT-final_test.csv").write_text("\r\n".join(lines) + "\r\n")
    return images.transpose(0, 3, 1, 2), labels


def write_stl10(root, train=100, test=20):
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    for part, count in (("train", train), ("test", test)):
        images = pixels(count, 3, 96, 96, seed=count)
        labels = np.arange(count) % 10
        # Columns first, as the site says.
        (folder / f"{part}_X.bin").write_bytes(images.transpose(0, 1, 3, 2).tobytes())
        (folder / f"{part}_y.bin").write_bytes((labels + 1).astype(np.uint8).tobytes())
    (folder / "class_names.txt").write_text("\n".join(f"kind{k}" for k in range(10)) + "\n")
    return images, labels


def write_tiny_imagenet(root, classes=200, train=3, test=200, side=64):
    """Classes of coloured noise, of which every twentieth image is grey, as in the real one."""
    base = root / "tiny-imagenet-200"
    (base / "val" / "images").mkdir(parents=True)
    wnids = [f"n{number:08}" for number in range(classes)]
    (base / "wnids.txt").write_text("\n".join(reversed(wnids)) + "\n")
    words = [f"{wnid}\tthing {number}, other" for number, wnid in enumerate(wnids)]
    (base / "words.txt").write_text("\n".join(words) + "\n")
    random = np.random.default_rng(0)
    colours = random.integers(0, 200, (classes, 1, 1, 3))

    def save(path, label, is_grey=False):
        noise = random.integers(0, 56, (side, side, 3)) + colours[label]
        image = Image.fromarray(noise.astype(np.uint8))
        (image.convert("L") if is_grey else image).save(path, quality=95)

    for label, wnid in enumerate(wnids):
        folder = base / "train" / wnid / "images"
        folder.mkdir(parents=True)
        for row in range(train):
            save(folder / f"{wnid}_{row}.JPEG", label, is_grey=row == 0 and label % 20 == 0)
    lines = []
    for row in range(test):
        save(base / "val" / "images" / f"val_{row}.JPEG", row % classes)
        lines.append(f"val_{row}.JPEG\t{wnids[row % classes]}\t0\t0\t62\t62")
    (base / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    return np.arange(test) % classes


def encoded(image):
    """An image as the bytes of a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png")
    return stream.getvalue()
