"""Rounds of HINT on a tiny problem, called by hand."""

from helpers.tiny import split, state_of
from poisonbench.defenses.hint import Hint
from poisonbench.training.state import TrainingSet

DATA, VALIDATION = split(30), split(13, seed=1)
BETA = 16 / 255
#: Steps so long that some of the noise, not all, is clipped at beta.
GAMMA = 0.5


def start(config, model, **options):
    """One scheduled round: the training set, the defense (a fresh one unless given), the notes."""
    notes = []
    defense = options.pop("defense", None) or Hint(config)
    options.setdefault("epoch", defense.config.schedule[0])
    state = state_of(model, DATA, VALIDATION, notes=notes, **options)
    return defense.start_epoch(state), defense, notes


def pixels(train: TrainingSet):
    return train.pixels(slice(None)).double()
