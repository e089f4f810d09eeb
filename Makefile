# quickstart and test set everything up by themselves; the rest assumes that one of them ran.
PYTHON ?= python3
BIN := .venv/bin
RESULTS ?= results/quickstart
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Tests start hundreds of processes: what is compiled is kept, whatever the environment says.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: quickstart test check docs lint format bench clean

quickstart: .venv/installed
	$(BIN)/poisonbench quickstart --results $(RESULTS)

test: .venv/installed-dev check

check: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2

docs: .venv/installed-dev
	docs/build.sh

lint:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format:
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/installed
	$(BIN)/python benchmarks/hint_round.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/hint_overhead.py
	$(BIN)/python benchmarks/defenses.py
	$(BIN)/python benchmarks/filters.py
	$(BIN)/python benchmarks/targeted.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/folding.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/reports.py
	$(BIN)/python benchmarks/verdicts.py
	$(BIN)/python benchmarks/level_search.py

clean:
	rm -rf .venv build dist

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "poisonbench needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --editable .
	touch $@

.venv/installed-dev: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[dev]'
	touch $@
