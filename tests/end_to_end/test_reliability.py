"""Short versions of the reliability runs; ``tests/helpers/reliability.py`` has the long ones."""

import os

import pytest

from helpers import reliability
from helpers.marks import LONG


@LONG
@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing(tmp_path):
    figures, is_well = reliability.kills(tmp_path, 5)
    assert is_well, figures
    assert figures["folders completed"] >= 3


@LONG
@pytest.mark.slow
def test_many_processes_on_the_same_runs_make_each_once(tmp_path):
    figures, is_well = reliability.duplicates(tmp_path, 3)
    assert is_well, figures


@LONG
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system: root alone")
def test_a_full_disk_breaks_nothing(tmp_path):
    try:
        figures, is_well = reliability.full_disk(tmp_path)
    except PermissionError as error:
        # Containers commonly forbid mounts even to root; what they lack is no fault of the store.
        pytest.skip(str(error))
    assert is_well, figures


def test_damaged_files_are_refused(tmp_path):
    figures, is_well = reliability.mutations(tmp_path, 300)
    assert is_well, figures
