"""The command line's contract: stdout is the result, --json is one object, codes, list, inspect."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import poisonbench
from helpers.command_line import SHORT, cli, done, files_in, refused
from poisonbench.cli.session import choose_dataset
from poisonbench.registry import MIXES, NETWORKS, OUTSIDE_NETWORKS, attacks, defenses
from poisonbench.tables.catalogue import TABLES


@pytest.fixture(scope="module")
def filled(tiny, artefact, tmp_path_factory):
    """A results folder with one record."""
    results = tmp_path_factory.mktemp("filled") / "results"
    done(
        *("defend", "--method", "hint", *SHORT, "--dataset", tiny, "--poison", artefact),
        *("--results", results),
    )
    return results


def test_version_and_help():
    assert done("--version").out == f"{poisonbench.__version__}\n"
    outcome = done("--help")
    for command in ("craft", "defend", "report", "list", "inspect", "data"):
        assert f"\n  {command} " in outcome.out
        assert f"poisonbench {command}" in done(command, "--help").out
    assert outcome.err == ""


def test_the_help_of_trials_leaves_their_number_to_the_table():
    words = " ".join(done("sweep", "plan", "--help").out.split())
    assert "Trials of each cell; the table's own number if not said." in words


def test_attacks_that_do_no_harm_on_grey_images_say_so():
    rows = done("list", "attacks", "--json").json
    harmless = {name for name, text in rows.items() if "grey (does no harm) and colour" in text}
    assert harmless == {"ar", "ops"}
    assert "; grey and colour" in rows["pgd"]


def test_a_defense_that_changes_images_within_a_norm_says_which():
    rows = done("list", "defenses", "--json").json
    of = {name: text.partition("; norm ")[2].partition("; ")[0] for name, text in rows.items()}
    assert {name: norm for name, norm in of.items() if norm} == {
        **dict.fromkeys(("hint", "friends", "robust-features", "at"), "linf"),
        "atda": "l2, or linf with --profile linf",
    }
    images = re.compile("; (grey and colour|colour alone)(; also .+:.+)?")
    assert all(images.search(text).end() == len(text) for text in rows.values())


def test_a_mix_is_shown_like_an_attack():
    images = "norm linf; cost that of its parts; grey and colour"
    text = (
        "equal shares of pgd, dap, dc, no DURP; untargeted: a reading of the paper's poison; "
        + images
    )
    assert done("list", "attacks", "mix-no-durp").out == (
        f"mix-no-durp: {text}; an option takes its attack's name, as --dc.rounds 50, and is listed "
        "with it: `poisonbench list attacks dc`\n"
    )
    assert done("list", "attacks", "mix-no-durp", "--json").json == {"mix-no-durp": text}
    # One of a user's own is what craft takes for one.
    own = done("list", "attacks", "tap+pgd", "--json").json
    assert own == {"tap+pgd": f"equal shares of tap, pgd; untargeted; {images}"}
    assert done("list", "attacks", "tap+pgd").out.startswith(f"tap+pgd: {own['tap+pgd']}; ")
    both = done("list", "attacks", "tap+lsp").out
    assert "; norm linf and l2; " in both
    for name, fault in (("pgd+gm", "got gm; a targeted"), ("pgd+pdg", "got 'pdg'; did you mean")):
        outcome = cli("list", "attacks", name)
        assert (outcome.code, outcome.out) == (2, "")
        assert fault in outcome.err


def test_json_is_one_object_everywhere(tiny, filled, artefact, results):
    words = ("--dataset", tiny, "--results", results, "--json")
    lines = [
        ("craft", "--attack", "durp", *words),
        ("defend", "--method", "none", "--clean", "--epochs", "1", *words),
        ("defend", "--method", "none", "--clean", "--epochs", "1", "--trials", "2", *words),
        ("report", "--results", filled, "--json"),
        ("report", "--results", filled, "--json", "--missing"),
        ("inspect", artefact, "--json"),
        ("inspect", next((filled / "runs").iterdir()), "--json"),
        ("list", "attacks", "--json"),
        ("list", "attacks", "pgd", "--json"),
        ("list", "defenses", "--json"),
        ("list", "defenses", "hint", "--json"),
        ("list", "defenses", "none", "--json"),
        ("list", "datasets", "--json"),
        ("list", "models", "--json"),
        ("list", "tables", "--json"),
        ("data", "list", "--json"),
        ("data", "show", tiny, "--json"),
        ("data", "fetch", "mnist-sample", "--json", "--quiet"),
    ]
    for line in lines:
        assert isinstance(json.loads(done(*line).out), dict), line


def test_report_has_no_remarks_on_stdout(results):
    results.mkdir()
    outcome = done("report", "--results", results, "--json")
    json.loads(outcome.out)
    assert f"no run records in {results}" in outcome.err
    assert done("report", "--results", results, "--json", "--quiet").err == ""
    assert files_in(results) == []


# list


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("attacks", [*attacks(), *MIXES, "NAME+NAME"]),
        ("defenses", [*defenses()]),
        (
            "datasets",
            [
                *("mnist", "cifar10", "fashion-mnist", "mnist-sample"),
                *("cifar100", "svhn", "gtsrb", "stl10", "tiny-imagenet"),
                *("NAME@SIZE", "NAME@WxH", "npz:PATH", "folder:PATH"),
                *("torchvision:NAME", "hf:PATH"),
            ],
        ),
        ("models", [*(entry.name for entry in NETWORKS), *OUTSIDE_NETWORKS]),
        ("tables", [*TABLES]),
    ],
)
def test_list(what, names):
    outcome = done("list", what)
    assert [line.split()[0] for line in outcome.out.splitlines()] == names
    assert all(len(line.split()) > 1 for line in outcome.out.splitlines())
    assert sorted(done("list", what, "--json").json) == sorted(names)


def test_list_the_options_of_one():
    options = done("list", "defenses", "hint", "--json").json
    assert "--ratio" in options
    assert "(0, 1]" in options["--ratio"]
    assert list(done("list", "defenses", "none", "--json").json) == ["--with-validation"]
    assert done("list", "defenses", "clean-only", "--json").json == {}


# data


def test_data_list():
    assert done("data", "list").out == done("list", "datasets").out
    assert done("data", "list", "--json").json.keys() == {"datasets", "parts", "prefixes"}


def test_data_show(tiny):
    facts = done("data", "show", tiny, "--json").json
    assert facts["sizes"] == {"train": 270, "validation": 30, "test": 80}
    assert facts["image_shape"] == [1, 16, 16]
    assert facts["class_counts"]["test"] == [20, 20, 20, 20]
    text = done("data", "show", tiny).out
    assert facts["digest"] in text
    assert "1 x 16 x 16" in text


def test_data_fetch_of_what_is_there(tmp_path):
    words = ("data", "fetch", "mnist-sample", "--data-root", tmp_path)
    outcome = done(*words)
    assert "nothing to download" in outcome.err
    assert done(*words, "--quiet").err == ""
    assert done(*words, "--quiet").out == outcome.out
    assert files_in(tmp_path) == []


# inspect


def test_inspect_an_artefact(artefact, tiny):
    audit = done("inspect", artefact, "--json").json
    card = json.loads((artefact / "card.json").read_text())
    assert audit["attacks"] == {"durp": 270}
    assert audit["dataset"] == tiny
    assert audit["num_poisons"] == 270
    assert audit["share_of_training_set"] == 1
    assert (audit["epsilon"], audit["levels"]) == (76 / 255, 76)
    assert audit["max_abs_levels"] == card["measured"]["max_abs_levels"] <= 76
    assert sum(audit["poisons_by_class"].values()) == 270
    assert audit["digest"] == card["digest"]
    assert Path(audit["preview"]).is_file()
    assert audit["made_by"] == card["spec"]
    text = done("inspect", artefact).out
    assert card["digest"] in text
    assert text.endswith("sound: seal, rows, data set and budget agree\n")


def test_inspect_a_targeted_artefact(tiny, results, tmp_path):
    words = ("--attack", "noise", "--dataset", tiny, "--target", "5", "--intended-class", "3")
    path = Path(done("craft", *words, "--rho", "0.02", "--results", results).out.strip())
    audit = done("inspect", path, "--json").json
    assert audit["goal"] == json.loads((path / "card.json").read_text())["goal"]
    assert audit["preview"] == str(path / "preview.png")
    text = done("inspect", path).out
    assert (
        "test image 5 of class 1 shall be called 3; poisons of class 3; scenario scratch; "
        "target given\n" in text
    )
    # Elsewhere, from the artefact's one file: the same picture.
    alone, picture = tmp_path / "poison.safetensors", tmp_path / "pictures" / "again.png"
    alone.write_bytes((path / "poison.safetensors").read_bytes())
    assert done("inspect", alone, "--json").json["preview"] is None
    again = done("inspect", alone, "--preview", picture, "--json").json
    assert again["preview"] == str(picture)
    assert picture.read_bytes() == (path / "preview.png").read_bytes()


@pytest.mark.parametrize(
    "words", [("--preview", "a.png"), ("--dataset", "mnist-sample"), ("--seed", "7")]
)
def test_inspect_of_a_record_refuses_what_is_of_a_poison(words, filled):
    (path,) = (filled / "runs").iterdir()
    message = refused(2, filled, "inspect", path.stem, *words)
    assert f"{words[0]}: expected a poison, got the run record {path}; leave it out" in message
    assert not Path(words[1]).exists()


def test_inspect_writes_a_picture_under_no_other_ending(artefact, filled, tmp_path):
    picture = tmp_path / "picture.txt"
    message = refused(2, filled, "inspect", artefact, "--preview", picture)
    assert (
        f"--preview: expected a name that ends with .png, as the picture is one, got {picture}"
        in (message)
    )
    assert not picture.exists()
    assert done("inspect", artefact, "--preview", tmp_path / "P.PNG", "--json").json["preview"]


def test_inspect_by_path_file_or_id(artefact, filled):
    by_path = done("inspect", artefact, "--json").json
    assert (
        done("inspect", artefact.name, "--results", artefact.parents[1], "--json").json == by_path
    )
    by_file = done("inspect", artefact / "poison.safetensors", "--json").json
    assert by_file | {"path": ""} == by_path | {"path": ""}
    (path,) = (filled / "runs").iterdir()
    record = done("inspect", path, "--json").json
    written = json.loads(path.read_text())
    assert len(written.pop("seal")) == 64
    assert record == {**written, "command": record["command"]}
    assert done("inspect", path.stem, "--results", filled, "--json").json == record
    assert done("inspect", path.stem[:6], "--results", filled, "--json").json == record


def test_inspect_asks_for_more_of_an_id_that_several_begin_with(results):
    for name in ("poisons/12ab/card.json", "runs/12cd.json", "runs/34ef.json"):
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_text("{}")
    message = refused(2, results, "inspect", "12")
    assert "poison 12ab, run 12cd" in message
    assert "12ab" in refused(65, results, "inspect", "12a")
    assert "34ef.json" in refused(65, results, "inspect", "3")
    assert "'4'" in refused(65, results, "inspect", "4")


def test_inspect_shows_budgets_as_grey_levels(artefact, filled):
    text = done("inspect", artefact).out
    assert "\nepsilon                 76/255\n" in text
    assert "'epsilon': 76/255" in text
    (path,) = (filled / "runs").iterdir()
    text = done("inspect", path).out
    for shown in ("'beta': 16/255", "'gamma': 0.1"):
        assert shown in text


def test_inspect_a_mix_counts_the_shares(stocked):
    for path in (stocked / "poisons").iterdir():
        audit = done("inspect", path, "--json").json
        if len(audit["attacks"]) > 1:
            assert audit["attacks"] == {"pgd": 40, "dap": 40, "durp": 40, "dc": 40}
            assert audit["share_of_training_set"] == pytest.approx(160 / 270)
            return
    pytest.fail("expected a mix")


def test_inspect_an_artefact_that_was_moved_with_its_data(artefact, tiny, tmp_path):
    """The data set's name holds a path; another may hold the same images."""
    moved = tmp_path / "moved.npz"
    moved.write_bytes(Path(tiny.partition(":")[2]).read_bytes())
    audit = done("inspect", artefact, "--dataset", f"npz:{moved}", "--json").json
    assert audit["dataset"] == f"npz:{moved}"


def test_inspect_a_record(filled, artefact):
    (path,) = (filled / "runs").iterdir()
    text = done("inspect", path).out
    command = done("inspect", path, "--json").json["command"]
    assert text.startswith(f"command: {command}\n  POISON: the folder of the poison")
    # What it repeats is that run.
    words = [str(artefact) if word == "POISON" else word for word in shlex.split(command)]
    done(*words[1:], "--results", filled)
    assert [path] == list((filled / "runs").iterdir())
    for section in ("spec:", "labels:", "metrics:", "digests:", "cost:", "environment:"):
        assert f"{section}\n" in text
    for title in ("curve:", "notes:"):
        assert f"{title}\n" in text
    assert "epoch 3" in text


# How the program ends


def test_folders_from_the_environment(tiny, results, monkeypatch, tmp_path):
    monkeypatch.setenv("POISONBENCH_RESULTS", str(results))
    monkeypatch.setenv("POISONBENCH_DATA", str(tmp_path / "elsewhere"))
    crafted = done("craft", "--attack", "durp", "--dataset", tiny, "--json").json
    assert Path(crafted["path"]).parent == results / "poisons"
    assert str(tmp_path / "elsewhere") in cli("data", "show", "mnist").err


def test_the_default_data_set_is_said(capsys):
    assert choose_dataset(None, None, quiet=False) == "mnist-sample"
    assert "data set: mnist-sample, embedded" in capsys.readouterr().err
    assert choose_dataset(None, None, quiet=True) == "mnist-sample"
    assert choose_dataset(None, "quick", quiet=False) == "mnist-sample"
    assert choose_dataset("mnist-sample", "quick", quiet=False) == "mnist-sample"
    assert choose_dataset(None, "quick", quiet=False, attack="gm") == "mnist-sample@1000"
    assert choose_dataset(None, "quick", quiet=False, attack="pgd") == "mnist-sample"
    for attack in (None, "pgd", "gm"):
        assert choose_dataset(None, "colour", quiet=False, attack=attack) == "cifar10@10000"
    assert choose_dataset("mnist", None, quiet=False) == "mnist"
    assert capsys.readouterr() == ("", "")


def test_interrupt_before_a_run(monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("poisonbench.cli.listing._print", interrupt)
    outcome = cli("list", "attacks")
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "error: interrupted\n")


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_error():
    """A closed pipe, as head leaves behind: no complaint and no code of failure."""
    words = [sys.executable, "-m", "poisonbench", "report", "--missing", "--quiet"]
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        ended = subprocess.run(words, stdout=closed, stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.slow
def test_help_imports_no_torch():
    """So that it answers at once."""
    code = "import sys; from poisonbench.cli.main import main; main(['--help']); " + (
        "main(['report', '--quiet']); main(['list', 'attacks']); sys.exit('torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_the_result_goes_to_a_file_while_the_bar_is_on_a_terminal(tiny, tmp_path):
    """A bar on stderr must not take stdout's lines with it."""
    master, slave = os.openpty()
    out = tmp_path / "out.txt"
    words = ("defend", "--method", "none", "--clean", "--dataset", tiny, "--epochs", "1")
    with out.open("w") as stdout:
        child = subprocess.Popen(
            [sys.executable, "-m", "poisonbench", *map(str, words), "--results", str(tmp_path)],
            stdout=stdout,
            stderr=slave,
        )
        os.close(slave)
        seen = b""
        try:
            while part := os.read(master, 4096):
                seen += part
        except OSError:
            pass  # the terminal's other end is closed: the child has ended
        os.close(master)
        assert child.wait(60) == 0, seen
    assert out.read_text().startswith("none on ")
    assert b"test accuracy" not in seen
