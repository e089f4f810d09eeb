"""The doctor: what it finds well, and what it does not."""

import os

import pytest

from helpers.command_line import cli, done
from poisonbench.runs import self_test
from poisonbench.sweep import folder_checks
from poisonbench.sweep.folder_checks import check_folder


def test_a_healthy_place(tmp_path):
    outcome = done("doctor", "--results", tmp_path / "r", "--data-root", tmp_path, "--json").json
    rows = {row["name"]: row for row in outcome["checks"]}
    assert outcome["ok"]
    assert rows["exclusive create"]["detail"].startswith("4 processes made each of 50 files once")
    assert "each whole" in rows["atomic rename"]["detail"]
    assert "data fetch mnist" in rows["mnist"]["detail"]
    assert rows["torch"]["ok"]
    # The folder was not there, and is not made.
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_there_stays_as_it_is(tmp_path):
    (tmp_path / "r").mkdir()
    done("doctor", "--results", tmp_path / "r", "--data-root", tmp_path)
    assert os.listdir(tmp_path / "r") == []
    done("doctor", "--results", tmp_path / "r" / "deep" / "er", "--data-root", tmp_path)
    assert os.listdir(tmp_path / "r") == []


def test_damaged_data_is_a_fault(tmp_path):
    (tmp_path / "cifar10.npz").write_bytes(b"not a zip")
    outcome = cli("doctor", "--results", tmp_path / "r", "--data-root", tmp_path)
    assert outcome.code == 1
    (line,) = [text for text in outcome.out.splitlines() if text.startswith("BAD")]
    assert "cifar10.npz" in line


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    outcome = cli("doctor", "--results", tmp_path / "file" / "r", "--data-root", tmp_path)
    assert outcome.code == 1
    assert outcome.err == ""
    (bad,) = [text for text in outcome.out.splitlines() if text.startswith("BAD")]
    assert f"results folder      cannot write to {tmp_path / 'file' / 'r'}: " in bad
    assert outcome.out.splitlines()[-1].startswith("ok  SLURM")
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_system_without_exclusive_create_or_atomic_rename_is_seen(tmp_path, monkeypatch):
    race = folder_checks._RACE.replace("os.O_CREAT | os.O_EXCL", "os.O_CREAT")
    monkeypatch.setattr(folder_checks, "_RACE", race)
    replace = folder_checks._REPLACE.replace('path + ".new"', "path")
    monkeypatch.setattr(folder_checks, "_REPLACE", replace)
    checks = {check.name: check for check in check_folder(tmp_path)}
    assert not checks["exclusive create"].is_well
    assert "made 50 files 200 times" in checks["exclusive create"].detail
    assert not checks["atomic rename"].is_well
    assert "torn" in checks["atomic rename"].detail
    assert checks["rename of folders"].is_well


@pytest.fixture
def folders(tmp_path):
    return ("--results", tmp_path / "r", "--data-root", tmp_path)


def test_a_device_is_tested_on_demand(folders):
    text = done("doctor", "--device", "cpu", *folders).out
    block = text[text.index("| self-test |") :]
    for name in ("determinism", "bfloat16", "speed float32", "speed bfloat16"):
        assert f"| {name} | ok: " in block
    assert "| device | cpu |" in block


def test_a_device_that_is_not_there_is_said(folders):
    outcome = cli("doctor", "--device", "cuda:99", *folders)
    assert outcome.code == 2
    assert "expected a CUDA device that exists, got 'cuda:99'" in outcome.err


def test_a_training_that_is_not_the_same_twice_is_a_fault(folders, monkeypatch):
    draws = iter(range(100))

    def another(*tensors):
        return f"{next(draws):016}"

    monkeypatch.setattr(self_test, "digest_tensors", another)
    outcome = cli("doctor", "--device", "cpu", *folders, "--json")
    assert outcome.code == 1
    rows = {row["name"]: row["ok"] for row in outcome.json["checks"]}
    assert not rows["determinism"]
    assert rows["bfloat16"]
