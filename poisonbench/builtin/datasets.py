"""The data sets that come with the package; their modules are in ``data``."""

from poisonbench.builtin import ours
from poisonbench.entries import DatasetEntry

DATASETS = ours(
    "data",
    DatasetEntry(
        "mnist",
        "handwritten digits: 59,000 train, 1,000 validation, 10,000 test, 1x28x28",
        label="MNIST",
        module="standard",
        presets=("mnist",),
        can_fetch=True,
        paper_sizes=(60_000, 10_000),
    ),
    DatasetEntry(
        "cifar10",
        "small photographs: 49,000 train, 1,000 validation, 10,000 test, 3x32x32",
        label="CIFAR-10",
        module="standard",
        presets=("cifar10",),
        can_fetch=True,
        paper_sizes=(50_000, 10_000),
        parts_in_tables=(10_000,),
        part_label="CIFAR-10, small network: not the paper's",
    ),
    DatasetEntry(
        "fashion-mnist",
        "clothes: 59,000 train, 1,000 validation, 10,000 test, 1x28x28",
        module="standard",
        presets=("mnist",),
        can_fetch=True,
    ),
    DatasetEntry(
        "mnist-sample",
        "part of mnist, comes with the package: 10,000 train, 1,000 validation, 2,000 test",
        label="MNIST sample (not the paper's data)",
        module="sample",
        presets=("mnist", "mnist-sample"),
        can_fetch=True,
        parts_in_tables=(1000,),
    ),
    DatasetEntry(
        "cifar100",
        "small photographs in 100 classes: 49,000 train, 1,000 validation, 10,000 test, 3x32x32",
        presets=("cifar10",),
        can_fetch=True,
    ),
    DatasetEntry(
        "svhn",
        "digits of house numbers: 72,257 train, 1,000 validation, 26,032 test, 3x32x32",
        presets=("cifar10",),
        can_fetch=True,
    ),
    DatasetEntry(
        "gtsrb",
        "traffic signs in 43 classes: 25,640 train, 1,000 validation, 12,630 test, as 3x32x32",
        presets=("cifar10",),
        takes_size=True,
        can_fetch=True,
    ),
    DatasetEntry(
        "stl10",
        "photographs: 4,500 train, 500 validation, 8,000 test, 3x96x96",
        presets=("cifar10",),
        can_fetch=True,
    ),
    DatasetEntry(
        "tiny-imagenet",
        "photographs in 200 classes: 99,000 train, 1,000 validation, 10,000 test, 3x64x64",
        module="tiny_imagenet",
        presets=("cifar10",),
        takes_size=True,
        can_fetch=True,
    ),
    DatasetEntry(
        "npz",
        "one .npz file with x_train, y_train, x_test, y_test (uint8 images, integer labels)",
        module="arrays",
        takes_path=True,
    ),
    DatasetEntry(
        "folder",
        "a folder with train/CLASS/*.png and test/CLASS/*.png (also jpg, jpeg, bmp, webp)",
        module="image_folders",
        takes_path=True,
        takes_size=True,
    ),
    DatasetEntry(
        "torchvision",
        "a classification set of torchvision, such as torchvision:KMNIST or torchvision:EuroSAT",
        module="torchvision_sets",
        takes_path=True,
        path_word="NAME",
        takes_size=True,
        can_fetch=True,
    ),
    DatasetEntry(
        "hf",
        "a Hugging Face data set: parquet files or save_to_disk here, or OWNER/NAME of the hub; "
        "pip install 'poisonbench[hf]'",
        module="hugging_face",
        takes_path=True,
        takes_size=True,
        can_fetch=True,
    ),
)

#: The untargeted attacks that the paper's mix is made of.
