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

TRIGGER, LEARNED = {"has_trigger": True}, {"has_trigger": True, "learns_trigger": True}


def attack_file(path, body, **options):
    """An attack that returns what an expression gives."""
    given = "".join(f", {name}={value!r}" for name, value in options.items())
    path.write_text(
        "import torch\nfrom poisonbench.entries import AttackEntry\n"
        f"ENTRY = AttackEntry('own', 'x', trains=False{given})\n{NOTHING}{CONFIG}"
        f"def craft(task, config):\n    return {body}\n"
    )
    return path


def trigger_file(path, body, **options):
    """A trigger that flips images, or adds what it has learned."""
    text = attack_file(path, body, **options).read_text().replace("AttackConfig", "TriggerConfig")
    path.write_text(
        f"{text}def stamp(images, config, source):\n"
        "    return (images + source if torch.is_tensor(source) else images.flip(3)).clamp(0, 1)\n"
        "def learn(task, config):\n    return 0.1 + 0 * task.images[0]\n"
    )
    return path
