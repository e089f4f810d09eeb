"""Marks that several files of tests share."""

import pytest

#: What takes minutes, or repeats at full length what shorter tests hold; conftest.py skips it.
LONG = pytest.mark.long
