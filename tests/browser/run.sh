#!/usr/bin/env bash
# Installs Chromium and what drives it where that is possible and runs the tests of the page in it;
# says so where it is not.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
chromium=${CHROMIUM:-$(command -v chromium || true)}
if [ -z "$chromium" ] && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    { apt-get update && apt-get install --yes --no-install-recommends chromium; } > /dev/null 2>&1 || true
    chromium=$(command -v chromium || true)
fi
if [ -z "$chromium" ]; then
    echo "browser tests skipped: no chromium, and none can be installed here (Debian's package chromium)"
    exit 0
fi
if ! "$python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
    --editable '.[dev,browser]'; then
    echo "browser tests skipped: pip cannot install the extra 'browser' of pyproject.toml here"
    exit 0
fi
CHROMIUM="$chromium" POISONBENCH_BROWSER=1 OMP_NUM_THREADS=1 "$python" -m pytest -rs tests/browser "$@"
