"""poisonbench: a benchmark of data-poisoning attacks against defenses."""

from poisonbench.api import craft, defend, load_poison, records

__version__ = "0.1.0"

__all__ = ["__version__", "craft", "defend", "load_poison", "records"]
