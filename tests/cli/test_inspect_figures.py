"""Figures of a record's rows as ``inspect`` prints them."""

import numpy as np
import pytest

from poisonbench.cli.inspect import _figure


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("max_abs_noise", 16 / 255, "16/255"),
        ("max_abs_noise", float(np.float32(1) - np.float32(239 / 255)), "16/255"),
        ("mean_abs_noise", 0.0123456, "0.012346"),
        # Of 15 images 14 are right: no grey levels.
        ("validation_accuracy", 14 / 15, "0.93333"),
        ("max_abs_noise", 0.0, "0"),
        ("round", 3, 3),
    ],
)
def test_noise_is_in_grey_levels_and_shares_are_not(name, value, text):
    assert _figure(name, value) == text
