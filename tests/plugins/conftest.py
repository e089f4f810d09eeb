"""The page's files and packages, for the tests of other people's methods."""

import sys

import pytest

from helpers.other_packages import install
from helpers.own_methods import FILES, PROJECT
from poisonbench import plugins


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the page's files."""
    folder = tmp_path_factory.mktemp("own")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Installs distributions into a folder that is on the path."""
    site = tmp_path / "site"
    site.mkdir()

    def installed(name, version, files, points):
        install(site, name, version, files, points)
        monkeypatch.syspath_prepend(site)
        plugins.installed.cache_clear()
        return site

    yield installed
    plugins.installed.cache_clear()
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(site)):
            del sys.modules[name]


@pytest.fixture
def mylab(packages):
    """The page's package, with its entry points."""
    project = PROJECT["project"]
    files = {f"mylab/{name}": text for name, text in FILES.items()}
    return packages(
        project["name"],
        project["version"],
        {"mylab/__init__.py": "", **files},
        project["entry-points"],
    )
