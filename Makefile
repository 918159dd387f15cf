# Everything happens in .venv; nothing else of the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup demo test lint ui clean

help:  ## show what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

setup: $(VENV)/.ready  ## install the project and its exact versions into .venv

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name it: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@# Modules are compiled when they are first imported; most never are.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
		--constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup  ## the main job on the embedded default: search, compare, pull, predict
	$(BIN)/python -m pipelines.demo

test: setup  ## unit, property, integration and end-to-end tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: setup  ## style, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

ui: setup  ## open the MLflow UI on these runs
	$(BIN)/mlflow ui --backend-store-uri sqlite:///runs/mlflow.db --host 127.0.0.1

clean:  ## remove runs and caches; the environment stays
	rm -rf runs .mypy_cache .ruff_cache .pytest_cache .hypothesis
