"""``python -m poisonbench`` and the ``poisonbench`` script."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the program and exit with its code."""
    from poisonbench.cli.main import main as run

    sys.exit(run())


if __name__ == "__main__":
    main()
