"""The files of docs/own-methods.md, and pieces of other people's modules."""

import re
import tomllib
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/own-methods.md"
#: The page's files by name, its commands, and what it says of a package.
FILES = dict(re.findall(r"`(\w+\.py)`:\n\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
COMMANDS = re.findall(r"^    poisonbench (.+)$", PAGE.read_text(), re.MULTILINE)
(PROJECT,) = map(tomllib.loads, re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL))

#: What modules of methods need, and nothing more.
NOTHING = "VERSION = 1\nPROFILES = {}\n"
CONFIG = """
from dataclasses import dataclass
from poisonbench.attacks.base import AttackConfig
@dataclass(frozen=True, kw_only=True)
class Config(AttackConfig):
    pass
"""
EMPTY_DEFENSE = (
    "from poisonbench.defenses import none\n"
    "from poisonbench.defenses.none import Config, PROFILES, VERSION, build\n"
    "from poisonbench.entries import DefenseEntry\n"
)
