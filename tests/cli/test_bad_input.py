"""Bad input: one line that says what was expected and what came, an exit code, nothing written."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.command_line import cli, done, files_in, last_line, refused, tiny_arrays

CRAFT = "craft --attack pgd --dataset TINY "
NONE = "defend --method none --dataset TINY "
HINT = "defend --method hint --dataset TINY "


@pytest.mark.parametrize(
    ("line", "fragments"),
    [
        ("craft --attack pgdd --dataset TINY", "pgd, dap, durp, dc|'pgdd'|did you mean 'pgd'"),
        ("craft --attack pgd --dataset mnistt", "npz:PATH|'mnistt'|did you mean 'mnist'"),
        ("craft --attack pgd --dataset npz", "npz:PATH|got 'npz'"),
        ("craft --attack mixx --dataset TINY", "an attack (or mix)|mix-sign|did you mean 'mix'"),
        ("craft --attack pgd+mix --dataset TINY", "expected an attack among|got 'mix'"),
        ("craft --attack pgd+pgd --dataset TINY", "each attack once|pgd+pgd"),
        ("craft --attack pgd+dap --dataset TINY --steps 3", "pgd, dap|--dap.steps|got --steps"),
        ("craft --attack pgd+dap --dataset TINY --dc.rate 3", "pgd, dap|--dap.rate|got --dc.rate"),
        (
            "craft --attack pgd+dap --dataset TINY --dap.stepz 3",
            "dap has no|--dap.stepz|'--dap.steps'",
        ),
        ("craft --attack mix --datset TINY", "--datset|did you mean '--dataset'"),
        (CRAFT + "--profile papr", "it has paper|'papr'|did you mean 'paper'"),
        (CRAFT + "--model mnist_cnn", "cifar-resnet18|did you mean 'mnist-cnn'"),
        (CRAFT + "--preset quik", "one of quick, colour|'quik'|did you mean 'quick'"),
        (
            CRAFT + "--preset colour",
            "expected --preset colour to choose the data set|--preset quick",
        ),
        (CRAFT + "--selection stratifid", "uniform|did you mean 'stratified'"),
        (CRAFT + "--device tpu", "cuda:N|'tpu'"),
        (CRAFT + "--device cpu:1", "cuda:N|'cpu:1'"),
        (CRAFT + "--ratio 0.5", "pgd has no option --ratio|--epsilon, --steps"),
        (CRAFT + "--step 3", "--step;|did you mean '--steps'"),
        (CRAFT + "--epsilon", "--epsilon|a value after it"),
        (CRAFT + "--epsilon --steps 3", "--epsilon|a value after it|--steps"),
        (CRAFT + "--epsilon 0.1 --epsilon 0.2", "--epsilon|once"),
        (CRAFT + "--trial 1 --trial 2", "--trial|once"),
        (CRAFT + "--json --json", "--json|once"),
        (CRAFT + "--model --json", "--model|a value after it|--json"),
        (CRAFT + "--epsilon -0.1", "(0, 1]|-0.1"),
        (CRAFT + "--epsilon 0", "(0, 1]|got 0"),
        (CRAFT + "--epsilon 256/255", "(0, 1]|1.003"),
        (CRAFT + "--epsilon nan", "--epsilon|a number|'nan'"),
        (CRAFT + "--epsilon 1/0", "--epsilon|a number|'1/0'"),
        (CRAFT + f"--epsilon {'9' * 400}/1", "--epsilon|a number"),
        (CRAFT + "--steps 2.5", "--steps|whole number|'2.5'"),
        (CRAFT + "--batch-size 1000000000000000000000000", "--batch-size|at most 9 digits"),
        (CRAFT + "--augment flip", "crop-flip|'flip'"),
        (CRAFT + "--rho 0", "(0, 1]|got 0"),
        (CRAFT + "--rho 1.1", "(0, 1]|got 1.1"),
        (CRAFT + "--rho nan", "(0, 1]|got nan"),
        (CRAFT + "--rho x", "--rho|number|'x'|craft --help"),
        (CRAFT + "--seed -1", "--seed|0|'-1'|craft --help"),
        (CRAFT + "--seed x", "--seed|integer|'x'"),
        (CRAFT + "--trial -1", "--trial|0|'-1'|craft --help"),
        (CRAFT + "junk", "an option|'junk'"),
        (CRAFT + "-x", "an option|'-x'"),
        ("craft --dataset TINY", "--attack|craft --help"),
        ("defend --dataset TINY", "--method|defend --help"),
        ("defend --method nonee --dataset TINY", "none, hint|did you mean 'none'"),
        (NONE + "--ratio 0.5", "none has no option --ratio|--epochs"),
        (NONE + "--clen", "--clen|did you mean '--clean'"),
        ("defend --methd none --dataset TINY", "--methd|did you mean '--method'"),
        ("craft --atack=pgd --dataset TINY", "--atack|did you mean '--attack'"),
        (NONE + "--model mnist-cn", "did you mean 'mnist-cnn'"),
        (NONE + "--rho 1.2", "[0, 1]|1.2"),
        (NONE + "--rho -0.2", "[0, 1]|-0.2"),
        (NONE + "--rho 0.2 --clean", "--rho|--clean"),
        (NONE + "--rho 0.2 --poison x", "--rho|--poison"),
        (NONE + "--selection uniform --poison x", "--selection with --attack|--poison"),
        (
            NONE + "--rho 0.2 --selection uniform --poison-trial 3 --poison x",
            "--rho, --selection, --poison-trial with --attack|--poison|leave them out",
        ),
        (NONE + "--poison-trial 3 --clean", "--poison-trial with --attack|--clean|leave it out"),
        (NONE + "--poison x --pgd.epochs 3", "--pgd.epochs with an attack|got none"),
        (NONE + "--poison x --attack-model mnist-cnn", "--attack-model|a surrogate, got x"),
        (NONE + "--attack pgd --clean", "one of|--attack, --clean"),
        (NONE + "--attack pgd --poison x", "one of|--attack, --poison"),
        (NONE + "--poison x --clean", "one of|--poison, --clean"),
        (NONE + "--attack gpd", "did you mean 'pgd'"),
        (NONE + "--trials 0", "--trials|1|'0'"),
        (NONE + "--trial -1", "--trial|0|'-1'"),
        (NONE + "--poison-trial -1", "--poison-trial|0|'-1'"),
        (NONE + "--epochs 0", "epochs|at least 1|0"),
        (NONE + "--learning-rate inf", "--learning-rate|a number|'inf'"),
        (NONE + "--momentum 1", "[0, 1)|1.0"),
        (HINT + "--ratio 0", "(0, 1]|0.0"),
        (HINT + "--ratio 1.2", "(0, 1]|1.2"),
        (HINT + "--ratio half", "--ratio|a number|'half'"),
        (HINT + "--ratio nan", "--ratio|a number|'nan'"),
        (HINT + "--profile codee", "paper, code|did you mean 'code'"),
        (HINT + "--epochs 3 --schedule 5", "before epoch 3|(5,)"),
        (HINT + "--schedule a", "--schedule|whole number|'a'"),
        (HINT + "--schedule 0", "at least 1|(0,)"),
        ("report --table 9", "1 (data sets and models)|'9'|--table"),
        ("report --table 2 --format htm", "markdown|did you mean 'html'"),
        ("report --table 2 --dataset mnit", "cifar10|did you mean 'mnist'"),
        ("report --json --format csv", "--json|--format csv"),
        ("report --tabel 2", "--tabel|--table|report --help"),
        ("report 2", "(2)|report --help"),
        ("report --table", "--table|a value after it"),
        ("inspect", "PATH|inspect --help"),
    ],
)
def test_usage_error(line, fragments, tiny, results):
    message = refused(2, results, *(tiny if word == "TINY" else word for word in line.split()))
    for fragment in fragments.split("|"):
        assert fragment in message


@pytest.mark.parametrize(
    ("line", "fragments"),
    [
        ("data show fashion-mnits", "did you mean 'fashion-mnist'"),
        ("data show", "NAME|data show --help"),
        ("data show mnist-sample --seed -1", "--seed|'-1'"),
        ("data fetch npz:x.npz", "downloaded|npz:x.npz"),
        ("list attack", "'attack'|'attacks'"),
        ("list attacks pdg", "pgd, dap, durp, dc|did you mean 'pgd'"),
        ("list attacks mixx", "mix-no-durp|did you mean 'mix'"),
        ("list defenses hintt", "did you mean 'hint'"),
        ("craf", "'craf'|'craft'|poisonbench --help"),
        ("--foo", "--foo"),
        ("craft --attack", "--attack|argument|poisonbench --help"),
    ],
)
def test_usage_error_without_a_results_folder(line, fragments):
    outcome = cli(*line.split())
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    for fragment in fragments.split("|"):
        assert fragment in outcome.err


def test_a_device_that_is_not_there(tiny, results, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for device in ("cuda", "cuda:0"):
        words = ("craft", "--attack", "pgd", "--dataset", tiny, "--device", device)
        message = refused(2, results, *words)
        assert f"'{device}' where there are 0; use --device cpu" in message


def test_images_too_small_for_the_network_are_found_before_the_poison_is_made(tmp_path, results):
    path = tmp_path / "small.npz"
    np.savez(path, **tiny_arrays(side=12))
    for command in (("craft", "--attack", "pgd"), ("defend", "--method", "none")):
        message = refused(2, results, *command, "--dataset", f"npz:{path}")
        assert "at least 16 x 16 pixels, got 12 x 12" in message


def test_a_misspelt_model_is_found_before_the_poison_is_made(tiny, results):
    words = ("--dataset", tiny, "--attack", "durp", "--model", "mnist-cn")
    assert "crafting" not in refused(2, results, "defend", "--method", "none", *words)


# Data: 65.


def test_an_absent_data_set_says_where_its_files_go(tmp_path, results):
    for name, folder in (("mnist", "MNIST/raw"), ("cifar10", "cifar-10-batches-py")):
        words = ("craft", "--attack", "pgd", "--dataset", name, "--data-root", tmp_path / "data")
        message = refused(65, results, *words)
        assert str(tmp_path / "data" / folder) in message
        assert f"poisonbench data fetch {name}" in message


def change_label(arrays):
    arrays["y_test"][3] = 4


def change_training_label(arrays):
    arrays["y_train"][3] = 9


def change_type(arrays):
    arrays["x_train"] = arrays["x_train"] / 255


def drop_a_label(arrays):
    arrays["y_train"] = arrays["y_train"][1:]


def drop_an_array(arrays):
    del arrays["y_test"]


def empty_the_test_split(arrays):
    arrays["x_test"], arrays["y_test"] = arrays["x_test"][:0], arrays["y_test"][:0]


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (change_label, "expected labels in 0..3, got 4 in test"),
        (change_training_label, "number the classes from 0 without gaps"),
        (change_type, "expected images of type uint8 (0..255), got float64"),
        (drop_a_label, "expected one integer label for each of 300 images"),
        (drop_an_array, "without y_test"),
        (empty_the_test_split, "expected images in the test split, got none"),
    ],
)
def test_npz_of_another_form(change, fragment, tmp_path, results):
    arrays = tiny_arrays()
    change(arrays)
    np.savez(tmp_path / "bad.npz", **arrays)
    words = ("--method", "none", "--clean", "--dataset", f"npz:{tmp_path / 'bad.npz'}")
    assert fragment in refused(65, results, "defend", *words)


def test_npz_that_is_missing_or_cut_short(tiny, tmp_path, results):
    words = ("craft", "--attack", "pgd", "--dataset", f"npz:{tmp_path / 'bad.npz'}")
    assert "found none; check the path" in refused(65, results, *words)
    whole = Path(tiny.partition(":")[2]).read_bytes()
    (tmp_path / "bad.npz").write_bytes(whole[: len(whole) // 2])
    assert "expected a .npz file with the arrays x_train" in refused(65, results, *words)


def test_folder_of_images_of_another_form(tmp_path, results):
    words = ("defend", "--method", "none", "--clean", "--dataset", f"folder:{tmp_path / 'photos'}")
    assert "found none; make train/CLASS/" in refused(65, results, *words)
    (tmp_path / "photos" / "train").mkdir(parents=True)
    assert "got an empty folder" in refused(65, results, *words)
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            folder = tmp_path / "photos" / part / label
            folder.mkdir(parents=True)
            for number in range(3):
                Image.new("L", (16, 16), number).save(folder / f"{number}.png")
    odd = tmp_path / "photos" / "train" / "cat" / "9.png"
    Image.new("L", (16, 20)).save(odd)
    message = refused(65, results, *words)
    assert "images of one size" in message
    assert f"16x20 in {odd}" in message
    odd.write_bytes(b"no image")
    assert f"{odd}: expected a readable image" in refused(65, results, *words)


# A results folder that cannot be written: 73, before the long run.


def test_a_file_in_the_place_of_the_results_folder(tiny, tmp_path):
    (tmp_path / "results").write_text("in the way")
    for words in (("craft", "--attack", "pgd"), ("defend", "--method", "none")):
        for results in (tmp_path / "results", tmp_path / "results" / "inner"):
            outcome = cli(*words, "--dataset", tiny, "--results", results)
            assert outcome.code == 73
            assert outcome.err.startswith(f"error: cannot write to {results}: ")
            assert "name another folder or make room in this one" in outcome.err
            assert outcome.err.count("\n") == 1
    assert (tmp_path / "results").read_text() == "in the way"


@pytest.mark.parametrize("inner", ["runs", "poisons", "checkpoints", "models"])
def test_a_file_in_the_place_of_an_inner_folder(inner, tiny, results):
    results.mkdir()
    (results / inner).write_text("in the way")
    for words in (("craft", "--attack", "pgd"), ("defend", "--method", "none")):
        message = refused(73, results, *words, "--dataset", tiny)
        assert f"cannot write to {results / inner}: " in message


def test_a_disk_that_is_full_at_the_end_leaves_nothing_half_made(tiny, results, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("poisonbench.core.files.os.fsync", full)
        words = ("defend", "--method", "none", "--dataset", tiny, "--epochs", "1")
        for more, folder in ((("--clean",), "runs"), (("--attack", "durp"), "poisons")):
            message = last_line(73, results, *words, *more)
            assert f"cannot write to {results / folder}" in message
            assert "No space left on device" in message
    assert files_in(results) == []
    done(*words, "--clean", "--results", results)


def test_an_output_file_that_cannot_be_written(results):
    results.mkdir()
    outcome = cli("report", "--results", results, "--output", "/dev/null/table", "--quiet")
    assert outcome.code == 73
    assert outcome.err.count("\n") == 1
    # The option is --output; others' are --preview, --out or --scratch.
    assert "--results" not in outcome.err


# What goes wrong later.


def test_a_run_that_diverges_says_what_to_change_and_leaves_its_reason(tiny, results):
    words = ("--method", "none", "--clean", "--dataset", tiny, "--learning-rate", "1e30")
    assert "lower --learning-rate" in last_line(1, results, "defend", *words)
    (path,) = files_in(results)
    assert path.name.endswith(".failed.json")
    failure = json.loads((results / path).read_text())
    assert (failure["state"], failure["epoch"]) == ("failed", 1)
    assert "finite training loss" in failure["reason"]
    assert done("report", "--results", results, "--quiet", "--missing").out != ""


def test_an_unexpected_error_is_not_hidden(tiny, results, monkeypatch):
    def break_down(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr("poisonbench.training.trainer.Trainer.fit", break_down)
    with pytest.raises(RuntimeError, match="a bug"):
        cli("defend", "--method", "none", "--clean", "--dataset", tiny, "--results", results)
