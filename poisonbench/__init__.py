"""poisonbench: a benchmark of data-poisoning attacks against defenses."""

__version__ = "0.1.0"
