# Everything sets up its own environment in .venv: `make quickstart` and `make test` work on a fresh machine.
# `make test` is quick; `make test-long` runs the proofs that take long, `make wheel` tries the wheel elsewhere, and
# `make docs` builds the site of docs/ into site/.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: quickstart test test-long docs lint types unit wheel format clean

quickstart: $(READY)
	$(BIN)/python -m experiments.quickstart

test: lint types unit

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

unit: $(READY)
	$(BIN)/python -m pytest

test-long: $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[spark,notebooks,mlflow,wandb]'
	$(BIN)/python -m pytest -m long

docs: $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

wheel: $(READY)
	.ci/wheel $(BIN)/python

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(READY): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, and %s is %s: make PYTHON=..." % (sys.executable, sys.version.split()[0]))'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build *.egg-info
