"""``poisonbench new``: what it writes keeps the contract and runs as it is."""

import pytest

from helpers.command_line import cli, done
from poisonbench.conformance import checks_of
from poisonbench.scaffold import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_conforms_and_runs(kind, tmp_path, results, tiny):
    done("new", kind, "gray-scale", "--output", tmp_path)
    folder = tmp_path / "poisonbench-gray-scale"
    module = folder / "poisonbench_gray_scale.py"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["README.md", "poisonbench_gray_scale.py", "pyproject.toml", "tests"]
    )
    for check in checks_of(module):
        check()
    words = {"--method": "none", "--attack": "durp", "--dataset": tiny, "--epochs": "1"}
    option = {"defense": "--method", "network": "--model", "dataset": "--dataset"}
    words[option.get(kind, "--attack")] = "gray-scale"
    line = [word for pair in words.items() for word in pair]
    assert done("defend", "--plugin", module, *line, "--results", results).out


@pytest.mark.parametrize("name", ["hint", "pgd", "mix", "Gray", "a+b", "class", "1st", "../x"])
def test_a_name_that_is_taken_or_not_valid_is_refused(name, tmp_path):
    outcome = cli("new", "defense", name, "--output", tmp_path)
    assert outcome.code == 2
    assert "error: expected a name" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    done("new", "attack", "gray", "--output", tmp_path)
    text = "mine"
    (tmp_path / "poisonbench-gray/README.md").write_text(text)
    outcome = cli("new", "attack", "gray", "--output", tmp_path)
    assert outcome.code == 2
    assert "nothing is overwritten" in outcome.err
    assert (tmp_path / "poisonbench-gray/README.md").read_text() == text
