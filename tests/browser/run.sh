#!/usr/bin/env bash
# Installs Debian's Chromium and what drives it where that is possible and runs the tests of the page
# in it; says why where it is not.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

skip() { echo "browser tests skipped: $1"; exit 0; }

chromium=${CHROMIUM:-$(command -v chromium || true)}
if [ -z "$chromium" ]; then
    [ "$(id -u)" = 0 ] || skip "no chromium, and only root can install Debian's package chromium"
    command -v apt-get > /dev/null || skip "no chromium, and no apt-get to install Debian's package with"
    export DEBIAN_FRONTEND=noninteractive
    (apt-get update && apt-get install --yes --no-install-recommends chromium) > "$log" 2>&1 ||
        skip "Debian's package chromium could not be installed: $(tail -1 "$log")"
    chromium=$(command -v chromium) || skip "the package chromium of this system has no command chromium"
fi
"$python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
    --editable '.[dev,browser]' > "$log" 2>&1 ||
    skip "pip could not install the extra 'browser' of pyproject.toml: $(tail -1 "$log")"
"$chromium" --headless --no-sandbox --dump-dom about:blank > "$log" 2>&1 ||
    skip "$chromium does not start: $(tail -1 "$log")"
CHROMIUM="$chromium" POISONBENCH_BROWSER=1 OMP_NUM_THREADS=1 "$python" -m pytest -rs tests/browser "$@"
