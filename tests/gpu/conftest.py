"""What the rehearsal and the tests on a GPU train: a network of few operations, tiny images."""

import pytest

from helpers.rehearsal import tiny_colour, tiny_grey, tiny_network


@pytest.fixture(scope="module")
def small():
    """The network of few operations is everyone's, for all commands of the file."""
    with tiny_network():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The name of a grey data set."""
    return tiny_grey(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def colour(tmp_path_factory):
    """The name of a colour data set."""
    return tiny_colour(tmp_path_factory.mktemp("data"))
