"""The rows that a batch holds: no defense is told them, and tests want to know."""

from unittest.mock import patch

from poisonbench.training.state import TrainingSet


class _WatchedSet(TrainingSet):
    last = None

    def pixels(self, rows):
        _WatchedSet.last = rows
        return super().pixels(rows)


def watched_rows():
    """A context in which :func:`batch_rows` knows the rows of the batch that is trained on."""
    return patch("poisonbench.training.trainer.TrainingSet", _WatchedSet)


def batch_rows():
    """The rows that the training loop read last: in ``perturb_batch`` those of the batch."""
    return _WatchedSet.last
