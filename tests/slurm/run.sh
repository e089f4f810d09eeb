#!/usr/bin/env bash
# Starts a SLURM of one node where that is possible and runs its tests; says so where it is not.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
code=0
tests/slurm/start.sh || code=$?
if [ "$code" = 77 ]; then exit 0; fi
[ "$code" = 0 ] || exit "$code"
POISONBENCH_SLURM=1 POISONBENCH_LONG=1 OMP_NUM_THREADS=1 "$python" -m pytest -rs \
    tests/slurm tests/end_to_end/test_cluster_docs.py::test_by_slurm "$@"
