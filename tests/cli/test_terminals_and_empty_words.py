"""A terminal without our letters, and words that an empty shell variable leaves."""

import os
import subprocess
import sys

import pytest

from helpers.command_line import cli


def test_a_terminal_of_ascii_gets_the_table_all_the_same(tmp_path):
    (tmp_path / "ü").mkdir()
    words = [sys.executable, "-m", "poisonbench", "report", "--results", tmp_path / "ü"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "98.44\\xb10.02" in ended.stdout
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("verify", ""), "expected a path, or the beginning of one run's id"),
        (("verify",), "expected run records, got none in"),
        (("inspect", ""), "expected a path, or the id of a poison or run"),
        (("report", "--poison", ""), "''"),
    ],
)
def test_an_empty_word_is_no_folder(words, message, tmp_path, monkeypatch, results):
    """Though ``Path("")`` is the working folder, here one with a poison's file."""
    results.mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "poison.safetensors").write_text("")
    monkeypatch.chdir(tmp_path / "here")
    outcome = cli(*words, "--results", results)
    assert outcome.code in (2, 65), outcome
    assert message in outcome.err
    assert "poison.safetensors" not in outcome.err
