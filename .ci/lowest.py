"""Print pyproject.toml's lower bounds as constraints: `numpy>=2.0` becomes `numpy==2.0.*`."""

import tomllib
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lowest(line: str) -> str:
    """The constraint of a requirement; a pinned one stays as it is."""
    requirement = Requirement(line)
    bounds = [own.version for own in requirement.specifier if own.operator == ">="]
    return f"{requirement.name}=={bounds[0]}.*" if bounds else ""


def main() -> None:
    """Print a line for each runtime requirement."""
    lines = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]
    print("\n".join(filter(None, map(lowest, lines))))


if __name__ == "__main__":
    main()
