# PYTHON, the interpreter that the environment is made with (>= 3.10); VENV, where it is made.
PYTHON ?= python3
VENV ?= .venv
# For demo: a folder of photographs instead of the embedded ones, and the file to write.
IMAGES ?=
OUT ?= activations.h5
# For test: more arguments of pytest, such as PYTEST_ARGS="-m 'not slow'".
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install

.PHONY: help setup demo test lint bench clean
.DEFAULT_GOAL := help

help: ## list the targets (this)
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.samples ## create .venv and install the package

demo: $(VENV)/.samples ## setup, get ResMem's weights, write activations.h5 of real photographs [IMAGES=DIR]
	@PYTHON=$(BIN)/python ./get_weights.sh
	$(BIN)/extract --model resmem --module features.5.4 $(if $(IMAGES),--images "$(IMAGES)") --out "$(OUT)"

test: lint ## create .venv, install the package for development, run all checks and tests
	@$(BIN)/python -m pytest --numprocesses auto $(PYTEST_ARGS)

lint: $(VENV)/.dev ## ruff and mypy alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev ## run every benchmark (an hour on two quiet cores)
	@set -e; for script in table roofline store decoding threads; do \
		echo "== benchmarks/$$script.py"; $(BIN)/python benchmarks/$$script.py; done

clean: ## remove .venv, caches and build outputs; never a result
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "$(PYTHON) is missing or older than Python 3.10; try make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# The markers make a second run skip the installation until pyproject.toml changes.
$(VENV)/.samples: pyproject.toml | $(VENV)/.made
	$(PIP) --editable '.[samples]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.made
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.samples
