"""What is released: the wheel's files, workflows, forms, and what they say of versions."""

import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import poisonbench
from helpers.command_line import cli, done
from helpers.marks import LONG
from poisonbench.cli import selftest
from poisonbench.cli.main import main

ROOT = Path(poisonbench.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

pytestmark = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").exists(), reason="not run from a checkout"
)


def test_the_wheel_holds_every_file_of_the_package():
    builders = pytest.importorskip("hatchling.builders.wheel", reason="hatchling builds the wheel")
    builder = builders.WheelBuilder(str(ROOT))
    included = {file.distribution_path for file in builder.recurse_included_files()}
    # Ignored ones are no part of the project.
    listed = subprocess.run(
        ["git", "ls-files", "poisonbench"], capture_output=True, text=True, cwd=ROOT, check=False
    ).stdout.split()
    if not listed:
        pytest.skip("not a git checkout")
    assert {name for name in listed if (ROOT / name).exists()} <= included
    assert {f"poisonbench/{name}" for name in selftest.PACKAGED} <= included


def test_every_file_that_selftest_looks_for_is_there():
    assert all((ROOT / "poisonbench" / name).is_file() for name in selftest.PACKAGED)


def read_yaml(path):
    yaml = pytest.importorskip("yaml", reason="PyYAML reads workflows")
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda p: p.name)
def test_workflows_and_forms_are_yaml_with_what_github_needs(path):
    value = read_yaml(path)
    if path.parent.name == "workflows":
        # YAML 1.1 reads the key `on` as true.
        assert value[True]
        for job in value["jobs"].values():
            assert job["runs-on"]
            assert all(("run" in step) != ("uses" in step) for step in job["steps"])
    elif path.name != "config.yml":
        assert value["name"]
        assert value["description"]
        ids = [part["id"] for part in value["body"]]
        assert len(set(ids)) == len(ids)
    if path.name == "bug.yml":
        (doctor,) = [part for part in value["body"] if part["id"] == "doctor"]
        assert doctor["validations"]["required"]


def test_versions_agree():
    version = poisonbench.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_lowest_versions_are_the_bounds():
    spec = importlib.util.spec_from_file_location("lowest", ROOT / ".ci" / "lowest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.lowest("numpy>=2.0") == "numpy==2.0.*"
    assert module.lowest("plain") == ""
    assert all(map(module.lowest, PROJECT["dependencies"]))


def test_what_the_policy_names_exists():
    text = (ROOT / "docs" / "releases.md").read_text()
    names = re.findall(r"\btests/[\w/]+(?:\.py)?", text)
    assert names
    assert all((ROOT / name).exists() for name in names)
    for place in (text, PROJECT["description"], (ROOT / "CITATION.cff").read_text()):
        assert "2410.08811" in place


# selftest


@pytest.mark.slow
@LONG
def test_selftest_finds_all_well():
    outcome = done("selftest", "--json").json
    assert outcome["ok"], outcome
    names = {row["name"] for row in outcome["checks"]}
    assert {"package data", "budget", "poison, twice", "hint, twice", "edited poison"} <= names
    assert "| torch | " in outcome["block"]


@pytest.mark.parametrize(
    ("part", "value", "name"),
    [("DRAWS", "other", "draws of a seed"), ("PACKAGED", ("gone.toml",), "package data")],
)
def test_selftest_says_what_is_amiss(monkeypatch, part, value, name):
    monkeypatch.setattr(selftest, part, value)
    monkeypatch.setattr(selftest, "_runs", lambda folder: iter(()))
    outcome = cli("selftest", "--json")
    assert outcome.code == 1
    assert [row["name"] for row in outcome.json["checks"] if not row["ok"]] == [name]


def test_selftest_names_a_command_that_fails(monkeypatch):
    def broken(words):
        return 65 if words[0] == "craft" else main(words)

    monkeypatch.setattr("poisonbench.cli.main.main", broken)
    (row,) = [own for own in selftest._checks(ROOT) if not own.is_well]
    assert row.name == "commands"
    assert "poisonbench craft" in row.detail
    assert "65" in row.detail
