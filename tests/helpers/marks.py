"""Marks that several files of tests share."""

import os

import pytest

#: What takes minutes, or repeats at full length what shorter tests hold.
LONG = pytest.mark.skipif("POISONBENCH_LONG" not in os.environ, reason="long: POISONBENCH_LONG=1")
