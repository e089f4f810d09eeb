#!/usr/bin/env bash
# Installs Sphinx where that is possible and builds the site into build/docs; a warning is an error.
# Says why where it cannot be installed.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

"$python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
    --editable '.[docs]' > "$log" 2>&1 ||
    { echo "docs not built: pip could not install the extra 'docs' of pyproject.toml: $(tail -1 "$log")"; exit 0; }
OMP_NUM_THREADS=1 "$python" -m sphinx --quiet --fail-on-warning --keep-going docs build/docs
echo "docs: build/docs/index.html"
