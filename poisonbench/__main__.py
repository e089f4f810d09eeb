"""``python -m poisonbench`` and the ``poisonbench`` script."""

import sys

from poisonbench.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
